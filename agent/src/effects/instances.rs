//! Starting and stopping processes, through PID 1.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, ProcessName};
use deployd_api::spec::{Drain, Millis};
use deployd_core::action::{Instance, UnitFile};
use deployd_core::plan::Carrier;
use deployd_core::state::Change;

use super::RealHost;
use super::failure::step_failed;
use crate::driver::{Done, Run};
use crate::host::connections;
use crate::host::journal;
use crate::host::listener::Blocking;
use crate::host::systemd::{JobResult, UnitState};
use crate::janitor::Drained;

/// How many of an instance's last lines a failure shows.
const LAST_LINES: usize = 10;
/// How far back it is looked for a line of our own.
const SEARCHED_LINES: u32 = 200;
/// How often it is looked whether a proxy still carries something.
const CARRIED_EVERY: Duration = Duration::from_millis(100);
/// How lines of the bind shim and the trampoline begin.
const OURS: &str = "deployd";

/// Since when proxies whose app has ended are seen to carry something. A restart of the agent begins anew.
#[derive(Debug, Default)]
pub struct Carrying(Mutex<HashMap<String, Instant>>);

impl Carrying {
    fn map(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // A panic elsewhere leaves the map valid: entries are inserted and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, unit: &str) -> Instant {
        *self.map().entry(unit.to_owned()).or_insert_with(Instant::now)
    }

    fn end(&self, unit: &str) {
        self.map().remove(unit);
    }
}

impl RealHost {
    pub(super) async fn start(
        &self,
        instance: &Instance,
        timeout: Millis,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        self.systemd.reset_failed(&instance.unit).await.map_err(|e| step_failed(&e))?;
        let job = tokio::time::timeout(Duration::from(timeout), self.systemd.start(&instance.unit)).await;
        self.judge_start(instance, timeout, job, run).await
    }

    pub(super) async fn restart(
        &self,
        instance: &Instance,
        timeout: Millis,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        let job = tokio::time::timeout(Duration::from(timeout), self.systemd.restart(&instance.unit)).await;
        self.judge_start(instance, timeout, job, run).await
    }

    async fn judge_start(
        &self,
        instance: &Instance,
        timeout: Millis,
        job: Result<Result<JobResult, crate::host::systemd::SystemdError>, tokio::time::error::Elapsed>,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        match job {
            Ok(Ok(JobResult::Done)) => Ok(Done::default()),
            Ok(Ok(_)) => {
                let state = self.systemd.unit(&instance.unit).await.ok().flatten();
                let why = state.as_ref().map_or_else(|| "its unit is gone".to_owned(), ended);
                Err(self.start_failed(instance, &why, run).await)
            }
            Ok(Err(e)) => Err(step_failed(&e)),
            Err(_) => {
                let why = format!("it was not ready within {} s", timeout.0 / 1000);
                Err(self.start_failed(instance, &why, run).await)
            }
        }
    }

    /// A failure of an instance, with what it said last.
    pub(super) async fn start_failed(&self, instance: &Instance, why: &str, run: &Run) -> ErrorBody {
        let (app, live, label) = (app_of(run).await, self.settings.live.get(), instance.tag.label);
        let host = &live.name;
        let name = format!("{}@{}", instance.process, instance.number);
        let body = ErrorBody::new(
            ErrorCode::StartFailed,
            format!("{name} of {app} {label} did not stay up on {host}: {why}"),
            format!("deployd-ctl logs -a {app} --release {label} --instance {name}"),
        )
        .about(name.as_str());
        let place = format!("{host}, {name} of {label}, {}", instance.unit);
        self.with_log(body.cause("where", place), &instance.unit).await
    }

    /// Adds what a unit said last.
    pub(super) async fn with_log(&self, mut body: ErrorBody, unit: &str) -> ErrorBody {
        match journal::last_lines(unit, SEARCHED_LINES).await {
            Ok(lines) if lines.is_empty() => body.cause("log", "it wrote nothing"),
            Ok(lines) => {
                let earlier = lines.len().saturating_sub(LAST_LINES);
                // The shim says what to write; the stack trace that follows must not push it out.
                let ours = lines.iter().rposition(|line| line.message.starts_with(OURS));
                let ours = ours.filter(|at| *at < earlier).and_then(|at| lines.get(at));
                for line in ours.into_iter().chain(lines.iter().skip(earlier)) {
                    body = body.cause("log", line.message.clone());
                }
                body
            }
            Err(e) => body.cause("log", format!("not readable: {e}")),
        }
    }

    pub(super) async fn stop(&self, instance: &Instance, wait: bool) -> Result<Done, ErrorBody> {
        if wait {
            let result = self.systemd.stop(&instance.unit).await.map_err(|e| step_failed(&e))?;
            let state = self.systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
            if state.is_some_and(|s| !s.is_down()) {
                let message = format!("{} still runs: its stop job ended as {result:?}", instance.unit);
                let hint = format!("look at it: systemctl status {}", instance.unit);
                return Err(ErrorBody::new(ErrorCode::StepFailed, message, hint));
            }
            self.systemd.reset_failed(&instance.unit).await.map_err(|e| step_failed(&e))?;
        } else {
            self.systemd.stop_no_wait(&instance.unit).await.map_err(|e| step_failed(&e))?;
        }
        Ok(Done::default())
    }

    /// Writes down what the first instance made of its listener, before any other is loaded.
    pub(super) async fn note_nonblocking(
        &self,
        process: &ProcessName,
        found: Blocking,
        drop_in: &str,
        unit_says: bool,
        reload: bool,
    ) -> Result<Done, ErrorBody> {
        let value = found == Blocking::NonBlocking;
        if value != unit_says {
            let yes = if value { "yes" } else { "no" };
            let content =
                format!("# Learned by deployd from the first instance.\n[Service]\nNonBlocking={yes}\n");
            self.write_files(&[UnitFile { path: drop_in.to_owned(), content }]).await?;
            if reload {
                self.systemd.daemon_reload().await.map_err(|e| step_failed(&e))?;
            }
        }
        let note = if value { "non-blocking" } else { "blocking" };
        Ok(Done {
            note: Some(note.to_owned()),
            learned: Some(Change::Nonblocking { process: process.clone(), value }),
        })
    }

    /// How many connections a proxy still carries; nothing when it has ended.
    async fn carried(&self, unit: &str) -> Result<u64, ErrorBody> {
        let state = self.systemd.unit(unit).await.map_err(|e| step_failed(&e))?;
        match state.filter(|s| !s.is_down()) {
            Some(state) => connections::carried(state.control_group).await.map_err(|e| step_failed(&e)),
            None => Ok(0),
        }
    }

    /// Waits until a proxy carries nothing any more.
    pub(super) async fn await_carried(
        &self,
        proxy: &Instance,
        cap: Millis,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        let (began, limit) = (Instant::now(), Duration::from(cap).saturating_sub(run.elapsed));
        loop {
            let carried = self.carried(&proxy.unit).await?;
            if carried == 0 {
                return Ok(Done::default());
            }
            if began.elapsed() >= limit {
                return Ok(Done::note(format!("{carried} connections were cut at the end of drain_timeout")));
            }
            tokio::time::sleep(CARRIED_EVERY).await;
        }
    }

    pub(super) async fn reload_if_needed(&self, units: &[String]) -> Result<Done, ErrorBody> {
        for unit in units {
            let state = self.systemd.unit(unit).await.map_err(|e| step_failed(&e))?;
            if state.is_some_and(|s| s.need_daemon_reload) {
                self.systemd.daemon_reload().await.map_err(|e| step_failed(&e))?;
                return Ok(Done::note("reloaded"));
            }
        }
        Ok(Done::default())
    }
}

impl Drained for RealHost {
    async fn all_ended(&self, units: &[String]) -> Result<bool, ErrorBody> {
        for unit in units {
            let state = self.systemd.unit(unit).await.map_err(|e| step_failed(&e))?;
            if state.is_some_and(|s| !s.is_down()) {
                return Ok(false);
            }
        }
        for unit in units {
            self.systemd.reset_failed(unit).await.map_err(|e| step_failed(&e))?;
        }
        Ok(true)
    }

    async fn all_carried(&self, carriers: &[Carrier]) -> Result<bool, ErrorBody> {
        let mut done = true;
        for carrier in carriers {
            let since = self.carrying.since(&carrier.unit);
            let over = match carrier.drain {
                Drain::Limited(limit) => since.elapsed() >= Duration::from(limit),
                Drain::Unlimited => false,
            };
            done &= over || self.carried(&carrier.unit).await? == 0;
        }
        if done {
            for carrier in carriers {
                self.carrying.end(&carrier.unit);
            }
        }
        Ok(done)
    }
}

/// The app that is worked on.
pub(super) async fn app_of(run: &Run) -> AppName {
    run.state.lock().await.app.clone()
}

/// How a process ended, in words.
pub(super) fn ended(state: &UnitState) -> String {
    match (state.result.as_str(), state.exec_main_code, state.exec_main_status) {
        ("oom-kill", ..) => "it ran out of memory".to_owned(),
        ("exit-code", _, status) => format!("it exited with status {status}"),
        ("signal" | "core-dump", _, signal) => format!("it was killed by signal {signal}"),
        ("timeout", ..) => "systemd's time-out ended it".to_owned(),
        ("success", ..) => format!("it ended by itself ({})", state.sub_state),
        (other, ..) => format!("{other} ({})", state.sub_state),
    }
}
