//! The sandbox of every process, as data. There is one list: the unit files of processes and the transient
//! units of their commands are both made from it, so that neither can be weaker than the other.
//!
//! Every fixture app runs in it unrelaxed. What is not here has a reason: a JIT needs memory that is writable
//! and executable, runtimes read `/proc/meminfo`, and list interfaces over netlink.

use super::quote::{escape_path, quote};

/// One directive of a `[Service]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name, in unit files and on the bus.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// A value, from which both its spelling in a unit file and its type on the bus follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A flag that is set.
    Yes,
    /// One of the words that the directive knows.
    Word(&'static str),
    /// A name or absolute path, literally.
    Path(String),
    /// No capability.
    NoCapability,
    /// No kind of namespace.
    NoNamespace,
    /// The bits of a file mode.
    Mode(u32),
    /// An error number, with its name.
    Errno(i32, &'static str),
    /// Names of one kind.
    Words(Vec<String>),
    /// Only these.
    Allow(&'static [&'static str]),
    /// All but these.
    Deny(&'static [&'static str]),
    /// A size.
    Bytes(u64),
    /// A folder, and where it is mounted.
    Mount(String, String),
    /// A credential: its name and its file.
    Credential(String, String),
    /// A variable.
    Variable(String, String),
    /// A variable whose value has the instance's number, `%i` in a template.
    Numbered(String, String),
}

impl Setting {
    /// As a line of a unit file.
    pub fn line(&self) -> String {
        let value = match &self.value {
            Value::Yes | Value::NoNamespace => "yes".to_owned(),
            Value::Word(word) => (*word).to_owned(),
            Value::Path(path) => escape_path(path),
            Value::NoCapability => String::new(),
            Value::Mode(bits) => format!("{bits:04o}"),
            Value::Errno(_, name) => (*name).to_owned(),
            Value::Words(words) => words.join(" "),
            Value::Allow(words) => words.join(" "),
            Value::Deny(words) => format!("~{}", words.join(" ")),
            Value::Bytes(bytes) => bytes.to_string(),
            Value::Mount(from, to) => format!("{}:{}", escape_path(from), escape_path(to)),
            Value::Credential(id, path) => format!("{id}:{}", escape_path(path)),
            Value::Variable(name, value) => quote(&format!("{name}={value}")),
            Value::Numbered(name, value) => format!("{name}={value}"),
        };
        format!("{}={value}\n", self.name)
    }
}

/// The sandbox.
pub fn sandbox() -> Vec<Setting> {
    use Value::{Allow, Deny, Errno, Mode, NoCapability, NoNamespace, Word, Words, Yes};
    let settings = [
        ("NoNewPrivileges", Yes),
        ("CapabilityBoundingSet", NoCapability),
        ("AmbientCapabilities", NoCapability),
        ("ProtectSystem", Word("strict")),
        ("ProtectHome", Word("yes")),
        ("PrivateTmp", Yes),
        ("PrivateDevices", Yes),
        ("PrivateMounts", Yes),
        ("ProtectClock", Yes),
        ("ProtectControlGroups", Yes),
        ("ProtectHostname", Yes),
        ("ProtectKernelLogs", Yes),
        ("ProtectKernelModules", Yes),
        ("ProtectKernelTunables", Yes),
        ("ProtectProc", Word("invisible")),
        ("RemoveIPC", Yes),
        ("RestrictAddressFamilies", Allow(&["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"])),
        ("RestrictNamespaces", NoNamespace),
        ("RestrictRealtime", Yes),
        ("RestrictSUIDSGID", Yes),
        ("LockPersonality", Yes),
        ("SystemCallArchitectures", Words(vec!["native".to_owned()])),
        ("SystemCallFilter", Allow(&["@system-service"])),
        ("SystemCallFilter", Deny(&["@privileged", "@resources"])),
        ("SystemCallErrorNumber", Errno(1, "EPERM")),
        ("UMask", Mode(0o077)),
    ];
    settings.into_iter().map(|(name, value)| Setting { name, value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_systemd_reads_them() {
        let line = |name, value| Setting { name, value }.line();
        assert_eq!(line("CapabilityBoundingSet", Value::NoCapability), "CapabilityBoundingSet=\n");
        assert_eq!(line("UMask", Value::Mode(0o77)), "UMask=0077\n");
        assert_eq!(line("SystemCallFilter", Value::Deny(&["@a", "@b"])), "SystemCallFilter=~@a @b\n");
        assert_eq!(line("BindPaths", Value::Mount("/a%".into(), "/b".into())), "BindPaths=/a%%:/b\n");
        assert_eq!(line("Environment", Value::Variable("A".into(), "%i".into())), "Environment=\"A=%%i\"\n");
        assert_eq!(line("Environment", Value::Numbered("A".into(), "%i".into())), "Environment=A=%i\n");
    }
}
