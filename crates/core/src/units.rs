//! The text of every systemd unit, and the names of units, users and folders.
//!
//! Units are real files: `systemctl cat` shows the truth. Nothing in them needs the agent: PID 1 starts,
//! restarts and wakes an app from them alone.

use std::fmt::Write as _;

use deployd_api::ids::{AppName, ListenerName, ProcessName};
use deployd_api::spec::{Address, Drain, Handoff, Process, Spec};

use crate::action::{Instance, Socket, UnitFile};
use crate::state::{Release, Tag};

/// Where units are written.
pub const UNIT_DIR: &str = "/etc/systemd/system";
/// Where the state of apps stands, kept over releases.
pub const STATE_DIR: &str = "/var/lib/deployd-apps";
/// `Backlog=` of every listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// `RestartSec=`: long enough not to spin, short enough to be a blink.
const RESTART_MS: u32 = 500;

/// The user of an app.
pub fn user(app: &AppName) -> String {
    format!("dpl-{app}")
}

/// The slice of an app.
pub fn slice(app: &AppName) -> String {
    format!("deployd-{}.slice", app.unit_part())
}

/// The target that decides what boots.
pub fn target(app: &AppName) -> String {
    format!("deployd-{}.target", app.unit_part())
}

/// The template of a process of one activation.
pub fn template(app: &AppName, process: &ProcessName, tag: Tag) -> String {
    format!("deployd-{}-{}-{tag}@.service", app.unit_part(), process.unit_part())
}

/// One instance of a process of one activation.
pub fn instance(app: &AppName, process: &ProcessName, tag: Tag, number: u32) -> Instance {
    let unit = format!("deployd-{}-{}-{tag}@{number}.service", app.unit_part(), process.unit_part());
    Instance { unit, tag, process: process.clone(), number }
}

/// The template of the proxy in front of a listener with `handoff = "port"`. `_proxy_` cannot come from a
/// process name (a name never ends in `-`), so it cannot collide with a process's template.
pub fn proxy_template(app: &AppName, listener: &ListenerName, tag: Tag) -> String {
    format!("deployd-{}-{}_proxy_-{tag}@.service", app.unit_part(), listener.unit_part())
}

/// A listener of one activation.
pub fn socket(app: &AppName, name: &ListenerName, address: &Address, tag: Tag) -> Socket {
    let unit = match address {
        // A Unix socket has no group: one unit that every release shares, without a label.
        Address::Unix { .. } => format!("deployd-{}-{}.socket", app.unit_part(), name.unit_part()),
        Address::Any { .. } | Address::Ip { .. } => {
            format!("deployd-{}-{}-{tag}.socket", app.unit_part(), name.unit_part())
        }
    };
    Socket { unit, tag, listener: name.clone(), address: address.clone() }
}

/// One activation of a release: everything that is named after it.
#[derive(Debug, Clone, Copy)]
pub struct Activation<'a> {
    /// Which.
    pub tag: Tag,
    /// The release.
    pub release: &'a Release,
}

impl Activation<'_> {
    /// Its spec.
    pub fn spec(&self) -> &Spec {
        &self.release.document.spec
    }

    /// Its sockets, in the order of their names.
    pub fn sockets(&self) -> Vec<Socket> {
        let spec = self.spec();
        spec.listen.iter().map(|(name, l)| socket(&spec.app, name, &l.address, self.tag)).collect()
    }

    /// The sockets that a process serves.
    pub fn sockets_of(&self, process: &ProcessName) -> Vec<Socket> {
        let spec = self.spec();
        spec.listeners_of(process).map(|(name, l)| socket(&spec.app, name, &l.address, self.tag)).collect()
    }

    /// The instances of a process; for `handoff = "port"` its proxies are not among them.
    pub fn instances_of(&self, process: &ProcessName) -> Vec<Instance> {
        let spec = self.spec();
        let count = spec.processes.get(process).map_or(0, |p| p.instances);
        (1..=count).map(|n| instance(&spec.app, process, self.tag, n)).collect()
    }

    /// Every instance.
    pub fn instances(&self) -> Vec<Instance> {
        self.processes().iter().flat_map(|p| self.instances_of(p)).collect()
    }

    /// The proxies in front of a process, one an instance for each of its `port` listeners.
    pub fn proxies_of(&self, process: &ProcessName) -> Vec<Instance> {
        let spec = self.spec();
        let count = spec.processes.get(process).map_or(0, |p| p.instances);
        let ported = spec.listeners_of(process).filter(|(_, l)| l.handoff == Handoff::Port);
        ported
            .flat_map(|(name, _)| {
                let template = proxy_template(&spec.app, name, self.tag);
                (1..=count).map(move |number| Instance {
                    unit: template.replace("@.", &format!("@{number}.")),
                    tag: self.tag,
                    process: process.clone(),
                    number,
                })
            })
            .collect()
    }

    /// The processes, so that what another one waits for comes first.
    pub fn processes(&self) -> Vec<ProcessName> {
        let spec = self.spec();
        let mut sorted: Vec<ProcessName> = Vec::new();
        let mut rest: Vec<&ProcessName> = spec.processes.keys().collect();
        while !rest.is_empty() {
            let ready = rest.iter().position(|name| {
                let p = &spec.processes[*name];
                p.after
                    .iter()
                    .chain(&p.requires)
                    .all(|dep| !rest.iter().any(|r| r.as_str() == dep) || dep == name.as_str())
            });
            // A circle cannot be served; the spec's check refuses it, and here the order just falls back.
            sorted.push(rest.remove(ready.unwrap_or(0)).clone());
        }
        sorted
    }

    /// Folders that a process may write, and where they are mounted in the tree.
    fn mounts(&self, process: &Process) -> Vec<(String, String)> {
        let tree = &self.release.tree;
        let private = tree.replace("/releases/", "/writable/");
        let kept = format!("{STATE_DIR}/{}/shared", self.spec().app);
        let mount =
            |dir: &str, path: &String| (format!("{dir}/{}", folder_name(path)), format!("{tree}/{path}"));
        let writable = process.writable.iter().map(|p| mount(&private, p));
        let mut mounts: Vec<(String, String)> =
            writable.chain(process.shared.iter().map(|p| mount(&kept, p))).collect();
        // The outer one first: what is mounted inside another mount comes after it.
        mounts.sort_by(|a, b| a.1.cmp(&b.1));
        mounts.dedup();
        mounts
    }

    /// The folders of the tree that are private to the release.
    pub fn writable(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.spec().processes.values().flat_map(|p| p.writable.clone()).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The folders of the tree that are kept over releases.
    pub fn shared(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.spec().processes.values().flat_map(|p| p.shared.clone()).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The environment of a process, without what the trampoline adds.
    pub fn env(&self, process: &ProcessName, host: &str, region: Option<&str>) -> Vec<(String, String)> {
        let spec = self.spec();
        let mut env: Vec<(String, String)> = spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut add = |k: &str, v: String| {
            if !spec.env.contains_key(k) {
                env.push((k.to_owned(), v));
            }
        };
        if let Some(port) = spec.listeners_of(process).find_map(|(_, l)| l.address.port()) {
            add("PORT", port.to_string());
        }
        add("DEPLOYD_APP", spec.app.to_string());
        add("DEPLOYD_RELEASE", self.tag.label.to_string());
        add("DEPLOYD_PROCESS", process.to_string());
        add("DEPLOYD_HOST", host.to_owned());
        add("DEPLOYD_REGION", region.unwrap_or_default().to_owned());
        env
    }

    /// Whether a process with a listener may take for ever to end.
    pub fn drains_without_limit(&self) -> bool {
        self.spec().deploy.drain_timeout == Drain::Unlimited
    }

    /// The unit files of its sockets.
    pub fn socket_files(&self) -> Vec<UnitFile> {
        let named = self.spec().listen.keys().zip(self.sockets());
        named.map(|(n, s)| UnitFile { path: path(&s.unit), content: self.socket_text(n, &s) }).collect()
    }

    /// Every unit file of this activation.
    pub fn files(
        &self,
        host: &str,
        region: Option<&str>,
        nonblocking: &dyn Fn(&ProcessName) -> bool,
    ) -> Vec<UnitFile> {
        let spec = self.spec();
        let mut files = Vec::new();
        for (name, listener) in &spec.listen {
            let socket = socket(&spec.app, name, &listener.address, self.tag);
            files.push(UnitFile { path: path(&socket.unit), content: self.socket_text(name, &socket) });
            if listener.handoff == Handoff::Port {
                let unit = proxy_template(&spec.app, name, self.tag);
                files.push(UnitFile { path: path(&unit), content: self.proxy_text(name, &socket) });
            }
        }
        for process in self.processes() {
            let unit = template(&spec.app, &process, self.tag);
            let content = self.service_text(&process, host, region, nonblocking(&process));
            files.push(UnitFile { path: path(&unit), content });
        }
        files
    }

    fn head(&self, what: &str) -> String {
        let app = &self.spec().app;
        format!(
            "# {app} {}: written by deployd, replaced with the next release. Overrides: systemctl edit.\n\
             [Unit]\nDescription={app} {what} {}\n",
            self.tag, self.tag.label
        )
    }

    fn socket_text(&self, name: &ListenerName, socket: &Socket) -> String {
        let spec = self.spec();
        let listener = &spec.listen[name];
        let mut t = self.head(name.as_str());
        let service = match listener.handoff {
            Handoff::Port => proxy_template(&spec.app, name, self.tag).replace("@.", "@1."),
            _ => instance(&spec.app, &listener.process, self.tag, 1).unit,
        };
        let _ = writeln!(t, "\n[Socket]\nListenStream={}", socket.address.listen_stream());
        match &socket.address {
            Address::Any { .. } => t.push_str("BindIPv6Only=both\nReusePort=yes\n"),
            Address::Ip { .. } => t.push_str("BindIPv6Only=ipv6-only\nReusePort=yes\n"),
            Address::Unix { .. } => {
                let user = user(&spec.app);
                let _ = writeln!(t, "SocketUser={user}\nSocketGroup={user}\nSocketMode=0666");
            }
        }
        let _ = writeln!(
            t,
            "Backlog={BACKLOG}\nFileDescriptorName={name}\nService={service}\nTriggerLimitIntervalSec=0"
        );
        t
    }

    fn proxy_text(&self, name: &ListenerName, socket: &Socket) -> String {
        let spec = self.spec();
        let listener = &spec.listen[name];
        let app_unit = template(&spec.app, &listener.process, self.tag).replace("@.", "@%i.");
        let mut t = self.head(&format!("{name} proxy %i"));
        // Wants, not Requires: the app ends first, and the proxy only when it has no connection left.
        let _ = writeln!(t, "Wants={app_unit}\nAfter={app_unit}\nStartLimitIntervalSec=0");
        // Older ones (systemd 252) never say that they are ready: `notify` would wait for ever.
        let _ = writeln!(t, "\n[Service]\nType=exec\nSockets={}\nSlice={}", socket.unit, slice(&spec.app));
        let _ = writeln!(
            t,
            "ExecStart={}/deployd-exec proxy --base-port {} --instance %i",
            self.release.runtime, self.release.base_port
        );
        let _ = writeln!(
            t,
            "User={u}\nGroup={u}\nRestart=always\nRestartSec={RESTART_MS}ms",
            u = user(&spec.app)
        );
        t.push_str(SANDBOX);
        t
    }

    fn service_text(
        &self,
        name: &ProcessName,
        host: &str,
        region: Option<&str>,
        nonblocking: bool,
    ) -> String {
        let spec = self.spec();
        let process = &spec.processes[name];
        let mut t = self.head(&format!("{name} %i"));
        t.push_str("StartLimitIntervalSec=0\n");
        self.dependencies(process, &mut t);
        let notify = spec.checks.values().any(|c| notifies(c, name));
        let kind = if notify { "notify" } else { "exec" };
        let _ = writeln!(t, "\n[Service]\nType={kind}\nSlice={}", slice(&spec.app));
        let sockets: Vec<String> = spec
            .listeners_of(name)
            .filter(|(_, l)| l.handoff != Handoff::Port)
            .map(|(n, l)| socket(&spec.app, n, &l.address, self.tag).unit)
            .collect();
        if !sockets.is_empty() {
            let _ = writeln!(t, "Sockets={}", sockets.join(" "));
            // PID 1 sets or clears O_NONBLOCK on the shared description at every start; this is what the
            // app's event loop was seen to want. A wrong value makes a sibling block in accept().
            let _ = writeln!(t, "NonBlocking={}", if nonblocking { "yes" } else { "no" });
        }
        let _ = writeln!(t, "User={u}\nGroup={u}", u = user(&spec.app));
        let _ = writeln!(t, "WorkingDirectory={}", escape_path(&self.release.tree));
        let _ = writeln!(t, "StateDirectory=deployd-apps/{}\nStateDirectoryMode=0750", spec.app);
        for (key, value) in self.env(name, host, region) {
            let _ = writeln!(t, "Environment={}", quote(&format!("{key}={value}")));
        }
        t.push_str("Environment=DEPLOYD_INSTANCE=%i\n");
        if self.release.beam {
            self.beam_env(&mut t);
        }
        let _ = writeln!(t, "ExecStart={}", self.exec_line(name, process));
        let _ = writeln!(t, "Restart=always\nRestartSec={RESTART_MS}ms");
        let _ = writeln!(t, "KillMode=mixed\nKillSignal={}", process.kill_signal);
        let stop = match (spec.listeners_of(name).next(), spec.deploy.drain_timeout) {
            (Some(_), Drain::Unlimited) => "infinity".to_owned(),
            (Some(_), Drain::Limited(ms)) => format!("{}ms", ms.0),
            (None, _) => format!("{}ms", process.kill_timeout.0),
        };
        // The start is bounded by the deployment's wait_timeout, not by the unit.
        let _ = writeln!(t, "TimeoutStopSec={stop}\nTimeoutStartSec=infinity");
        if let Some(bytes) = process.memory {
            let _ = writeln!(t, "MemoryMax={bytes}");
        }
        for (from, to) in self.mounts(process) {
            let _ = writeln!(t, "BindPaths={}:{}", escape_path(&from), escape_path(&to));
        }
        t.push_str(SANDBOX);
        t
    }

    fn dependencies(&self, process: &Process, t: &mut String) {
        let app = &self.spec().app;
        let unit = |name: &String| match name.parse::<ProcessName>() {
            Ok(p) => instance(app, &p, self.tag, 1).unit,
            Err(_) => name.clone(),
        };
        let after: Vec<String> = process.after.iter().chain(&process.requires).map(unit).collect();
        let requires: Vec<String> = process.requires.iter().map(unit).collect();
        if !after.is_empty() {
            let _ = writeln!(t, "After={}", after.join(" "));
        }
        if !requires.is_empty() {
            let _ = writeln!(t, "Requires={}", requires.join(" "));
        }
    }

    /// Two nodes with one name refuse to overlap, and a release may not write into its own tree.
    fn beam_env(&self, t: &mut String) {
        let spec = self.spec();
        let mut add = |key: &str, value: String| {
            if !spec.env.contains_key(key) {
                let _ = writeln!(t, "Environment={key}={value}");
            }
        };
        let tag = self.tag.to_string().replace('.', "_");
        add("RELEASE_NODE", format!("{}-{tag}-%i", spec.app));
        add("RELEASE_TMP", "/tmp".to_owned());
        // Whoever starts epmd, it listens on loopback only.
        add("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned());
    }

    fn exec_line(&self, name: &ProcessName, process: &Process) -> String {
        let spec = self.spec();
        let runtime = &self.release.runtime;
        let mut words = vec![format!("{runtime}/deployd-exec"), "run".to_owned()];
        let mut ported = false;
        for (listener, l) in spec.listeners_of(name) {
            let word = match l.handoff {
                Handoff::Auto => "auto",
                Handoff::Activation => "activation",
                Handoff::Bind => "bind",
                Handoff::Arg => "arg",
                Handoff::Stdin => "stdin",
                Handoff::Port => "port",
            };
            ported |= l.handoff == Handoff::Port;
            let v6only = match &l.address {
                Address::Ip { ip, .. } if ip.is_ipv6() => "v6only:",
                _ => "",
            };
            words.push("--listener".to_owned());
            words.push(format!("{listener}={word}:{v6only}{}", l.address.listen_stream()));
        }
        words.push("--shim".to_owned());
        words.push(format!("{runtime}/libdeployd_bind.so"));
        let mut line: Vec<String> = words.iter().map(|w| quote_exec(w)).collect();
        if ported {
            line.push(format!("--base-port {} --instance %i", self.release.base_port));
        }
        line.push("--".to_owned());
        line.extend(self.command(&process.exec).iter().map(|w| quote_exec(w)));
        line.join(" ")
    }

    /// A command's words with its program resolved: relative with a `/` means the release's tree.
    pub fn command(&self, words: &[String]) -> Vec<String> {
        let mut words = words.to_vec();
        if let Some(program) = words.first_mut()
            && program.contains('/')
            && !program.starts_with('/')
        {
            *program = format!("{}/{}", self.release.tree, program.trim_start_matches("./"));
        }
        words
    }

    /// The app's target: what boots.
    pub fn target_file(&self) -> UnitFile {
        let app = &self.spec().app;
        let mut t = format!(
            "# What of {app} boots: written by deployd at commit, by one rename.\n[Unit]\nDescription={app} {}\n",
            self.tag.label
        );
        for s in self.sockets() {
            let _ = writeln!(t, "Wants={}", s.unit);
        }
        for p in self.processes() {
            for i in self.instances_of(&p).into_iter().chain(self.proxies_of(&p)) {
                let _ = writeln!(t, "Wants={}", i.unit);
            }
        }
        t.push_str("\n[Install]\nWantedBy=multi-user.target\n");
        UnitFile { path: path(&target(app)), content: t }
    }
}

/// A target that boots nothing: the app was stopped on purpose.
pub fn stopped_target(app: &AppName) -> UnitFile {
    let content = format!(
        "# {app} was stopped on purpose: deployd-ctl --local start -a {app}\n[Unit]\nDescription={app}, stopped\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    UnitFile { path: path(&target(app)), content }
}

/// The slice of an app.
pub fn slice_file(app: &AppName) -> UnitFile {
    let content = format!("# Every process of {app}: written by deployd.\n[Unit]\nDescription={app}\n");
    UnitFile { path: path(&slice(app)), content }
}

/// The link that makes the target part of the boot.
pub fn wanted_by(app: &AppName) -> String {
    format!("{UNIT_DIR}/multi-user.target.wants/{}", target(app))
}

/// The drop-in that says what was learned of a process.
pub fn nonblocking_drop_in(app: &AppName, process: &ProcessName, tag: Tag) -> String {
    format!("{UNIT_DIR}/{}.d/50-nonblocking.conf", template(app, process, tag))
}

/// The path of a unit's file.
pub fn path(unit: &str) -> String {
    format!("{UNIT_DIR}/{unit}")
}

/// A folder name for a path: readable, unique, and without a character that systemd gives a meaning.
pub fn folder_name(path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let readable: String = path.chars().map(plain).take(40).collect();
    format!("{}-{}", readable.trim_start_matches('.'), deployd_api::ids::Digest::of(path.as_bytes()).short())
}

fn notifies(check: &deployd_api::spec::Check, name: &ProcessName) -> bool {
    matches!(&check.kind, deployd_api::spec::CheckKind::Notify { process } if process == name)
}

/// Quotes an assignment for `Environment=`.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '%' => out.push_str("%%"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Quotes a word for `ExecStart=`, where `$` would be replaced too.
fn quote_exec(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+:,=@".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) && word != ";" {
        word.to_owned()
    } else {
        quote(word).replace('$', "$$")
    }
}

/// Paths in directives that take one path: only specifiers matter.
fn escape_path(path: &str) -> String {
    path.replace('%', "%%")
}

/// The sandbox of every process. Every fixture app runs in it unrelaxed.
const SANDBOX: &str = "\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_systemd_quoting() {
        // (word, as it stands in ExecStart=)
        for (word, line) in [
            ("bin/web", "bin/web"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "\"100%%\""),
            ("$HOME", "\"$$HOME\""),
            ("say \"hi\"", "\"say \\\"hi\\\"\""),
            ("it's", "\"it's\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("two\nlines", "\"two\\nlines\""),
            (";", "\";\""),
        ] {
            assert_eq!(quote_exec(word), line);
        }
    }

    #[test]
    fn an_environment_keeps_its_dollar() {
        assert_eq!(quote("A=$B %h \"x\"\n"), "\"A=$B %%h \\\"x\\\"\\n\"");
    }
}
