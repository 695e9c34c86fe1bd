//! What an action acts on, as events tell it: a name and a release, so that nobody takes texts apart.

use deployd_api::ids::{CheckName, Label};

use crate::action::{Action, Instance};
use crate::state::Change;

impl Action {
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
            Self::Check { trial, .. } | Self::Watch { trial, .. } => trial.tag,
            Self::Record { change } => return change_release(change),
            _ => return None,
        };
        Some(tag.label)
    }
}

fn change_release(change: &Change) -> Option<Label> {
    match change {
        Change::Candidate { tag }
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
