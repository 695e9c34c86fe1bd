//! Everything that refuses a push before anything is touched.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::release::{ReleaseDocument, ReleaseState};
use deployd_api::spec::{Address, Handoff, Spec, Strategy};

use crate::facts::{ArtifactFacts, Facts, Program};

type Refusal = Result<(), Box<ErrorBody>>;

fn refuse(code: ErrorCode, message: String, hint: String) -> Refusal {
    Err(Box::new(ErrorBody::new(code, message, hint)))
}

/// All refusals of a push, in the order in which a person would want to hear of them.
pub(super) fn refuse_push(document: &ReleaseDocument, strategy: Strategy, facts: &Facts) -> Refusal {
    refuse_names(facts)?;
    refuse_bad(document, facts)?;
    crate::secrets::refuse_clash(document)?;
    refuse_ports(&document.spec, facts)?;
    let Some(artifact) = &facts.artifact else {
        let message =
            format!("no artifact {} was uploaded for {}", document.artifact.short(), document.spec.app);
        return refuse(
            ErrorCode::UploadIncomplete,
            message,
            "upload it first: deployd-ctl push DIR does".to_owned(),
        );
    };
    refuse_programs(&document.spec, artifact)?;
    refuse_disk(artifact)?;
    refuse_memory(&document.spec, strategy, facts)
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
fn refuse_bad(document: &ReleaseDocument, facts: &Facts) -> Refusal {
    let digest = document.digest();
    let bad = facts.state.releases.values().rev().find(|r| {
        let by_itself = r
            .failure
            .as_ref()
            .is_some_and(|f| matches!(f.code, ErrorCode::CheckFailed | ErrorCode::StartFailed));
        r.digest == digest && r.state == ReleaseState::RolledBack && by_itself
    });
    let Some(bad) = bad else { return Ok(()) };
    let why = bad.failure.as_ref().map_or_else(String::new, |f| f.message.clone());
    refuse(
        ErrorCode::ReleaseBad,
        format!("this is {} again, which was rolled back: {why}", bad.label),
        format!("push a new build, or deployd-ctl releases clear {} -a {}", bad.label, document.spec.app),
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
    let overlaps = strategy == Strategy::Rolling && facts.state.live.is_some() && !facts.state.stopped;
    if !overlaps || wanted == 0 || wanted <= facts.memory_available {
        return Ok(());
    }
    refuse(
        ErrorCode::MemoryLow,
        format!("{} of memory free, the overlap needs {}", bytes(facts.memory_available), bytes(wanted)),
        "free memory, lower memory in [processes.*], or let clients wait for a moment: --strategy immediate"
            .to_owned(),
    )
}

/// The memory that all instances together may use, if every process has a limit.
pub(super) fn wanted_memory(spec: &Spec) -> u64 {
    spec.processes.values().map(|p| p.memory.unwrap_or(0).saturating_mul(u64::from(p.instances))).sum()
}

/// A size as people read it.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    for (unit, size) in UNITS {
        if n >= size {
            return format!("{:.1} {unit}", n as f64 / size as f64);
        }
    }
    format!("{n} bytes")
}
