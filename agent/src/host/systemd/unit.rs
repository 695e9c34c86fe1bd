//! What PID 1 says about a unit, as a value.
//!
//! Pure: built from the properties of one `GetAll`, so all fields are of one moment.

use std::collections::HashMap;

use deployd_api::ids::Timestamp;
use zbus::OwnedVariant;

use super::proxy::UnitRow;

/// The state of a loaded unit, of whatever type. Fields that its type lacks are `None`, 0 or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// `loaded`, `not-found`, `error`, `masked`.
    pub load_state: String,
    /// `active`, `activating`, `deactivating`, `reloading`, `inactive`, `failed`.
    pub active_state: String,
    /// Finer, by type: `running`, `listening`, `auto-restart`.
    pub sub_state: String,
    /// The main process of a service.
    pub main_pid: Option<u32>,
    /// Automatic restarts since it was last started by hand.
    pub n_restarts: u32,
    /// `success`, or why it failed: `exit-code`, `signal`, `timeout`, `oom-kill`.
    pub result: String,
    /// How the main process ended last, as in `si_code`: 1 exited, 2 killed, 3 dumped; 0 not yet.
    pub exec_main_code: i32,
    /// Its exit status, or the signal.
    pub exec_main_status: i32,
    /// When it became active last.
    pub active_enter: Option<Timestamp>,
    /// When it stopped being active last.
    pub active_exit: Option<Timestamp>,
    /// The id of this run of the unit: 32 hex digits, empty before the first.
    pub invocation_id: String,
    /// Bytes of memory, when accounted.
    pub memory_current: Option<u64>,
    /// CPU time used, when accounted.
    pub cpu_usage_nsec: Option<u64>,
    /// Tasks, when accounted.
    pub tasks: Option<u64>,
    /// Whether its files changed since it was loaded.
    pub need_daemon_reload: bool,
    /// Path of its cgroup below the root of the hierarchy; empty while it has none.
    pub control_group: String,
    /// What a service last said of itself (`STATUS=`).
    pub status_text: String,
    /// Whether a job is queued or runs for it.
    pub job: Pending,
}

/// Whether something is still to happen to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// A job is queued or runs.
    Job,
    /// None is.
    Nothing,
}

impl UnitState {
    /// `active` or on the way between two active states.
    pub fn is_active(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Neither running nor about to.
    pub fn is_down(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    pub(super) fn from_properties(mut all: HashMap<String, OwnedVariant>) -> Self {
        let mut take = |name: &str| all.remove(name);
        Self {
            load_state: text(take("LoadState")),
            active_state: text(take("ActiveState")),
            sub_state: text(take("SubState")),
            main_pid: number(take("MainPID")).filter(|pid| *pid != 0),
            n_restarts: number(take("NRestarts")).unwrap_or(0),
            result: text(take("Result")),
            exec_main_code: take("ExecMainCode").and_then(|v| v.try_into().ok()).unwrap_or(0),
            exec_main_status: take("ExecMainStatus").and_then(|v| v.try_into().ok()).unwrap_or(0),
            active_enter: moment(take("ActiveEnterTimestamp")),
            active_exit: moment(take("ActiveExitTimestamp")),
            invocation_id: hex(take("InvocationID")),
            memory_current: wide(take("MemoryCurrent")),
            cpu_usage_nsec: wide(take("CPUUsageNSec")),
            tasks: wide(take("TasksCurrent")),
            need_daemon_reload: take("NeedDaemonReload").and_then(|v| v.try_into().ok()).unwrap_or(false),
            control_group: text(take("ControlGroup")),
            status_text: text(take("StatusText")),
            job: pending(take("Job")),
        }
    }
}

fn text(value: Option<OwnedVariant>) -> String {
    value.and_then(|v| v.try_into().ok()).unwrap_or_default()
}

fn number(value: Option<OwnedVariant>) -> Option<u32> {
    value.and_then(|v| v.try_into().ok())
}

/// A 64-bit counter; PID 1 says "not accounted" as the highest number.
fn wide(value: Option<OwnedVariant>) -> Option<u64> {
    value.and_then(|v| v.try_into().ok()).filter(|n| *n != u64::MAX)
}

/// A moment, which PID 1 tells in microseconds; 0 is never.
fn moment(value: Option<OwnedVariant>) -> Option<Timestamp> {
    wide(value).filter(|t| *t != 0).map(|us| Timestamp(us / 1000))
}

fn hex(value: Option<OwnedVariant>) -> String {
    let bytes: Vec<u8> = value.and_then(|v| v.try_into().ok()).unwrap_or_default();
    if bytes.iter().all(|b| *b == 0) {
        return String::new();
    }
    bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
}

fn pending(value: Option<OwnedVariant>) -> Pending {
    let job: Option<(u32, zbus::OwnedObjectPath)> = value.and_then(|v| v.try_into().ok());
    if job.is_some_and(|(id, _)| id != 0) { Pending::Job } else { Pending::Nothing }
}

/// One row of a list of loaded units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitBrief {
    /// Its name.
    pub name: String,
    /// As in [`UnitState`].
    pub load_state: String,
    /// As in [`UnitState`].
    pub active_state: String,
    /// As in [`UnitState`].
    pub sub_state: String,
    /// Whether a job is queued or runs for it.
    pub job: Pending,
}

impl UnitBrief {
    pub(super) fn from_row(row: UnitRow) -> Self {
        let (name, _, load_state, active_state, sub_state, _, _, job, _, _) = row;
        let job = if job == 0 { Pending::Nothing } else { Pending::Job };
        Self { name, load_state, active_state, sub_state, job }
    }
}
