//! What a spec must hold, wherever it came from. The parser tells it with lines; the agent checks every document
//! that arrives, because what is in one ends up in unit files that root writes.
//!
//! Pure. A rule stands here once: the parser uses the same predicates for its own messages.

use std::fmt;
use std::net::IpAddr;

use super::parse::between;
use super::{Address, Check, CheckKind, Deploy, Drain, Listener, Millis, Process, Spec};

/// Most copies of one process: a bound on unit names and on what one host can start.
pub(super) const INSTANCES_MAX: u32 = 512;
/// The least memory limit: below it not even an interpreter starts, so `memory = "512b"` is a slip.
pub(super) const MEMORY_MIN: u64 = 1 << 20;
/// The shortest time that a process gets to end.
pub(super) const KILL_TIMEOUT_MIN: Millis = Millis(100);
/// The shortest time that a candidate gets.
pub(super) const WAIT_TIMEOUT_MIN: Millis = Millis::from_secs(1);
/// Most failures in a row that may be asked for.
pub(super) const FAILURES_MAX: u32 = 1000;
/// Shortest time between tries: below it a check is load.
pub(super) const INTERVAL_MIN: Millis = Millis(50);
/// Longest time that one try may take: a deployment waits for it, whatever happens meanwhile.
pub(super) const TRY_MAX: Millis = Millis::from_secs(600);
/// Longest of all times: a year and a day.
pub(super) const TIME_MAX: Millis = Millis::from_secs(366 * 24 * 3600);
/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them the zero at the end.
pub(super) const UNIX_PATH_MAX: usize = 107;

/// Signals that ask a program to end. SIGKILL and SIGSTOP cannot ask.
pub(super) const SIGNALS: [&str; 14] = [
    "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGABRT", "SIGALRM",
    "SIGCONT", "SIGPIPE", "SIGTSTP", "SIGTTIN", "SIGTTOU",
];

/// Variables that deployd and systemd set: a value in the spec would be lost or break the handoff.
const RESERVED_ENV: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "NOTIFY_SOCKET", "WATCHDOG_USEC"];

/// Suffixes of unit names that ordering can refer to.
const UNIT_SUFFIXES: [&str; 10] = [
    ".service",
    ".socket",
    ".target",
    ".mount",
    ".automount",
    ".path",
    ".timer",
    ".slice",
    ".device",
    ".swap",
];

/// One thing that a spec may not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The keys that lead there: `processes`, `web`, `exec`.
    pub path: Vec<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl Fault {
    pub(super) fn new(path: &[&str], what: impl Into<String>, hint: impl Into<String>) -> Self {
        let path = path.iter().map(|key| (*key).to_owned()).collect();
        Self { path, what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.join("."), self.what, self.hint)
    }
}

impl Spec {
    /// Every rule that it breaks; none for what the parser made.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        self.check_env(&mut faults);
        if self.processes.is_empty() {
            faults.add(&["processes"], "at least one process is needed", "add [processes.web]");
        }
        for (name, process) in &self.processes {
            check_process(&["processes", name.as_str()], process, &mut faults);
        }
        for (name, listener) in &self.listen {
            self.check_listener(&["listen", name.as_str()], listener, &mut faults);
        }
        for (name, check) in &self.checks {
            self.check_check(&["checks", name.as_str()], check, &mut faults);
        }
        check_deploy(&self.deploy, &mut faults);
        self.check_migration(&mut faults);
        self.check_secrets(&mut faults);
        faults.0.extend(between::faults(self, &between::Known::of(self)));
        faults.0
    }

    fn check_env(&self, faults: &mut Faults) {
        for (name, value) in &self.env {
            let at = &["env", name.as_str()];
            if !is_variable(name) {
                faults.add(at, "is not a valid name of a variable", "use A-Z, a-z, 0-9 and _");
            } else if is_reserved(name) {
                faults.add(at, "is set by deployd itself", "remove it");
            }
            faults.unless(!value.contains('\0'), at, "holds a zero byte", "remove it");
        }
    }

    fn check_migration(&self, faults: &mut Faults) {
        let Some(migration) = &self.migrate else { return };
        check_words(&["migrate", "command"], &migration.command, faults);
        faults.times(&["migrate"], &[("timeout", migration.timeout)]);
        let ok = migration.timeout >= Millis::from_secs(1);
        faults.unless(ok, &["migrate", "timeout"], "is too short", "write at least \"1s\"");
    }

    /// A value in the spec would hide that it is a secret. One that is a file is no variable.
    fn check_secrets(&self, faults: &mut Faults) {
        let variables = self.secrets.required.iter().filter(|name| !self.secrets.files.contains(name));
        for name in variables {
            let (what, hint) = ("is a secret, too", "remove it here: secrets never stand in a spec");
            faults.unless(!self.env.contains_key(name.as_str()), &["env", name.as_str()], what, hint);
        }
    }

    fn check_listener(&self, at: &[&str], listener: &Listener, faults: &mut Faults) {
        let ok = is_address(&listener.address);
        let hint = "write \":8080\", \"127.0.0.1:8080\", \"[::1]:8080\" or \"/run/shop.sock\"";
        faults.unless(ok, &key(at, "address"), "is not an address that a server can have", hint);
        let known = self.processes.contains_key(&listener.process);
        faults.unless(known, &key(at, "process"), "there is no such process", "name one of [processes]");
    }

    fn check_check(&self, at: &[&str], check: &Check, faults: &mut Faults) {
        faults.times(at, &[("interval", check.interval), ("grace", check.grace)]);
        let ok = check.interval >= INTERVAL_MIN;
        faults.unless(ok, &key(at, "interval"), "is too short", format!("write at least \"{INTERVAL_MIN}\""));
        let ok = check.timeout > Millis(0) && check.timeout <= TRY_MAX;
        let what = format!("`{}` is too long for one try", check.timeout);
        faults.unless(ok, &key(at, "timeout"), what, format!("write at most \"{TRY_MAX}\""));
        let ok = (1..=FAILURES_MAX).contains(&check.failures);
        faults.unless(ok, &key(at, "failures"), "is out of range", format!("write 1 to {FAILURES_MAX}"));
        let listener = |name| self.listen.contains_key(name);
        let process = |name| self.processes.contains_key(name);
        let (no_listener, no_process) = ("there is no such listener", "there is no such process");
        match &check.kind {
            CheckKind::Http { listener: of, .. } | CheckKind::Tcp { listener: of } => {
                faults.unless(listener(of), &key(at, "listener"), no_listener, "name one of [listen]");
            }
            CheckKind::Exec { command, process: of } => {
                faults.unless(process(of), &key(at, "process"), no_process, "name one of [processes]");
                check_words(&key(at, "command"), command, faults);
            }
            CheckKind::Notify { process: of } => {
                faults.unless(process(of), &key(at, "process"), no_process, "name one of [processes]");
            }
        }
        if let CheckKind::Http { path, method, headers, host, status, .. } = &check.kind {
            faults.unless(is_path(path), &key(at, "path"), "is not a path", "write for example \"/health\"");
            faults.unless(is_method(method), &key(at, "method"), "is not a method", "write \"GET\"");
            let ok = headers.iter().all(|(name, value)| is_token(name) && is_header_value(value));
            let hint = "remove what cannot stand in a line";
            faults.unless(ok, &key(at, "headers"), "are not headers", hint);
            faults.unless(is_header_value(host), &key(at, "host"), "holds a control character", hint);
            let range = |(low, high): &(u16, u16)| low <= high && (100..=599).contains(low) && *high <= 599;
            let ok = !status.is_empty() && status.iter().all(range);
            faults.unless(
                ok,
                &key(at, "expect"),
                "status is no list of statuses",
                "write 200, \"2xx\" or \"200-299\"",
            );
        }
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, at: &[&str], what: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Fault::new(at, what, hint));
    }

    fn unless(&mut self, holds: bool, at: &[&str], what: impl Into<String>, hint: impl Into<String>) {
        if !holds {
            self.add(at, what, hint);
        }
    }

    fn times(&mut self, at: &[&str], times: &[(&str, Millis)]) {
        for (name, time) in times {
            let hint = format!("write at most \"{TIME_MAX}\"");
            self.unless(*time <= TIME_MAX, &key(at, name), "is too long", hint);
        }
    }
}

fn key<'a>(at: &[&'a str], last: &'a str) -> Vec<&'a str> {
    at.iter().copied().chain([last]).collect()
}

fn check_process(at: &[&str], process: &Process, faults: &mut Faults) {
    check_words(&key(at, "exec"), &process.exec, faults);
    let ok = (1..=INSTANCES_MAX).contains(&process.instances);
    faults.unless(ok, &key(at, "instances"), "is out of range", format!("write 1 to {INSTANCES_MAX}"));
    let ok = SIGNALS.contains(&process.kill_signal.as_str());
    let what = "is not a signal that asks a program to end";
    faults.unless(ok, &key(at, "kill_signal"), what, "write for example \"SIGTERM\"");
    faults.times(at, &[("kill_timeout", process.kill_timeout)]);
    let ok = process.kill_timeout >= KILL_TIMEOUT_MIN;
    let hint = format!("write at least \"{KILL_TIMEOUT_MIN}\"");
    faults.unless(ok, &key(at, "kill_timeout"), "is too short", hint);
    let ok = process.memory.is_none_or(|m| m >= MEMORY_MIN);
    faults.unless(ok, &key(at, "memory"), "is less than 1 MiB", "write for example \"512mb\"");
    for (name, folders) in [("writable", &process.writable), ("shared", &process.shared)] {
        for folder in folders.iter().filter(|f| !is_folder(f)) {
            faults.add(&key(at, name), format!("{folder:?} is not a folder inside the release"), FOLDER_HINT);
        }
    }
    for (name, units) in [("after", &process.after), ("requires", &process.requires)] {
        let known = |u: &&String| is_unit_name(u) || u.parse::<crate::ids::ProcessName>().is_ok();
        let what = "names neither a process nor a unit";
        faults.unless(units.iter().all(|u| known(&u)), &key(at, name), what, "a unit needs its suffix");
    }
}

/// What may stand in the name of a folder.
pub(super) const FOLDER_HINT: &str =
    "write a path relative to the release root, of letters, digits and ._@+-, for example \"tmp\"";

fn check_words(at: &[&str], words: &[String], faults: &mut Faults) {
    let ok = words.first().is_some_and(|w| !w.is_empty());
    faults.unless(ok, at, "the command is empty", "write for example \"bin/shop start\"");
    faults.unless(!words.iter().any(|w| w.contains('\0')), at, "holds a zero byte", "remove it");
}

fn check_deploy(deploy: &Deploy, faults: &mut Faults) {
    let mut times = vec![
        ("wait_timeout", deploy.wait_timeout),
        ("min_healthy", deploy.min_healthy),
        ("monitor", deploy.monitor),
    ];
    if let Drain::Limited(limit) = deploy.drain_timeout {
        times.push(("drain_timeout", limit));
    }
    faults.times(&["deploy"], &times);
    let ok = deploy.wait_timeout >= WAIT_TIMEOUT_MIN;
    let hint = format!("write at least \"{WAIT_TIMEOUT_MIN}\"");
    faults.unless(ok, &["deploy", "wait_timeout"], "is too short", hint);
}

/// A name that a variable of the environment may have.
pub(super) fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether deployd or systemd sets this variable.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED_ENV.contains(&name) || name.starts_with("DEPLOYD_")
}

/// A folder below the release root, as it stands in units: no character there has a meaning.
pub(super) fn is_folder(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/@+-".contains(&b);
    path.bytes().all(plain) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether this is a whole unit name by systemd's rule.
pub(super) fn is_unit_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    text.len() <= 255
        && UNIT_SUFFIXES.iter().any(|s| text.len() > s.len() && text.ends_with(s))
        && text.bytes().all(allowed)
}

/// A clean absolute path that can stand in a unit file as it is.
pub(super) fn is_unix_path(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b"%\"'\\".contains(&b);
    let clean = text.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    text.starts_with('/') && clean && text.bytes().all(plain)
}

fn is_address(address: &Address) -> bool {
    match address {
        Address::Any { port } => *port != 0,
        Address::Ip { ip: IpAddr::V4(ip), port } => *port != 0 && !ip.is_multicast() && !ip.is_broadcast(),
        Address::Ip { ip: IpAddr::V6(ip), port } => *port != 0 && ip.to_ipv4_mapped().is_none(),
        Address::Unix { path } => is_unix_path(path) && path.len() <= UNIX_PATH_MAX,
    }
}

/// The characters of an HTTP token.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// An HTTP method.
pub(super) fn is_method(text: &str) -> bool {
    is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase())
}

/// A text that can stand in a header line.
pub(super) fn is_header_value(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Path and query of a request.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

#[cfg(test)]
mod tests;
