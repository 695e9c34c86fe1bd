//! The events of a deployment, numbered from 1, as `GET /v1/deployments/{id}/events` streams them
//! (NDJSON, one object a line; `?after=SEQ` resumes).

use serde::{Deserialize, Serialize};

use crate::deployment::Verdict;
use crate::error::ErrorBody;
use crate::ids::{Label, Timestamp};

/// One event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Number in the deployment, from 1; equal to the journal row that caused it.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. Readers ignore types that they do not know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum What {
    /// The plan is durable; the deployment will end in a verdict.
    Accepted {
        /// The release it moves to.
        label: Option<Label>,
        /// Number of steps.
        steps: u32,
    },
    /// A step begins.
    StepStarted {
        /// Index in the plan, from 0.
        step: u32,
        /// Stable word for the kind of step: `start-instance`.
        kind: String,
        /// In words: `start web@1`.
        text: String,
    },
    /// A step is done.
    StepDone {
        /// Index in the plan.
        step: u32,
        /// Stable word for the kind of step.
        kind: String,
        /// Milliseconds it took.
        took_ms: u64,
        /// What it found: `health ok, 3 tries`.
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A step failed; the undo begins.
    StepFailed {
        /// Index in the plan.
        step: u32,
        /// Stable word for the kind of step.
        kind: String,
        /// Why.
        failure: ErrorBody,
    },
    /// A step was undone.
    StepUndone {
        /// Index in the plan.
        step: u32,
        /// In words: `stop web@1`.
        text: String,
    },
    /// All new connections go to the release and `min_healthy` passed: push exits 0 here.
    Live {
        /// The release.
        label: Label,
        /// When it will be committed by itself.
        watched_until: Option<Timestamp>,
    },
    /// The end.
    Finished {
        /// How.
        verdict: Verdict,
        /// Why it did not end as asked.
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<ErrorBody>,
    },
    /// Something a person should know that changes nothing: recovery after a crash, a leftover.
    Note {
        /// In words.
        text: String,
    },
}
