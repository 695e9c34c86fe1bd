//! What can change of an [`AppState`](crate::state::AppState). Each change stands in a journal record, or is caused by one.

use deployd_api::ids::{Label, ProcessName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::action::Socket;
use crate::state::{Release, Tag};

/// What can end in its middle: it has no way back, and may be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unended {
    /// Something may still run. The next stop or start ends it.
    Stop,
    /// Something is gone, and something not. Only the next remove goes on.
    Remove,
}

/// A change of an [`AppState`](crate::state::AppState).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A release is on trial.
    Candidate {
        /// Its activation.
        tag: Tag,
        /// The lowest private port of `handoff = "port"` of this activation.
        #[serde(default)]
        base_port: u16,
    },
    /// A release was sealed.
    Add {
        /// The release.
        release: Box<Release>,
    },
    /// The candidate is none any more, and its tree is gone or will be.
    Fail {
        /// The release.
        label: Label,
    },
    /// The candidate of a rollback is none any more; the release stays kept.
    Dismiss {
        /// Its activation.
        tag: Tag,
    },
    /// A socket joined a group, at its end.
    Joined {
        /// The new member.
        socket: Socket,
    },
    /// A socket left a group: the last member takes its index.
    Left {
        /// Who left.
        socket: Socket,
    },
    /// The candidate has the traffic.
    Live {
        /// Its activation.
        tag: Tag,
        /// What it replaced, if that stays warm.
        warm: Option<Tag>,
    },
    /// The traffic went back.
    Unlive {
        /// Who lost it.
        tag: Tag,
        /// Who has it again.
        back_to: Option<Tag>,
        /// What `rollback` goes to from there.
        previous: Option<Label>,
        /// Since when that one had been live.
        since: Option<Timestamp>,
    },
    /// What is live boots from now on.
    Committed,
    /// A release's processes were told to end.
    Draining {
        /// Its activation.
        tag: Tag,
    },
    /// A release's processes have ended; whatever the groups still say of it is not so any more.
    Drained {
        /// Its activation.
        tag: Tag,
    },
    /// What was learned of a process.
    Nonblocking {
        /// The process.
        process: ProcessName,
        /// Whether its listeners are non-blocking.
        value: bool,
    },
    /// Stopped or started on purpose.
    Stopped {
        /// Whether it is stopped now.
        value: bool,
    },
    /// What was asked for ended in its middle.
    Unended {
        /// What.
        what: Unended,
    },
    /// The host restarted: what was committed booted, and nothing else runs.
    Rebooted,
    /// A release that undid itself may be pushed again.
    Clear {
        /// Which.
        label: Label,
    },
    /// The host forgets these releases: their trees are gone.
    Forget {
        /// Which.
        labels: Vec<Label>,
    },
}
