//! Runs one job of PID 1 to its end, over lost connections.
//!
//! `JobRemoved` is subscribed to before the call, so its result cannot be missed while the bus lives. When
//! the bus or PID 1 went away, the job is looked for again; a job that ended unseen is judged by the state
//! of its unit, and never issued twice when it may have been accepted: a oneshot must not run twice.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep};
use zbus::{Connection, MessageStream, OwnedObjectPath, fdo};

use super::bus::{Backoff, PATIENCE, is_lost};
use super::transient::TransientSpec;
use super::unit::UnitState;
use super::{Systemd, SystemdError, is_named, proxy};

/// How often a job is looked at besides its signal, in case PID 1 lost our subscription.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobResult {
    /// As asked.
    Done,
    /// The unit failed.
    Failed,
    /// Another job replaced it.
    Canceled,
    /// It took longer than its `JobTimeoutSec=`.
    Timeout,
    /// Something it requires failed.
    Dependency,
    /// It did not apply to the unit's state.
    Skipped,
    /// A result that this list does not know: `invalid`, `assert`, `unsupported`, `collected`, `once`.
    Other,
}

impl JobResult {
    fn parse(text: &str) -> Self {
        match text {
            "done" => Self::Done,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            "timeout" => Self::Timeout,
            "dependency" => Self::Dependency,
            "skipped" => Self::Skipped,
            _ => Self::Other,
        }
    }
}

/// What is asked of PID 1.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask<'a> {
    Start,
    Stop,
    Restart,
    Transient(&'a TransientSpec),
}

impl Ask<'_> {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Transient(_) => "start as a transient unit",
        }
    }

    async fn send(self, connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
        match self {
            Self::Start => proxy::start_unit(connection, unit).await,
            Self::Stop => proxy::stop_unit(connection, unit).await,
            Self::Restart => proxy::restart_unit(connection, unit).await,
            Self::Transient(spec) => {
                proxy::start_transient(connection, unit, &spec.bus_properties(unit)).await
            }
        }
    }
}

/// What is known about the job so far; it outlives connections.
struct Progress {
    /// The unit's invocation before the call.
    before: Option<String>,
    sent: bool,
    job: Option<OwnedObjectPath>,
}

impl Systemd {
    pub(super) async fn run_job(&self, ask: Ask<'_>, unit: &str) -> Result<JobResult, SystemdError> {
        let before = self.unit(unit).await?.map(|u| u.invocation_id);
        let mut progress = Progress { before, sent: false, job: None };
        let mut backoff = Backoff::new(Instant::now() + PATIENCE);
        loop {
            let deadline = Instant::now() + PATIENCE;
            let connection = self.connection(deadline).await?;
            match self.follow(&connection, ask, unit, &mut progress).await {
                Ok(result) => return Ok(result),
                Err(error) if is_named(&error, "NoSuchUnit") && matches!(ask, Ask::Stop) => {
                    return Ok(JobResult::Done);
                }
                Err(error) if is_lost(&error) => {
                    tracing::debug!(unit, %error, "lost sight of a job; looking again");
                    // The patience is for the bus, not for the job: progress starts it anew.
                    if progress.job.is_some() {
                        backoff = Backoff::new(deadline);
                    }
                    if !backoff.pause().await {
                        return Err(SystemdError::call(ask.words(), unit, error));
                    }
                }
                Err(error) => return Err(SystemdError::call(ask.words(), unit, error)),
            }
        }
    }

    async fn follow(
        &self,
        connection: &Connection,
        ask: Ask<'_>,
        unit: &str,
        progress: &mut Progress,
    ) -> zbus::Result<JobResult> {
        let mut removed = proxy::jobs_removed(connection).await?;
        if progress.job.is_none() && progress.sent {
            progress.job = find_job(connection, unit).await?;
            if progress.job.is_none() {
                let now = state_of(connection, unit).await?;
                if was_accepted(ask, progress, now.as_ref()) {
                    return Ok(judge(ask, now.as_ref()));
                }
            }
        }
        let job = if let Some(job) = &progress.job {
            job.clone()
        } else {
            progress.sent = true;
            let job = ask.send(connection, unit).await?;
            progress.job.insert(job).clone()
        };
        loop {
            tokio::select! {
                message = removed.next() => {
                    let message = message.ok_or_else(gone)??;
                    if let Some(result) = result_for(&message, &job)? {
                        return Ok(result);
                    }
                }
                () = sleep(LOOK_AGAIN) => {
                    if !exists(connection, &job).await? {
                        if let Some(result) = already_queued(&mut removed, &job)? {
                            return Ok(result);
                        }
                        return Ok(judge(ask, state_of(connection, unit).await?.as_ref()));
                    }
                }
            }
        }
    }
}

fn gone() -> zbus::Error {
    zbus::Error::FDO(Box::new(fdo::Error::Disconnected("the bus closed the connection".to_owned())))
}

fn result_for(message: &zbus::Message, job: &OwnedObjectPath) -> zbus::Result<Option<JobResult>> {
    let (removed, result) = proxy::removed_job(message)?;
    Ok((removed == *job).then(|| JobResult::parse(&result)))
}

/// Signals come in order: the one of a job that a later reply called gone is in the stream already.
fn already_queued(removed: &mut MessageStream, job: &OwnedObjectPath) -> zbus::Result<Option<JobResult>> {
    while let Some(Some(message)) = removed.next().now_or_never() {
        if let Some(result) = result_for(&message?, job)? {
            return Ok(Some(result));
        }
    }
    Ok(None)
}

async fn exists(connection: &Connection, job: &OwnedObjectPath) -> zbus::Result<bool> {
    match proxy::job_state(connection, job).await {
        Ok(_) => Ok(true),
        Err(zbus::Error::FDO(e)) if matches!(*e, fdo::Error::UnknownObject(_)) => Ok(false),
        Err(error) if is_named(&error, "NoSuchJob") => Ok(false),
        Err(error) => Err(error),
    }
}

async fn find_job(connection: &Connection, unit: &str) -> zbus::Result<Option<OwnedObjectPath>> {
    match proxy::loaded_unit(connection, unit).await {
        Ok(path) => proxy::job_of_unit(connection, &path).await,
        Err(error) if is_named(&error, "NoSuchUnit") => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn state_of(connection: &Connection, unit: &str) -> zbus::Result<Option<UnitState>> {
    let path = match proxy::loaded_unit(connection, unit).await {
        Ok(path) => path,
        Err(error) if is_named(&error, "NoSuchUnit") => return Ok(None),
        Err(error) => return Err(error),
    };
    let state = UnitState::from_properties(proxy::all_properties(connection, &path).await?);
    Ok((state.load_state != "not-found" || !state.is_down()).then_some(state))
}

/// Whether a call without a reply reached PID 1. Stopping twice harms nobody, starting twice does.
fn was_accepted(ask: Ask<'_>, progress: &Progress, now: Option<&UnitState>) -> bool {
    match ask {
        Ask::Stop => false,
        Ask::Start | Ask::Restart => {
            now.is_some_and(|u| progress.before.as_deref().unwrap_or_default() != u.invocation_id)
        }
        Ask::Transient(_) => now.is_some(),
    }
}

/// The result of a job that ended while nobody listened, by what became of its unit.
fn judge(ask: Ask<'_>, now: Option<&UnitState>) -> JobResult {
    let Some(unit) = now else {
        return JobResult::Done;
    };
    match ask {
        Ask::Stop if unit.is_down() => JobResult::Done,
        Ask::Stop => JobResult::Canceled,
        Ask::Start | Ask::Restart | Ask::Transient(_) => match unit.active_state.as_str() {
            "inactive" if unit.result == "success" => JobResult::Done,
            "inactive" | "failed" => JobResult::Failed,
            "activating" if unit.sub_state.starts_with("auto-restart") => JobResult::Failed,
            _ if unit.is_active() => JobResult::Done,
            _ => JobResult::Canceled,
        },
    }
}
