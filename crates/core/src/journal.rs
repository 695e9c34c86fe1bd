//! The records of a deployment, as they stand in the journal. Intent is durable before the effect, the
//! outcome after it.
//!
//! Format rules: `format` is written with every plan; a reader refuses a format it does not know. New
//! records and fields may be added; none is renamed or given another meaning.

use deployd_api::deployment::{Kind, Verdict};
use deployd_api::error::ErrorBody;
use deployd_api::ids::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::state::{Change, Unended};

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
    /// A change of the app's state that only the effect could tell, while a step runs or is undone. In an
    /// undo every change is one of these, so that each is known in the order of the actions.
    Learned {
        /// What.
        change: Change,
    },
    /// The host restarted in the middle. Before the commit this undoes the deployment.
    Rebooted {
        /// What to say if nothing had failed before.
        failure: ErrorBody,
    },
    /// A person ends the deployment from outside.
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

impl Record {
    /// What the record changes of the app's state, in the same transaction: the live run and a replay
    /// both go by it.
    pub fn changes(&self, plan: &Plan) -> Option<Change> {
        let action = |step: &StepIndex| plan.steps.get(*step).map(|s| &s.action);
        match self {
            Self::Started { step } => action(step)?.change_at_start(),
            Self::Done { step, .. } => action(step)?.change_at_end(),
            Self::Learned { change } => Some(change.clone()),
            Self::Rebooted { .. } => Some(Change::Rebooted),
            Self::Finished { verdict: Verdict::Stuck } if plan.kind == Kind::Stop => {
                Some(Change::Unended { what: Unended::Stop })
            }
            Self::Finished { verdict: Verdict::Stuck } if plan.kind == Kind::Remove => {
                Some(Change::Unended { what: Unended::Remove })
            }
            // What an undo could not take down is left to `plan_drain` and `plan_drained`.
            Self::Finished { verdict: Verdict::Stuck } => plan.to.map(|tag| Change::Draining { tag }),
            _ => None,
        }
    }
}
