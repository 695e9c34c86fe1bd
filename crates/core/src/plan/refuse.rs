//! Everything that refuses a push before anything is touched.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::release::ReleaseState;
use deployd_api::secret::SecretName;
use deployd_api::spec::{Address, Handoff, Spec, Strategy};

use super::Push;
use super::platform::refuse_platform;
use crate::facts::{ArtifactFacts, Facts, Program};
use crate::state::AppState;

pub(super) type Refusal = Result<(), Box<ErrorBody>>;

fn refuse(code: ErrorCode, message: String, hint: String) -> Refusal {
    Err(Box::new(ErrorBody::new(code, message, hint)))
}

/// All refusals of a push, in the order in which a person would want to hear of them. Of a release that the host
/// `keeps` nothing has to be sent, and nothing of it takes room any more.
pub(super) fn refuse_push(push: &Push, strategy: Strategy, keeps: bool, facts: &Facts) -> Refusal {
    let spec = &push.document.spec;
    refuse_names(facts)?;
    refuse_bad(push, facts)?;
    crate::secrets::refuse_clash(&push.document)?;
    refuse_ports(spec, facts)?;
    refuse_secrets(push, facts)?;
    refuse_platform(push, facts)?;
    if !keeps {
        let Some(artifact) = &facts.artifact else {
            let message =
                format!("no artifact {} was uploaded for {}", push.document.artifact.short(), spec.app);
            let hint = "upload it first: deployd-ctl push DIR does".to_owned();
            return refuse(ErrorCode::UploadIncomplete, message, hint);
        };
        refuse_programs(spec, artifact)?;
        refuse_disk(artifact)?;
    }
    refuse_memory(spec, strategy, facts)
}

/// A label names one release, on every host.
pub(super) fn refuse_label(push: &Push, state: &AppState) -> Refusal {
    let Some(label) = push.label else { return Ok(()) };
    let Some(known) = state.releases.get(&label).filter(|known| known.digest != push.digest) else {
        return Ok(());
    };
    let by =
        if known.origin.by.is_empty() { String::new() } else { format!(", pushed by {}", known.origin.by) };
    refuse(
        ErrorCode::NumberTaken,
        format!("{label} of {} is another release on this host: {}{by}", state.app, known.digest.short()),
        format!("push again: the next free label of this host is {}", state.next_label()),
    )
}

/// What the spec asks for must be set, and what the release names must be there in that version.
fn refuse_secrets(push: &Push, facts: &Facts) -> Refusal {
    let app = &facts.state.app;
    let secrets = &push.document.spec.secrets;
    let named = secrets.required.iter().chain(&secrets.files);
    let mut missing: Vec<&str> =
        named.filter(|name| !push.document.secrets.contains_key(name)).map(SecretName::as_str).collect();
    missing.sort_unstable();
    missing.dedup();
    if let Some(first) = missing.first() {
        return refuse(
            ErrorCode::SecretMissing,
            format!("{app} needs secrets that are not set: {}", missing.join(", ")),
            format!("deployd-ctl secrets set {first}=- -a {app} reads a value from standard input"),
        );
    }
    let Some((name, version)) = facts.unsealed.iter().next() else { return Ok(()) };
    let has = facts
        .secrets
        .get(name)
        .map_or("it is not set here".to_owned(), |v| format!("here it has version {v}"));
    refuse(
        ErrorCode::SecretMissing,
        format!("the release has version {version} of the secret {name}, and this host does not: {has}"),
        format!("deployd-ctl secrets list -a {app} compares the hosts; set it again, then push"),
    )
}

fn refuse_names(facts: &Facts) -> Refusal {
    let Some(who) = &facts.user_taken else { return Ok(()) };
    let user = crate::units::user(&facts.state.app);
    refuse(
        ErrorCode::NameTaken,
        format!("the user {user} exists and was not made by deployd: {who}"),
        format!("remove that user, or give the app another name: `app` in deployd.toml (user {user})"),
    )
}

/// A release that undid itself is not deployed again by accident.
fn refuse_bad(push: &Push, facts: &Facts) -> Refusal {
    let bad = facts.state.releases.values().rev().find(|r| {
        let by_itself = r
            .failure
            .as_ref()
            .is_some_and(|f| matches!(f.code, ErrorCode::CheckFailed | ErrorCode::StartFailed));
        r.digest == push.digest && r.state == ReleaseState::RolledBack && by_itself
    });
    let Some(bad) = bad else { return Ok(()) };
    let why = bad.failure.as_ref().map_or_else(String::new, |f| f.message.clone());
    refuse(
        ErrorCode::ReleaseBad,
        format!("this is {} again, which was rolled back: {why}", bad.label),
        format!("push a new build, or deployd-ctl releases clear {} -a {}", bad.label, facts.state.app),
    )
}

pub(super) fn refuse_ports(spec: &Spec, facts: &Facts) -> Refusal {
    for (name, listener) in &spec.listen {
        let Some(port) = listener.address.port() else { continue };
        let Some(holder) = facts.strangers.get(&port) else { continue };
        return refuse(
            ErrorCode::PortTaken,
            format!("port {port} of [listen.{name}] is held by {holder}"),
            format!("stop {holder}, or choose another port: address in [listen.{name}]"),
        );
    }
    Ok(())
}

/// A listener that moves to an address which the kernel prefers, or a Unix path under another name,
/// would take clients away from the release that serves before the new one is ready.
pub(super) fn refuse_addresses(spec: &Spec, strategy: Strategy, facts: &Facts) -> Refusal {
    let Some(old) = super::push::running(facts) else { return Ok(()) };
    for (name, listener) in &spec.listen {
        for (before, other) in &old.spec().listen {
            let (from, to) = (&other.address, &listener.address);
            if matches!(to, Address::Unix { .. }) && from == to && before != name {
                let message = format!("{to} belongs to [listen.{before}] now and would to [listen.{name}]");
                let hint = format!("keep the name {before}, or choose another path");
                return refuse(ErrorCode::WrongState, message, hint);
            }
            if strategy == Strategy::Rolling && from != to && from.overlaps(to) {
                let message = format!(
                    "[listen.{name}] moves from {from} to {to}: both would get the same clients, too early"
                );
                let hint = "push it once with --strategy immediate: clients wait for a moment".to_owned();
                return refuse(ErrorCode::WrongState, message, hint);
            }
        }
    }
    Ok(())
}

fn refuse_programs(spec: &Spec, artifact: &ArtifactFacts) -> Refusal {
    for (name, program) in &artifact.programs {
        let bind = spec.listeners_of(name).find(|(_, l)| l.handoff == Handoff::Bind);
        match (program, bind) {
            (Program::Missing { path }, _) => {
                let message = format!("{path}, the program of [processes.{name}], is not there");
                let hint = "exec is relative to the artifact's root; programs of the host need their name alone, \
                            or an absolute path";
                return refuse(ErrorCode::WillNotRun, message, hint.to_owned());
            }
            (Program::NotExecutable { path }, _) => {
                let message = format!("{path}, the program of [processes.{name}], is not executable");
                return refuse(ErrorCode::WillNotRun, message, format!("chmod +x {path} in the artifact"));
            }
            (Program::ForeignArchitecture { path, machine }, _) => {
                let message = format!(
                    "{path}, the program of [processes.{name}], is built for {machine}: this host is not"
                );
                return refuse(
                    ErrorCode::WillNotRun,
                    message,
                    "build it for this host's architecture".to_owned(),
                );
            }
            (Program::Static { path }, Some((listener, _))) => {
                let message = format!(
                    "{path} is statically linked, so handoff = \"bind\" of [listen.{listener}] cannot reach its bind()"
                );
                let hint = "use handoff = \"port\" (client addresses are lost), or \"activation\" if it reads \
                            LISTEN_FDS";
                return refuse(ErrorCode::WillNotRun, message, hint.to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

fn refuse_disk(artifact: &ArtifactFacts) -> Refusal {
    if artifact.needs <= artifact.room {
        return Ok(());
    }
    refuse(
        ErrorCode::DiskLow,
        format!("{} needed, {} free beyond the reserve", bytes(artifact.needs), bytes(artifact.room)),
        "free disk space on the host, or lower disk_reserve in /etc/deployd/agent.toml".to_owned(),
    )
}

/// Old and new run side by side: the new one must fit beside what runs now.
fn refuse_memory(spec: &Spec, strategy: Strategy, facts: &Facts) -> Refusal {
    let wanted = wanted_memory(spec);
    if !overlaps(strategy, facts) || wanted == 0 || wanted <= facts.memory_available {
        return Ok(());
    }
    refuse(
        ErrorCode::MemoryLow,
        format!("{} of memory free, the overlap needs {}", bytes(facts.memory_available), bytes(wanted)),
        "free memory, lower memory in [processes.*], or let clients wait for a moment: --strategy immediate"
            .to_owned(),
    )
}

fn overlaps(strategy: Strategy, facts: &Facts) -> bool {
    strategy == Strategy::Rolling && facts.state.live.is_some() && !facts.state.stopped
}

/// What runs beside the old release for a while, in words: `2 × 1.0 GB`.
pub fn overlap(push: &Push, facts: &Facts) -> Option<String> {
    if !overlaps(push.strategy(), facts) {
        return None;
    }
    let processes = push.document.spec.processes.values();
    let limited: Vec<(u32, u64)> = processes.filter_map(|p| Some((p.instances, p.memory?))).collect();
    let terms = limited.iter().map(|(instances, memory)| format!("{instances} × {}", bytes(*memory)));
    let terms: Vec<String> = terms.collect();
    (!terms.is_empty()).then(|| terms.join(" + "))
}

/// The memory that all instances together may use, if every process has a limit.
pub(super) fn wanted_memory(spec: &Spec) -> u64 {
    spec.processes.values().map(|p| p.memory.unwrap_or(0).saturating_mul(u64::from(p.instances))).sum()
}

/// A size as people read it.
pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    for (unit, size) in UNITS {
        if n >= size {
            return format!("{:.1} {unit}", n as f64 / size as f64);
        }
    }
    format!("{n} bytes")
}
