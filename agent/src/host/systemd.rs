//! PID 1, over D-Bus: start, stop, look, wait.
//!
//! Thin and typed; it decides nothing and never runs systemctl. A restart of dbus-daemon or a
//! `daemon-reexec` in the middle of any operation is waited out (see `bus`), then the unit or job is
//! looked at again. None of these operations sets a limit on a job itself: the unit's own timeouts do, and a
//! caller that wants less drops the future.

mod bus;
mod job;
mod proxy;
mod transient;
mod unit;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep};
use zbus::Connection;

use bus::{Backoff, Bus, PATIENCE, is_lost};
use job::{Ask, state_of};

pub use job::JobResult;
pub use transient::{
    Ended, Leftover, OUTPUT_TAIL_BYTES, Property, PropertyValue, TransientOutcome, TransientSpec,
};
pub use unit::{Pending, UnitBrief, UnitState};

/// How often a unit is looked at while waiting for it, besides its signals.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What failed between us and PID 1.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The bus or PID 1 did not come back in time.
    #[error("failed to reach systemd over the system bus")]
    Connect {
        /// Why.
        #[source]
        source: Box<zbus::Error>,
    },
    /// PID 1 refused.
    #[error("failed to {attempt} {unit}")]
    Call {
        /// What was attempted.
        attempt: &'static str,
        /// On which unit; empty when on none.
        unit: String,
        /// Why it was refused.
        #[source]
        source: Box<zbus::Error>,
    },
    /// A unit did not get where it was waited for.
    #[error("failed to wait for {unit}: {}", describe(last.as_deref()))]
    Deadline {
        /// The unit.
        unit: String,
        /// How it was last seen.
        last: Option<Box<UnitState>>,
    },
    /// A transient unit went away before its end could be read.
    #[error("failed to learn how {unit} ended: it is gone, its job was {job:?}")]
    Vanished {
        /// The unit.
        unit: String,
        /// The result of its start.
        job: JobResult,
    },
    /// A unit ended before it said that it is ready.
    #[error("failed to start {unit}: its job ended as {job:?}")]
    NotReady {
        /// The unit.
        unit: String,
        /// The result of its start.
        job: JobResult,
    },
    /// The output file of a transient unit.
    #[error("failed to keep the output of a command in {path}")]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SystemdError {
    fn call(attempt: &'static str, unit: &str, source: zbus::Error) -> Self {
        Self::Call { attempt, unit: unit.to_owned(), source: Box::new(source) }
    }

    /// Whether PID 1 knows no such unit.
    pub fn is_no_such_unit(&self) -> bool {
        matches!(self, Self::Call { source, .. } if is_named(source, "NoSuchUnit"))
    }

    /// Whether a unit of that name exists already.
    pub fn is_unit_exists(&self) -> bool {
        matches!(self, Self::Call { source, .. } if is_named(source, "UnitExists"))
    }
}

fn describe(unit: Option<&UnitState>) -> String {
    unit.map_or_else(
        || "it is not loaded".to_owned(),
        |u| format!("it is {} ({}), result {}", u.active_state, u.sub_state, u.result),
    )
}

/// Whether this is systemd's own error of that name.
fn is_named(error: &zbus::Error, name: &str) -> bool {
    let zbus::Error::MethodError(full, ..) = error else {
        return false;
    };
    full.as_str().strip_prefix("org.freedesktop.systemd1.") == Some(name)
}

/// PID 1. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Systemd {
    bus: Arc<Bus>,
}

impl Systemd {
    /// Connects to the system bus, waiting for it when it is not there yet.
    pub async fn connect() -> Result<Self, SystemdError> {
        let systemd = Self { bus: Arc::default() };
        drop(systemd.connection(Instant::now() + PATIENCE).await?);
        Ok(systemd)
    }

    async fn connection(&self, deadline: Instant) -> Result<Connection, SystemdError> {
        let connected = self.bus.connection(deadline).await;
        connected.map_err(|source| SystemdError::Connect { source: Box::new(source) })
    }

    /// Makes a call that may be repeated, until it arrives.
    async fn repeat<T, F>(
        &self,
        attempt: &'static str,
        unit: &str,
        call: impl Fn(Connection) -> F,
    ) -> Result<T, SystemdError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(deadline);
        loop {
            let connection = self.connection(deadline).await?;
            match call(connection).await {
                Ok(value) => return Ok(value),
                Err(error) if is_lost(&error) && backoff.pause().await => {
                    tracing::debug!(unit, attempt, %error, "a call was lost; asking again");
                }
                Err(error) => return Err(SystemdError::call(attempt, unit, error)),
            }
        }
    }

    /// Starts a unit and waits for the job. `Done` means what the unit's type means by started.
    pub async fn start(&self, unit: &str) -> Result<JobResult, SystemdError> {
        self.run_job(Ask::Start, unit).await
    }

    /// Stops a unit and waits until it is down. A unit that is not loaded is.
    pub async fn stop(&self, unit: &str) -> Result<JobResult, SystemdError> {
        self.run_job(Ask::Stop, unit).await
    }

    /// Stops a unit and starts it again, in one job.
    pub async fn restart(&self, unit: &str) -> Result<JobResult, SystemdError> {
        self.run_job(Ask::Restart, unit).await
    }

    /// Asks for a unit to be stopped and does not wait: it may drain for hours.
    pub async fn stop_no_wait(&self, unit: &str) -> Result<(), SystemdError> {
        let stopped = self.repeat("stop", unit, |c| async move { proxy::stop_unit(&c, unit).await }).await;
        ignore_no_such_unit(stopped.map(drop))
    }

    /// Forgets that a unit failed. A unit that is not loaded has nothing to forget.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        let done =
            self.repeat("reset the failure of", unit, |c| async move { proxy::reset_failed(&c, unit).await });
        ignore_no_such_unit(done.await)
    }

    /// Makes PID 1 read all unit files again.
    pub async fn daemon_reload(&self) -> Result<(), SystemdError> {
        self.repeat("reload unit files", "", |c| async move { proxy::reload(&c).await }).await
    }

    /// A unit as it is now; `None` when it is not loaded. Looking never loads a unit.
    pub async fn unit(&self, unit: &str) -> Result<Option<UnitState>, SystemdError> {
        self.repeat("look at", unit, |c| async move { state_of(&c, unit).await }).await
    }

    /// The loaded units whose names match one of these glob patterns.
    pub async fn list(&self, patterns: &[&str]) -> Result<Vec<UnitBrief>, SystemdError> {
        let rows = self.repeat("list units", "", |c| async move { proxy::list(&c, patterns).await }).await?;
        Ok(rows.into_iter().map(UnitBrief::from_row).collect())
    }

    /// Whether the host is going down: a reboot or power-off has begun to stop everything.
    pub async fn is_stopping(&self) -> Result<bool, SystemdError> {
        let ask = |c| async move { proxy::system_state(&c).await };
        Ok(self.repeat("read the state of the host", "", ask).await? == "stopping")
    }

    /// The version of systemd, as `252.39-1~deb12u2`.
    pub async fn version(&self) -> Result<String, SystemdError> {
        self.repeat("read the version", "", |c| async move { proxy::version(&c).await }).await
    }

    /// Waits until `reached` holds for a unit (`None`: not loaded), and gives the state it held for.
    pub async fn wait_until(
        &self,
        unit: &str,
        mut reached: impl FnMut(Option<&UnitState>) -> bool,
        deadline: Instant,
    ) -> Result<Option<UnitState>, SystemdError> {
        loop {
            let changes = self.repeat("watch", unit, |c| async move { proxy::unit_changes(&c, unit).await });
            let mut changes = changes.await?;
            loop {
                let state = self.unit(unit).await?;
                if reached(state.as_ref()) {
                    return Ok(state);
                }
                if Instant::now() >= deadline {
                    return Err(SystemdError::Deadline { unit: unit.to_owned(), last: state.map(Box::new) });
                }
                tokio::select! {
                    change = changes.next() => if change.is_none() { break },
                    () = sleep(LOOK_AGAIN) => {}
                    () = tokio::time::sleep_until(deadline) => {}
                }
            }
        }
    }
}

fn ignore_no_such_unit(result: Result<(), SystemdError>) -> Result<(), SystemdError> {
    match result {
        Err(error) if error.is_no_such_unit() => Ok(()),
        other => other,
    }
}
