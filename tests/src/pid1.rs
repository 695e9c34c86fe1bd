//! When PID 1 did something to a unit, by its own clock: exact however busy the machine is, and there after the unit is
//! gone. All times are microseconds of `CLOCK_MONOTONIC`, which hosts share with the rig.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::machine::Host;

/// What a timer of PID 1 may add on a machine whose processors are taken: a second is many times its own grain.
pub const SCHEDULING: Duration = Duration::from_secs(1);
/// `SD_MESSAGE_UNIT_PROCESS_EXIT`.
const EXITED: &str = "98e322203f7a4ed290d09fe03c09fe15";
/// `SD_MESSAGE_UNIT_STOPPING` and `SD_MESSAGE_UNIT_STOPPED`.
const STOPPING: &str = "de5b426a63be47a7b6ac3eaac82e2f6f";
const STOPPED: &str = "9d1aaa27d60140bd96365438aad20286";

/// A stop of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The job began: the unit's processes get their signal.
    pub began_us: u64,
    /// The last of them was gone.
    pub done_us: u64,
}

impl Stop {
    /// How long it took.
    pub fn took(self) -> Duration {
        Duration::from_micros(self.done_us.saturating_sub(self.began_us))
    }
}

/// The last stop of a unit in this boot, by PID 1's journal: the unit itself may be gone.
pub fn last_stop(host: &Host, unit: &str) -> Result<Stop> {
    let stop = Stop { began_us: last_told(host, unit, STOPPING)?, done_us: last_told(host, unit, STOPPED)? };
    ensure!(stop.done_us >= stop.began_us, "{unit} stops: {stop:?}");
    Ok(stop)
}

/// When PID 1 last told this of a unit.
fn last_told(host: &Host, unit: &str, message: &str) -> Result<u64> {
    let line = host.ok(&format!(
        "journalctl --quiet --boot --output=json --lines=1 _PID=1 UNIT={unit} MESSAGE_ID={message}"
    ))?;
    ensure!(!line.is_empty(), "PID 1 has not told {message} of {unit}");
    let entry: Value = serde_json::from_str(&line).context("an entry of the journal is not JSON")?;
    let time = |field: &str| -> Option<u64> { entry[field].as_str()?.parse().ok() };
    // When journald took the entry, less the time since PID 1 sent it.
    let sent = || {
        let late = time("__REALTIME_TIMESTAMP")?.saturating_sub(time("_SOURCE_REALTIME_TIMESTAMP")?);
        time("__MONOTONIC_TIMESTAMP")?.checked_sub(late)
    };
    sent().with_context(|| format!("an entry without its times: {line}"))
}

/// A property of a unit that is a number.
pub fn number(host: &Host, unit: &str, property: &str) -> Result<u64> {
    let text = property_of(host, unit, property)?;
    text.parse().with_context(|| format!("{property} of {unit} is {text:?}"))
}

/// A property of a unit, as `systemctl show` prints it.
pub fn property_of(host: &Host, unit: &str, property: &str) -> Result<String> {
    Ok(host.ok(&format!("systemctl show -p {property} --value {unit}"))?.trim().to_owned())
}

/// The lives of a unit's process around an automatic restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restarted {
    /// The process before had ended.
    pub ended_us: u64,
    /// The process was started again.
    pub started_us: u64,
    /// The unit was active again.
    pub active_us: u64,
}

impl Restarted {
    /// Of a unit whose process failed and that is active again. Not by `InactiveEnterTimestamp`: up to systemd 252 that
    /// is the end of the back-off and not its beginning.
    pub fn of(host: &Host, unit: &str) -> Result<Self> {
        let restarted = Self {
            ended_us: last_told(host, unit, EXITED)?,
            started_us: number(host, unit, "ExecMainStartTimestampMonotonic")?,
            active_us: number(host, unit, "ActiveEnterTimestampMonotonic")?,
        };
        ensure!(
            restarted.started_us >= restarted.ended_us && restarted.active_us >= restarted.started_us,
            "{unit} was not restarted: {restarted:?}"
        );
        Ok(restarted)
    }

    /// Between two lives: what is neither.
    pub fn pause(self) -> Duration {
        Duration::from_micros(self.started_us - self.ended_us)
    }
}
