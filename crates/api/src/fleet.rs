//! What hosts and ctl say to one another about a fleet: what a host is, leases, rollouts.
//!
//! ctl drives a rollout and holds no truth: every host of it keeps the [`Rollout`], so that any other ctl can
//! show it, go on with it or undo it.

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, DeploymentId, Digest, HostName, Label, ProcessName, Timestamp};
use crate::release::{Origin, ReleaseDocument};
use crate::spec::Strategy;

/// `GET /v1/host`: what a host is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostInfo {
    /// Its name: that of its certificate, else of its config, else its own.
    pub host: String,
    /// Version of the agent.
    pub agent: String,
    /// Version of systemd, as it says it: `252`.
    pub systemd: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Version of glibc: `2.36`; `None` when there is none.
    pub glibc: Option<String>,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes that a new process could use.
    pub memory_available: u64,
    /// Bytes of disk free where releases stand.
    pub disk_free: u64,
    /// Bytes of that disk.
    pub disk_total: u64,
    /// The host's clock.
    pub now: Timestamp,
    /// Its certificate; `None` on the local socket of a host that is not enrolled.
    pub certificate: Option<CertificateInfo>,
    /// Who the caller is, as its certificate says: `ops-1`; `root` on the local socket.
    pub caller: String,
    /// The caller's roles.
    pub roles: Vec<crate::access::Role>,
}

/// A certificate, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CertificateInfo {
    /// Serial number, in hexadecimal digits.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// The header of calls that are made under a lease: `ID;EPOCH`.
pub const LEASE_HEADER: &str = "deployd-lease";

/// `POST /v1/apps/{app}/lease`: take the deploy lock of an app, or renew it (the same `id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Client-made id: of the rollout that wants it.
    pub id: DeploymentId,
    /// Who, as people know them; the certificate's name is added by the host.
    pub holder: String,
    /// What for: `push v44`.
    pub reason: String,
    /// How long it holds without renewal.
    pub ttl_ms: u64,
}

/// Longest lease that a host gives.
pub const LEASE_TTL_MAX_MS: u64 = 60_000;
/// What ctl asks for.
pub const LEASE_TTL_MS: u64 = 15_000;

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Lease {
    /// The rollout that holds it.
    pub id: DeploymentId,
    /// Grows with each holder; calls with an older one are refused.
    pub epoch: u64,
    /// Who holds it.
    pub holder: String,
    /// What for.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it was renewed last, in milliseconds ago.
    pub renewed_ms_ago: u64,
    /// How long it still holds without renewal.
    pub expires_in_ms: u64,
}

/// What becomes of hosts that are live already when another one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// They go back too: one release serves everywhere.
    #[default]
    Rollback,
    /// They stay as they are.
    Hold,
}

/// How far a rollout got, as the ctl that drives it last wrote it down. What each host did is its own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Files are being sent; no host has switched.
    Sending,
    /// Hosts are switching.
    Running,
    /// Every host is live.
    Live,
    /// A host failed; the others are as `on_failure` says.
    Failed,
    /// A person ended it, and hosts that were live went back.
    Aborted,
}

/// `PUT /v1/apps/{app}/rollout`, `GET` of the same: the fleet moving to one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Its id; also that of its lease.
    pub id: DeploymentId,
    /// The app.
    pub app: AppName,
    /// The label of the release on every host.
    pub label: Label,
    /// The release, whole: another ctl can go on with nothing but this.
    pub document: ReleaseDocument,
    /// Overrides the spec's strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Who, from what.
    pub origin: Origin,
    /// When it began.
    pub started: Timestamp,
    /// What becomes of hosts that are live when another one fails.
    pub on_failure: OnFailure,
    /// Its hosts, in order.
    pub hosts: Vec<RolloutHost>,
    /// The host that migrates, before any host switches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate_on: Option<HostName>,
    /// How far it got.
    pub state: RolloutState,
}

/// A host of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RolloutHost {
    /// Its name.
    pub host: HostName,
    /// Which wave it belongs to, from 0. The first wave is a barrier.
    pub wave: u32,
    /// The processes that run there; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<ProcessName>>,
    /// The release that served there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Label>,
}

impl Rollout {
    /// The id of the deployment of this rollout on a host: the same whoever asks, so asking twice is one.
    pub fn deployment(&self, host: &HostName) -> DeploymentId {
        Self::deployment_of(&self.id, host, "push")
    }

    /// The id of the deployment that takes a host back.
    pub fn undo(&self, host: &HostName) -> DeploymentId {
        Self::deployment_of(&self.id, host, "undo")
    }

    fn deployment_of(id: &DeploymentId, host: &HostName, verb: &str) -> DeploymentId {
        let digest = Digest::of(format!("{verb}\0{id}\0{host}").as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        DeploymentId::from_random(bytes)
    }
}
