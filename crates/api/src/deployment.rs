//! What changes a host: requests, the plan as shown, verdicts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, DeploymentId, Digest, Label, ProcessName, Timestamp};
use crate::manifest::Manifest;
use crate::needs::Needs;
use crate::release::Origin;
use crate::secret::SecretName;
use crate::spec::{Spec, Strategy};

/// `POST /v1/apps/{app}/uploads`: what an artifact consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The app it is for.
    pub app: AppName,
    /// Its files.
    pub manifest: Manifest,
}

/// The answer: what is missing. An upload of the same manifest resumes: its id is the artifact's digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UploadAnswer {
    /// The artifact's digest, and the id of the upload.
    pub artifact: Digest,
    /// Contents that this host lacks, to be sent to `PUT /v1/apps/{app}/uploads/{artifact}`.
    pub missing: Vec<Digest>,
    /// How many files the artifact has.
    pub files: u64,
    /// How many of them differ from the release that serves.
    pub changed: u64,
}

/// `POST /v1/apps/{app}/deployments`: make this release live. `POST …/plan` takes the same body.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// Client-made id; a repeat returns the same deployment.
    pub id: DeploymentId,
    /// The artifact, uploaded before (for a plan: its files need not be).
    pub artifact: Digest,
    /// The spec.
    pub spec: Spec,
    /// Versions of the app's secrets, by name: part of the release.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, u32>,
    /// Overrides the spec's strategy for this deployment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The label that the release has on every host; default: the host's next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Label>,
    /// The processes that run on this host; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<ProcessName>>,
    /// Whether this is the host that migrates.
    #[serde(default, skip_serializing_if = "Migrate::is_here")]
    pub migrate: Migrate,
    /// What the programs of the artifact need of a host.
    #[serde(default, skip_serializing_if = "Needs::is_empty")]
    pub needs: Needs,
    /// The app's state that the caller saw ([`PlanAnswer::state`]): another one is refused (`plan_stale`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Digest>,
    /// Who and from what.
    #[serde(default)]
    pub origin: Origin,
}

/// `POST /v1/apps/{app}/plan`: the same, with the manifest, and nothing is changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The files of the artifact.
    pub manifest: Manifest,
    /// The spec.
    pub spec: Spec,
    /// Overrides the spec's strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// The processes that would run on this host; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<ProcessName>>,
    /// Whether this would be the host that migrates.
    #[serde(default, skip_serializing_if = "Migrate::is_here")]
    pub migrate: Migrate,
    /// What the programs of the artifact need of a host.
    #[serde(default)]
    pub needs: Needs,
}

/// Whether a deployment runs the spec's migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Migrate {
    /// On this host, before it switches.
    #[default]
    Here,
    /// Another host of the rollout has done it.
    Elsewhere,
}

impl Migrate {
    /// Whether it runs here.
    pub fn is_here(&self) -> bool {
        *self == Self::Here
    }
}

/// What a push would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanAnswer {
    /// The app.
    pub app: AppName,
    /// The release that serves.
    pub from: Option<Label>,
    /// The label that the push gets; `None` when there is nothing to do.
    pub to: Option<Label>,
    /// Which way.
    pub strategy: Strategy,
    /// Files of the artifact.
    pub files: u64,
    /// Paths that differ, with `+`, `-` or `~`.
    pub changed_files: Vec<String>,
    /// Bytes to send.
    pub bytes_to_send: u64,
    /// Environment that differs.
    pub config: Vec<ConfigChange>,
    /// What would happen, in a few words each, in order: `start 2`, `check health`, `switch`.
    #[serde(default)]
    pub outline: Vec<String>,
    /// Every step, in words, in order.
    pub steps: Vec<String>,
    /// What the host's checks before a push found, in words.
    pub fits: Vec<String>,
    /// The label under which this host has the release already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<Label>,
    /// The label that a new release of this host would get: 1 + its highest.
    #[serde(default = "first")]
    pub next_label: Label,
    /// The versions of the app's secrets on this host.
    #[serde(default)]
    pub secrets: BTreeMap<SecretName, u32>,
    /// A digest of what the app is on this host: it changes with every change of it.
    #[serde(default)]
    pub state: Option<Digest>,
    /// Why it would be refused; the rest then says what would happen if it were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<crate::error::ErrorBody>,
}

fn first() -> Label {
    Label::FIRST
}

/// One changed key of the spec or environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConfigChange {
    /// The key: an environment variable or a dotted key of the spec.
    pub key: String,
    /// Its value before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its value after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// `POST /v1/apps/{app}/rollback`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Client-made id.
    pub id: DeploymentId,
    /// Where to; default: the release that the live one replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Label>,
    /// Who.
    #[serde(default)]
    pub origin: Origin,
}

/// `POST /v1/apps/{app}/start|stop|restart`, `DELETE /v1/apps/{app}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OperateRequest {
    /// Client-made id.
    pub id: DeploymentId,
    /// Who.
    #[serde(default)]
    pub origin: Origin,
}

/// What a deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A new release.
    Push,
    /// An earlier release again.
    Rollback,
    /// Start what was stopped.
    Start,
    /// Stop serving.
    Stop,
    /// Replace the running processes by new ones of the same release.
    Restart,
    /// Take the app off the host.
    Remove,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Push => "push",
            Self::Rollback => "rollback",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Remove => "remove",
        })
    }
}

/// How a deployment ended. Always one of these four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Done, and stays.
    Committed,
    /// Undone; what served before serves.
    RolledBack,
    /// Nothing was touched.
    Refused,
    /// A person is needed.
    Stuck,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Stuck => "stuck",
        })
    }
}

/// A deployment as seen from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// The app.
    pub app: AppName,
    /// What it is for.
    pub kind: Kind,
    /// The release it moves to, if it moves to one.
    pub label: Option<Label>,
    /// The release that served before.
    pub replaces: Option<Label>,
    /// Who began it.
    pub origin: Origin,
    /// When.
    pub started: Timestamp,
    /// The step that runs now, in words.
    pub step: Option<String>,
    /// Whether the release has all traffic and passed `min_healthy`.
    pub live: bool,
    /// When the watch ends, once live.
    pub watched_until: Option<Timestamp>,
    /// How it ended.
    pub verdict: Option<Verdict>,
    /// Why it did not end as asked.
    pub failure: Option<crate::error::ErrorBody>,
}
