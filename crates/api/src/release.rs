//! The release document: what a release *is*. Its digest is the release's identity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Label, Timestamp};
use crate::secret::SecretName;
use crate::spec::Spec;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// Code, spec, environment: one unit. Serialised with sorted keys and hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseDocument {
    /// Always [`FORMAT`].
    pub format: u32,
    /// The digest of the artifact's manifest.
    pub artifact: Digest,
    /// The spec, environment included.
    pub spec: Spec,
    /// The versions of the app's secrets, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<SecretName, u32>,
}

impl ReleaseDocument {
    /// The document of this artifact and spec, without secrets.
    pub fn new(artifact: Digest, spec: Spec) -> Self {
        Self { format: FORMAT, artifact, spec, secrets: BTreeMap::new() }
    }

    /// The digest of the canonical form: compact JSON, keys sorted (every map here is a BTreeMap and
    /// `serde_json::Value` sorts its objects).
    pub fn digest(&self) -> Digest {
        let canonical = serde_json::to_value(self).map(|v| v.to_string()).unwrap_or_default();
        Digest::of(canonical.as_bytes())
    }
}

/// Who made a release, from what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Origin {
    /// Who pushed: an operator's name.
    pub by: String,
    /// Short git commit, with `+dirty` when the tree had changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
}

/// The state of a release on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// On trial.
    Candidate,
    /// It serves, and is watched or committed.
    Live,
    /// Kept for rollback.
    Kept,
    /// It undid itself; refused until cleared.
    RolledBack,
}

impl std::fmt::Display for ReleaseState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Candidate => "candidate",
            Self::Live => "live",
            Self::Kept => "kept",
            Self::RolledBack => "rolled back",
        })
    }
}

/// A row of `releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReleaseRow {
    /// Its label.
    pub label: Label,
    /// Its digest.
    pub digest: Digest,
    /// Its state.
    pub state: ReleaseState,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    #[serde(flatten)]
    pub origin: Origin,
    /// What changed against the release before: `code`, `POOL_SIZE`.
    pub changed: Vec<String>,
    /// Why it was rolled back, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes on disk: each file that releases share is counted once, with the oldest that has it. 0 without
    /// files.
    #[serde(default)]
    pub on_disk: u64,
    /// Bytes of files that no other release has.
    #[serde(default)]
    pub own: u64,
}
