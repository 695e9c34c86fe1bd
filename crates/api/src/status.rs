//! What `status`, `doctor` and `logs` answer.

use serde::{Deserialize, Serialize};

use crate::deployment::Deployment;
use crate::ids::{AppName, Label, ProcessName, Timestamp};
use crate::release::Origin;

/// `GET /v1/apps/{app}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AppStatus {
    /// The app.
    pub app: AppName,
    /// The host's name.
    pub host: String,
    /// The release that serves.
    pub live: Option<Label>,
    /// Since when.
    pub live_since: Option<Timestamp>,
    /// Who made it.
    pub origin: Origin,
    /// When it was committed; `None` while it is watched.
    pub committed: Option<Timestamp>,
    /// Whether it was stopped on purpose.
    pub stopped: bool,
    /// The deployment that runs now.
    pub deployment: Option<Deployment>,
    /// How the last one that did not end as asked ended.
    pub last_failure: Option<Deployment>,
    /// One row a release and process.
    pub processes: Vec<ProcessStatus>,
}

/// A process group of one release.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessStatus {
    /// The release.
    pub label: Label,
    /// The process.
    pub process: ProcessName,
    /// What this release is doing.
    pub role: Role,
    /// Instances that the spec asks for.
    pub wanted: u32,
    /// The instances.
    pub instances: Vec<InstanceStatus>,
    /// Established connections to its listeners; `None` without a listener.
    pub connections: Option<u64>,
    /// What each check of it finds now, by name: `ok`, or what failed. Commands are not run for this, and
    /// releases that end are not asked.
    pub checks: Vec<(String, String)>,
    /// When the connections that a draining release still has are cut; `None` when never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_at: Option<Timestamp>,
    /// Memory limit of one instance, in bytes.
    pub memory_limit: Option<u64>,
}

/// What a release on a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It has the traffic.
    Live,
    /// It is on trial.
    Candidate,
    /// Kept running at 0 %, ready to take over again.
    Warm,
    /// It finishes its last connections.
    Draining,
}

/// One running copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstanceStatus {
    /// Number, from 1.
    pub number: u32,
    /// systemd's `ActiveState`.
    pub active_state: String,
    /// systemd's `SubState`.
    pub sub_state: String,
    /// Main process.
    pub pid: Option<u32>,
    /// When it became active.
    pub since: Option<Timestamp>,
    /// When it was told to end, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending_since: Option<Timestamp>,
    /// Automatic restarts since its unit was loaded.
    pub restarts: u32,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPU time used since it started, in microseconds.
    pub cpu_us: Option<u64>,
    /// Share of one CPU, in percent, measured for a fraction of a second before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
}

/// `GET /v1/doctor`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DoctorReport {
    /// The host's name.
    pub host: String,
    /// The agent's version.
    pub agent: String,
    /// systemd's version.
    pub systemd: String,
    /// Bytes free on the file system of the releases.
    pub disk_free: u64,
    /// Bytes of that file system.
    pub disk_total: u64,
    /// Apps on the host.
    pub apps: u32,
    /// What is wrong, errors first.
    pub findings: Vec<Finding>,
    /// Names of the checks that passed.
    pub passed: Vec<String>,
}

/// One thing that `doctor` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Stable code: `disk_low`.
    pub code: String,
    /// What it concerns: an app, a unit, a path.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub next: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not work for long.
    Warn,
}

/// A line of `GET /v1/apps/{app}/logs` (NDJSON).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLine {
    /// When.
    pub at: Timestamp,
    /// The release.
    pub label: Option<Label>,
    /// `web@1`; empty for lines of the agent about the app.
    pub instance: String,
    /// syslog level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The text.
    pub message: String,
}
