//! The records of a deployment, as they stand in the journal. Intent is durable before the effect, the
//! outcome after it.
//!
//! Format rules: `format` is written with every plan; a reader refuses a format it does not know. New
//! records and fields may be added; none is renamed or given another meaning.

use deployd_api::deployment::Verdict;
use deployd_api::error::ErrorBody;
use deployd_api::ids::Timestamp;
use serde::{Deserialize, Serialize};

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// A step's index in its plan.
pub type StepIndex = usize;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the wall clock: for people.
    pub at: Timestamp,
    /// When, by the clock that never jumps, in milliseconds since boot: for deadlines.
    pub up_ms: u64,
    /// What.
    #[serde(flatten)]
    pub record: Record,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A step is about to run.
    Started {
        /// Which.
        step: StepIndex,
    },
    /// A step is done.
    Done {
        /// Which.
        step: StepIndex,
        /// What it found, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: StepIndex,
        /// Why.
        failure: ErrorBody,
    },
    /// Someone or something ends the deployment from outside: a person, a reboot.
    Abort {
        /// Why.
        failure: ErrorBody,
    },
    /// A newer push ends the watch early, as if it had passed.
    Superseded,
    /// A step is about to be undone.
    UndoStarted {
        /// Which.
        step: StepIndex,
    },
    /// A step is undone.
    Undone {
        /// Which.
        step: StepIndex,
    },
    /// An undo failed. The others still run.
    UndoFailed {
        /// Which.
        step: StepIndex,
        /// Why.
        failure: ErrorBody,
    },
    /// The end.
    Finished {
        /// How.
        verdict: Verdict,
    },
    /// Something for people; it decides nothing.
    Note {
        /// In words.
        text: String,
    },
}
