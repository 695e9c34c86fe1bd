//! The spec of an app: what `deployd.toml` says, validated, with every default filled in.
//!
//! Only [`parse()`] makes one from TOML. A `Spec` also travels as JSON inside the release document, so
//! its field names are part of a release's identity: add fields with a serde default that is skipped
//! when it holds, never rename.

mod check;
mod parse;
mod project;
mod units;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, CheckName, ListenerName, ProcessName};
use crate::secret::SecretName;

pub use check::Fault;
pub use parse::{SpecError, SpecErrors, keys, parse, parse_project};
pub use project::{Build, Project, Selector, Share};
pub use units::{parse_duration, parse_size, split_words};

/// A span of time in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// From whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s * 1000)
    }
}

impl From<Millis> for Duration {
    fn from(m: Millis) -> Self {
        Self::from_millis(m.0)
    }
}

/// How an app runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The app's name.
    pub app: AppName,
    /// Plain environment of every process. `PORT` here is what a program that binds itself binds.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Process groups; at least one.
    pub processes: BTreeMap<ProcessName, Process>,
    /// Listeners; may be empty (a worker).
    #[serde(default)]
    pub listen: BTreeMap<ListenerName, Listener>,
    /// Checks; may be empty: then an instance is good once it has stayed up for `min_healthy`.
    #[serde(default)]
    pub checks: BTreeMap<CheckName, Check>,
    /// How releases replace one another.
    pub deploy: Deploy,
    /// What runs once per rollout, before any host switches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Migration>,
    /// Which secrets there must be, and which are files. Every other secret of the app is a variable too.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
}

/// `[migrate]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// The command's words, as those of a process; its user, sandbox and environment are those of the first
    /// process: `web`, or the first by name.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Millis,
}

/// What the spec says of secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// A push is refused while one of these is not set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<SecretName>,
    /// Delivered as files, `$CREDENTIALS_DIRECTORY/NAME`, and not as variables; required, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SecretName>,
}

impl Secrets {
    /// Whether the spec says nothing.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.files.is_empty()
    }
}

/// A process group: one command, run `instances` times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The command's words, unquoted; `exec[0]` is relative to the release root, absolute, or found in PATH.
    pub exec: Vec<String>,
    /// Copies that run at once, at least 1.
    pub instances: u32,
    /// Whether old and new may run at the same time. Always true for a process with a listener.
    pub overlap: bool,
    /// The signal that asks for an orderly end, by name: `SIGTERM`.
    pub kill_signal: String,
    /// How long a process without a listener may take to end before SIGKILL.
    pub kill_timeout: Millis,
    /// Memory limit of one instance, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Folders of the release that the app may write, private to the release, relative to its root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writable: Vec<String>,
    /// Folders of the release that are kept over releases, relative to its root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<String>,
    /// Ordering: processes of this app, or full systemd unit names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Requirement and ordering: processes of this app, or full systemd unit names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Which of the app's hosts it runs on; empty is all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Selector>,
}

/// A listening socket that PID 1 owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Where clients connect.
    pub address: Address,
    /// How the program gets it.
    pub handoff: Handoff,
    /// The process that serves it.
    pub process: ProcessName,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// `:PORT`: one dual-stack socket on `[::]`.
    Any {
        /// TCP port.
        port: u16,
    },
    /// `IP:PORT`.
    Ip {
        /// The address; `::` here means IPv6 only.
        ip: IpAddr,
        /// TCP port.
        port: u16,
    },
    /// `/run/…`: a Unix stream socket. No groups, weights or steering.
    Unix {
        /// Absolute path.
        path: String,
    },
}

impl Address {
    /// The TCP port, if there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Any { port } | Self::Ip { port, .. } => Some(*port),
            Self::Unix { .. } => None,
        }
    }

    /// Where it is reached from its own host; `None` for a Unix socket.
    pub fn loopback(&self) -> Option<SocketAddr> {
        match self {
            Self::Any { port } => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port)),
            Self::Ip { ip, port } => Some(SocketAddr::new(own(*ip), *port)),
            Self::Unix { .. } => None,
        }
    }

    /// Where a socket listens that the kernel lists. A wildcard of IPv6 may or may not be one of IPv4 as well: it is
    /// taken for both.
    pub fn listed(on: SocketAddr) -> Self {
        match on.ip().to_canonical() {
            IpAddr::V6(ip) if ip.is_unspecified() => Self::Any { port: on.port() },
            ip => Self::Ip { ip, port: on.port() },
        }
    }

    /// Whether sockets that listen on these have clients in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_port = self.port().is_some() && self.port() == other.port();
        same_port
            && match (self, other) {
                (Self::Ip { ip: a, .. }, Self::Ip { ip: b, .. }) => {
                    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
                }
                _ => true,
            }
    }

    /// The value of `ListenStream=`.
    pub fn listen_stream(&self) -> String {
        match self {
            Self::Any { port } => format!("[::]:{port}"),
            Self::Ip { ip: IpAddr::V4(ip), port } => format!("{ip}:{port}"),
            Self::Ip { ip: IpAddr::V6(ip), port } => format!("[{ip}]:{port}"),
            Self::Unix { path } => path.clone(),
        }
    }
}

/// An address as its own host reaches it: a wildcard by the loopback of its family.
pub fn own(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any { port } => write!(f, ":{port}"),
            Self::Ip { .. } | Self::Unix { .. } => f.write_str(&self.listen_stream()),
        }
    }
}

/// How a program gets its listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Handoff {
    /// Both of the next two: whichever the program uses.
    Auto,
    /// `LISTEN_FDS` and `LISTEN_FDNAMES`.
    Activation,
    /// `bind()` on the listed address becomes the passed socket (`LD_PRELOAD`).
    Bind,
    /// `{fd:NAME}` in `exec` becomes the descriptor's number.
    Arg,
    /// Descriptor 0.
    Stdin,
    /// A private port behind systemd-socket-proxyd; client addresses are lost.
    Port,
}

impl Handoff {
    /// Each with its word: in the spec, and on the trampoline's command line.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("auto", Self::Auto),
        ("activation", Self::Activation),
        ("bind", Self::Bind),
        ("arg", Self::Arg),
        ("stdin", Self::Stdin),
        ("port", Self::Port),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize].0
    }

    /// The one with this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(w, _)| *w == word).map(|(_, handoff)| *handoff)
    }
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What it does.
    pub kind: CheckKind,
    /// What it decides.
    pub gate: Gate,
    /// Time between tries.
    pub interval: Millis,
    /// Time one try may take.
    pub timeout: Millis,
    /// Time after a start in which failures do not count.
    pub grace: Millis,
    /// Failures in a row that make it failed.
    pub failures: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CheckKind {
    /// An HTTP/1.1 request to the candidate on its real port.
    Http {
        /// The listener it goes to.
        listener: ListenerName,
        /// Path and query.
        path: String,
        /// Method.
        method: String,
        /// Extra headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// `Host:` header; default `localhost`.
        host: String,
        /// Statuses that pass, as inclusive ranges.
        status: Vec<(u16, u16)>,
        /// A JSON value the body must contain (objects: subset), as text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        json: Option<serde_json::Value>,
    },
    /// A connection that is accepted.
    Tcp {
        /// The listener it goes to.
        listener: ListenerName,
    },
    /// A command of the release, run as the app, that exits 0. It gets `$DEPLOYD_CANDIDATE_URL`.
    Exec {
        /// The command's words.
        command: Vec<String>,
        /// The process whose environment and sandbox it runs in.
        process: ProcessName,
    },
    /// `READY=1` to `$NOTIFY_SOCKET`: the unit is `Type=notify`.
    Notify {
        /// The process that notifies.
        process: ProcessName,
    },
}

/// What a check decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Both: it must pass before traffic, and keep passing while the deployment is watched.
    Both,
    /// Only the switch: it must pass before the first public connection.
    Traffic,
    /// Only the deployment: its failures while watched roll back, it does not delay the switch.
    Deploy,
    /// Neither: it is only shown.
    None,
}

impl Gate {
    /// Must it pass before the switch?
    pub fn before_traffic(self) -> bool {
        matches!(self, Self::Both | Self::Traffic)
    }
    /// Does a failure after the switch roll back?
    pub fn while_watched(self) -> bool {
        matches!(self, Self::Both | Self::Deploy)
    }
}

/// How releases replace one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Which way.
    pub strategy: Strategy,
    /// How long the candidate may take from start to passing its checks.
    pub wait_timeout: Millis,
    /// How long the old release may take to finish its connections.
    pub drain_timeout: Drain,
    /// How long it must stay healthy with all traffic before it is live.
    pub min_healthy: Millis,
    /// How long it is watched after that, ready to go back.
    pub monitor: Millis,
}

/// Which way releases replace one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Start the new one, check it, give it the traffic, drain the old one.
    Rolling,
    /// Stop the old one, start the new one; clients wait in the listener.
    Immediate,
}

/// How long draining may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Drain {
    /// At most this long; what is open then is cut, and counted.
    Limited(Millis),
    /// Until the last connection ends.
    Unlimited,
}

impl Spec {
    /// The listeners that a process serves, by name.
    pub fn listeners_of<'a>(
        &'a self,
        process: &'a ProcessName,
    ) -> impl Iterator<Item = (&'a ListenerName, &'a Listener)> {
        self.listen.iter().filter(move |(_, l)| l.process == *process)
    }

    /// What of it runs on a host that has only these processes: they, their listeners and their checks.
    #[must_use]
    pub fn only(&self, processes: &[ProcessName]) -> Self {
        let here = |process: &ProcessName| processes.contains(process);
        let mut spec = self.clone();
        spec.processes.retain(|name, _| here(name));
        spec.listen.retain(|_, listener| here(&listener.process));
        let listeners = &spec.listen;
        spec.checks.retain(|_, check| match &check.kind {
            CheckKind::Http { listener, .. } | CheckKind::Tcp { listener } => {
                listeners.contains_key(listener)
            }
            CheckKind::Exec { process, .. } | CheckKind::Notify { process } => here(process),
        });
        // What runs elsewhere is nothing to wait for.
        let gone: Vec<String> =
            self.processes.keys().filter(|name| !here(name)).map(ToString::to_string).collect();
        for process in spec.processes.values_mut() {
            process.after.retain(|name| !gone.contains(name));
            process.requires.retain(|name| !gone.contains(name));
        }
        spec
    }

    /// The process that a command means which names none: `web`, or the first by name.
    pub fn first_process(&self) -> Option<&ProcessName> {
        self.processes.keys().find(|name| name.as_str() == "web").or_else(|| self.processes.keys().next())
    }

    /// Whether each instance of a process is reached by a private port.
    pub fn has_private_port(&self, process: &ProcessName) -> bool {
        self.listeners_of(process).any(|(_, l)| l.handoff == Handoff::Port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_when_they_have_clients_in_common() {
        let ip = |text: &str| {
            let on: SocketAddr = text.parse().unwrap();
            Address::Ip { ip: on.ip(), port: on.port() }
        };
        let listed = |text: &str| Address::listed(text.parse().unwrap());
        let any = Address::Any { port: 80 };
        let both = |a: &Address, b: &Address| {
            assert_eq!(a.overlaps(b), b.overlaps(a), "{a} {b}");
            a.overlaps(b)
        };
        assert!(both(&any, &ip("10.0.0.5:80")) && both(&any, &ip("[::1]:80")) && both(&any, &any));
        assert!(both(&ip("0.0.0.0:80"), &ip("10.0.0.5:80")) && both(&ip("[::]:80"), &ip("[::1]:80")));
        assert!(!both(&ip("10.0.0.5:80"), &ip("127.0.0.1:80")) && !both(&ip("0.0.0.0:80"), &ip("[::]:80")));
        assert!(!both(&any, &Address::Any { port: 81 }));
        // What the kernel lists as a wildcard of IPv6 may be one of both.
        assert!(both(&listed("[::]:80"), &ip("10.0.0.5:80")));
        assert!(both(&listed("[::ffff:10.0.0.5]:80"), &ip("10.0.0.5:80")));
        assert!(!both(&listed("10.0.0.5:80"), &ip("10.0.0.6:80")));
        let unix = Address::Unix { path: "/run/x".to_owned() };
        assert!(!both(&unix, &unix) && !both(&unix, &any));
    }
}
