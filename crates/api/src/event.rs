//! The events of a deployment, numbered from 1, as `GET /v1/apps/{app}/deployments/{id}/events` streams them
//! (NDJSON, one object a line; `?after=SEQ` resumes).

use serde::{Deserialize, Serialize};

use crate::deployment::Verdict;
use crate::error::ErrorBody;
use crate::ids::{Label, Timestamp};

/// One event.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Number in the deployment, from 1; equal to the journal row that caused it.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// Which step of a plan, and what it does to what: readers need not take texts apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StepInfo {
    /// Index in the plan, from 0.
    pub step: u32,
    /// Stable word for the kind of step: `start-instance`.
    pub kind: String,
    /// What it acts on: `web@1`, `http`, `health deep`; empty when the kind says all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The release whose that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Label>,
    /// The step in words, for logs: `start web@1 of v43`.
    #[serde(default)]
    pub text: String,
}

/// What happened. Readers ignore types that they do not know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// Which.
        #[serde(flatten)]
        info: StepInfo,
    },
    /// A step is done.
    StepDone {
        /// Which.
        #[serde(flatten)]
        info: StepInfo,
        /// Milliseconds it took.
        took_ms: u64,
        /// What it found: `health ok, 3 tries`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A step failed; the undo begins.
    StepFailed {
        /// Which.
        #[serde(flatten)]
        info: StepInfo,
        /// Why.
        failure: ErrorBody,
    },
    /// What a step did was undone.
    StepUndone {
        /// Which; its text is the undo's: `stop web@1 of v43`.
        #[serde(flatten)]
        info: StepInfo,
    },
    /// All new connections go to the release and `min_healthy` passed: push exits 0 here.
    Live {
        /// The release.
        label: Label,
        /// When it will be committed by itself.
        watched_until: Option<Timestamp>,
        /// What the release before does now: `warm, 212 conns`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<String>,
    },
    /// The end.
    Finished {
        /// How.
        verdict: Verdict,
        /// Why it did not end as asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<ErrorBody>,
    },
    /// Something a person should know that changes nothing: recovery after a crash, a leftover.
    Note {
        /// In words.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stands_beside_its_type() {
        let info = StepInfo {
            step: 4,
            kind: "start-instance".to_owned(),
            object: "web@1".to_owned(),
            release: Some("v2".parse().unwrap()),
            text: "start web@1 of v2".to_owned(),
        };
        let what = What::StepDone { info: info.clone(), took_ms: 7, note: None };
        let event = Event { seq: 9, at: Timestamp(1), what };
        let json = serde_json::json!({
            "seq": 9, "at": 1, "type": "step-done", "step": 4, "kind": "start-instance", "object": "web@1",
            "release": "v2", "text": "start web@1 of v2", "took_ms": 7,
        });
        assert_eq!(serde_json::to_value(&event).unwrap(), json);
        let back: Event = serde_json::from_value(json).unwrap();
        assert!(matches!(back.what, What::StepDone { info: i, took_ms: 7, note: None } if i == info));
    }
}
