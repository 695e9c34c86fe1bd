//! Actions as people and events are told of them: in words, and what they act on, a name and a release, so that
//! nobody takes texts apart.

use deployd_api::ids::{CheckName, Label};

use crate::action::{Action, Instance};
use crate::state::Change;

impl Action {
    /// In words, for people.
    pub fn text(&self) -> String {
        let inst = |i: &Instance| format!("{}@{} of {}", i.process, i.number, i.tag);
        match self {
            // A plan that is only shown has given no uid yet.
            Self::EnsureUser { user, uid: 0, .. } => format!("make the user {user}"),
            Self::EnsureUser { user, uid, .. } => format!("make the user {user} ({uid})"),
            Self::RemoveUser { user, .. } => format!("remove the user {user}"),
            Self::Seal { tree, .. } => format!("stage the files in {tree}"),
            Self::RemoveTree { tree, .. } => format!("remove {tree}"),
            Self::PrepareDirs { writable, shared, .. } => {
                let all: Vec<&str> = writable.iter().chain(shared).map(String::as_str).collect();
                format!("make {}", all.join(", "))
            }
            Self::RemoveDirs { dirs } => format!("remove {}", dirs.join(", ")),
            Self::WriteFiles { files } => format!("write {} units", files.len()),
            Self::RemoveFiles { paths } => format!("remove {} units", paths.len()),
            Self::EnsureEpmd { .. } => "prepare epmd".to_owned(),
            Self::RemoveEpmd { .. } => "remove epmd".to_owned(),
            Self::Migrate { tag, command, .. } => format!("migrate for {}: {command}", tag.label),
            Self::ClearMigration { .. } => "forget how the migration ended".to_owned(),
            Self::Steer { listener, to, .. } => format!("switch {listener} to {to}"),
            Self::OpenListener { socket, .. } => {
                format!("open {} for {} on {}", socket.listener, socket.tag, socket.address)
            }
            Self::CloseListener { socket } => format!("close {} of {}", socket.listener, socket.tag),
            Self::AwaitEmptyQueue { socket, .. } => {
                format!("wait until nothing is queued in {} of {}", socket.listener, socket.tag)
            }
            Self::Relay { socket, .. } => {
                format!("relay what is left in {} of {}", socket.listener, socket.tag)
            }
            Self::LeaveGroup { socket } => format!("give up {} of {}", socket.listener, socket.tag),
            Self::StartInstance { instance, .. } => format!("start {}", inst(instance)),
            Self::StopInstance { instance, .. } => format!("stop {}", inst(instance)),
            Self::RestartInstance { instance, .. } => format!("restart {}", inst(instance)),
            Self::LearnNonblocking { first, .. } => {
                format!("learn how {} uses its listener", first.process)
            }
            Self::AwaitPort { instance, .. } => format!("wait until {} accepts", inst(instance)),
            Self::AwaitCarried { proxy, .. } => {
                format!("wait until the proxy of {} carries nothing", inst(proxy))
            }
            Self::ReloadIfNeeded { .. } => "reload changed units".to_owned(),
            Self::Check { trial, .. } if trial.checks.is_empty() => format!("wait until {} is up", trial.tag),
            Self::Check { trial, .. } => {
                let names: Vec<&str> = trial.checks.keys().map(CheckName::as_str).collect();
                format!("check {} of {}", names.join(" "), trial.tag)
            }
            Self::Watch { trial, duration, .. } => {
                format!("watch {} for {} s", trial.tag, duration.0.div_ceil(1000))
            }
            Self::Record { change } => change_text(change),
            Self::Commit { .. } => "commit".to_owned(),
            Self::Sweep { labels, .. } if labels.is_empty() => "tidy up".to_owned(),
            Self::Sweep { labels, .. } => {
                let labels: Vec<String> = labels.iter().map(ToString::to_string).collect();
                format!("prune {}", labels.join(" "))
            }
            Self::ForgetApp { app } => format!("forget {app}"),
        }
    }

    /// What it acts on: `web@1`, `http`, `health deep`; empty when the kind says all.
    pub fn object(&self) -> String {
        let name = |i: &Instance| format!("{}@{}", i.process, i.number);
        match self {
            Self::EnsureUser { user, .. } | Self::RemoveUser { user, .. } => user.clone(),
            Self::Steer { listener, .. } => listener.to_string(),
            Self::OpenListener { socket, .. }
            | Self::CloseListener { socket }
            | Self::AwaitEmptyQueue { socket, .. }
            | Self::Relay { socket, .. }
            | Self::LeaveGroup { socket } => socket.listener.to_string(),
            Self::StartInstance { instance, .. }
            | Self::StopInstance { instance, .. }
            | Self::RestartInstance { instance, .. }
            | Self::AwaitPort { instance, .. } => name(instance),
            Self::AwaitCarried { proxy, .. } => name(proxy),
            Self::LearnNonblocking { first, .. } => first.process.to_string(),
            Self::Check { trial, .. } => {
                trial.checks.keys().map(CheckName::as_str).collect::<Vec<_>>().join(" ")
            }
            Self::Sweep { labels, .. } => {
                labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            Self::ForgetApp { app } => app.to_string(),
            Self::Seal { .. }
            | Self::RemoveTree { .. }
            | Self::PrepareDirs { .. }
            | Self::RemoveDirs { .. }
            | Self::WriteFiles { .. }
            | Self::RemoveFiles { .. }
            | Self::EnsureEpmd { .. }
            | Self::RemoveEpmd { .. }
            | Self::Migrate { .. }
            | Self::ClearMigration { .. }
            | Self::ReloadIfNeeded { .. }
            | Self::Watch { .. }
            | Self::Record { .. }
            | Self::Commit { .. } => String::new(),
        }
    }

    /// The release that it concerns, when it is one.
    pub fn release(&self) -> Option<Label> {
        let tag = match self {
            Self::Steer { to, .. } => *to,
            Self::OpenListener { socket, .. }
            | Self::CloseListener { socket }
            | Self::AwaitEmptyQueue { socket, .. }
            | Self::Relay { socket, .. }
            | Self::LeaveGroup { socket }
            | Self::LearnNonblocking { socket, .. } => socket.tag,
            Self::StartInstance { instance, .. }
            | Self::StopInstance { instance, .. }
            | Self::RestartInstance { instance, .. }
            | Self::AwaitPort { instance, .. } => instance.tag,
            Self::AwaitCarried { proxy, .. } => proxy.tag,
            Self::Migrate { tag, .. } => *tag,
            Self::Check { trial, .. } | Self::Watch { trial, .. } => trial.tag,
            Self::Record { change } => return change_release(change),
            _ => return None,
        };
        Some(tag.label)
    }
}

fn change_release(change: &Change) -> Option<Label> {
    match change {
        Change::Candidate { tag, .. }
        | Change::Dismiss { tag }
        | Change::Live { tag, .. }
        | Change::Unlive { tag, .. }
        | Change::Draining { tag }
        | Change::Drained { tag } => Some(tag.label),
        Change::Add { release } => Some(release.label),
        Change::Fail { label } | Change::Clear { label } => Some(*label),
        Change::Joined { socket } | Change::Left { socket } => Some(socket.tag.label),
        Change::Committed
        | Change::Nonblocking { .. }
        | Change::Stopped { .. }
        | Change::Unended { .. }
        | Change::Rebooted
        | Change::Forget { .. } => None,
    }
}

/// A change in words.
pub fn change_text(change: &Change) -> String {
    match change {
        Change::Candidate { tag, .. } => format!("begin {tag}"),
        Change::Add { release } => format!("know {}", release.label),
        Change::Fail { label } => format!("mark {label} as rolled back"),
        Change::Dismiss { tag } => format!("dismiss {tag}"),
        Change::Joined { socket } => format!("{} joined {}", socket.tag, socket.listener),
        Change::Left { socket } => format!("{} left {}", socket.tag, socket.listener),
        Change::Live { tag, .. } => format!("{tag} is live"),
        Change::Unlive { tag, .. } => format!("{tag} is not live any more"),
        Change::Committed => "committed".to_owned(),
        Change::Draining { tag } => format!("{tag} drains"),
        Change::Drained { tag } => format!("{tag} has drained"),
        Change::Nonblocking { process, .. } => format!("learned how {process} uses its listener"),
        Change::Stopped { value: true } => "stopped".to_owned(),
        Change::Stopped { value: false } => "started".to_owned(),
        Change::Rebooted => "the host restarted".to_owned(),
        Change::Unended { what } => format!("the {what:?} has not ended").to_lowercase(),
        Change::Clear { label } => format!("forget why {label} was rolled back"),
        Change::Forget { .. } => "forget old releases".to_owned(),
    }
}
