//! `status`: the app's state, and what PID 1, the kernel and the release's own checks say of it now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deployd_api::deployment::Verdict;
use deployd_api::error::ErrorBody;
use deployd_api::ids::{AppName, ProcessName, Timestamp};
use deployd_api::release::Origin;
use deployd_api::spec::{CheckKind, Drain};
use deployd_api::status::{AppStatus, InstanceStatus, ProcessStatus, Role};
use deployd_core::state::{AppState, Tag};
use deployd_core::units::Activation;
use futures_util::future::join_all;

use crate::driver::SharedState;
use crate::effects::{RealHost, step_failed};
use crate::supervisor::{Supervisor, store_failed};
use crate::view;

type Deployd = Arc<Supervisor<RealHost>>;

/// How long the use of CPU is measured: long enough to mean something, short enough to wait for.
const CPU_WINDOW: Duration = Duration::from_millis(250);

/// The status of an app. What is told of checks and CPU is measured now.
pub async fn app(deployd: &Deployd, app: &AppName) -> Result<AppStatus, ErrorBody> {
    let shared = deployd.app(app).await?;
    let state = shared.lock().await.clone();
    let running = match deployd.running(app).await {
        Some(id) => deployd.known(&id).await?,
        None => None,
    };
    let mut rows = Vec::new();
    for (tag, role) in activations(&state) {
        let Some(release) = state.releases.get(&tag.label) else { continue };
        let of = Activation { tag, release };
        for process in of.processes() {
            rows.push(one(deployd, of, &process, role).await?);
        }
    }
    let asked = join_all(rows.iter().map(|row| checks(deployd, row, &shared, state.stopped)));
    let (found, ()) = tokio::join!(asked, tokio::time::sleep(CPU_WINDOW));
    for (row, checks) in rows.iter_mut().zip(found) {
        row.status.checks = checks;
        measure(deployd, row).await?;
    }
    let live = state.live_release();
    Ok(AppStatus {
        app: app.clone(),
        host: deployd.host().settings.live.get().name.clone(),
        live: state.live.map(|t| t.label),
        live_since: state.live_since,
        origin: live.map_or_else(Origin::default, |r| r.origin.clone()),
        committed: state.committed_at.filter(|_| state.committed == state.live),
        stopped: state.stopped,
        deployment: running,
        last_failure: last_failure(deployd, app).await?,
        processes: rows.into_iter().map(|row| row.status).collect(),
    })
}

/// A row in the making.
struct Row<'a> {
    of: Activation<'a>,
    status: ProcessStatus,
    /// When each instance's use of CPU was read.
    read: Vec<Instant>,
}

/// Everything that may run, the live release first.
fn activations(state: &AppState) -> Vec<(Tag, Role)> {
    let mut all: Vec<(Tag, Role)> = Vec::new();
    let named = [(state.live, Role::Live), (state.candidate, Role::Candidate), (state.warm, Role::Warm)];
    let draining = state.draining.iter().map(|t| (Some(*t), Role::Draining));
    for (tag, role) in named.into_iter().chain(draining) {
        if let Some(tag) = tag.filter(|t| all.iter().all(|(known, _)| known != t)) {
            all.push((tag, role));
        }
    }
    all
}

async fn one<'a>(
    deployd: &Deployd,
    of: Activation<'a>,
    process: &ProcessName,
    role: Role,
) -> Result<Row<'a>, ErrorBody> {
    let spec = &of.spec().processes[process];
    let (mut instances, mut read) = (Vec::new(), Vec::new());
    for instance in of.instances_of(process) {
        let unit = deployd.host().systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
        let Some(unit) = unit else { continue };
        read.push(Instant::now());
        instances.push(InstanceStatus {
            number: instance.number,
            since: unit.active_enter.filter(|_| unit.is_active()),
            ending_since: unit.active_exit.filter(|_| unit.active_state == "deactivating"),
            pid: unit.main_pid,
            restarts: unit.n_restarts,
            memory: unit.memory_current,
            cpu_us: unit.cpu_usage_nsec.map(|n| n / 1000),
            cpu_percent: None,
            active_state: unit.active_state,
            sub_state: unit.sub_state,
        });
    }
    let status = ProcessStatus {
        label: of.tag.label,
        process: process.clone(),
        role,
        wanted: spec.instances,
        connections: deployd.host().connections(of, process).await?,
        checks: Vec::new(),
        cut_at: cut_at(of, process, role, &instances),
        instances,
        memory_limit: spec.memory,
    };
    Ok(Row { of, status, read })
}

/// When systemd ends what still drains, whatever connections it has.
fn cut_at(
    of: Activation<'_>,
    process: &ProcessName,
    role: Role,
    instances: &[InstanceStatus],
) -> Option<Timestamp> {
    let spec = of.spec();
    let limit = match (spec.listeners_of(process).next(), spec.deploy.drain_timeout) {
        (None, _) => spec.processes[process].kill_timeout,
        (Some(_), Drain::Limited(limit)) => limit,
        (Some(_), Drain::Unlimited) => return None,
    };
    let last = instances.iter().filter_map(|i| i.ending_since).max().filter(|_| role == Role::Draining)?;
    Some(Timestamp(last.0 + limit.0))
}

/// What the checks of a row find now. A release that ends is not asked, and neither is one that still starts.
async fn checks(
    deployd: &Deployd,
    row: &Row<'_>,
    shared: &SharedState,
    stopped: bool,
) -> Vec<(String, String)> {
    let (of, status) = (row.of, &row.status);
    let up = |i: &InstanceStatus| i.active_state == "active";
    let all_up = status.instances.len() == status.wanted as usize && status.instances.iter().all(up);
    // No mark tells two releases on one Unix socket apart.
    let apart = of.sockets_of(&status.process).iter().all(deployd_core::action::Socket::is_grouped);
    let asked = match status.role {
        Role::Live => !stopped,
        Role::Candidate | Role::Warm => all_up && apart,
        Role::Draining => false,
    };
    if !asked {
        return Vec::new();
    }
    let mut found = deployd.host().ask_checks(of, &status.process, shared).await;
    for (name, check) in &of.spec().checks {
        // systemd holds the unit back until it has said that it is ready.
        if matches!(&check.kind, CheckKind::Notify { process } if *process == status.process) {
            let late = status.instances.iter().find(|i| !up(i));
            let told = late.map_or_else(
                || "ok".to_owned(),
                |i| format!("{}@{} is {}", status.process, i.number, i.active_state),
            );
            found.push((name.to_string(), told));
        }
    }
    found.sort();
    found
}

/// The use of CPU since the instances were read first.
async fn measure(deployd: &Deployd, row: &mut Row<'_>) -> Result<(), ErrorBody> {
    let units = row.of.instances_of(&row.status.process);
    for (instance, read) in row.status.instances.iter_mut().zip(&row.read) {
        let Some(before) = instance.cpu_us else { continue };
        let Some(unit) = units.iter().find(|u| u.number == instance.number) else { continue };
        let now = deployd.host().systemd.unit(&unit.unit).await.map_err(|e| step_failed(&e))?;
        // Another process has another count.
        let same = now.filter(|n| n.main_pid == instance.pid).and_then(|n| n.cpu_usage_nsec);
        let used = same.and_then(|ns| (ns / 1000).checked_sub(before));
        instance.cpu_percent = used.map(|us| 100.0 * us as f64 / read.elapsed().as_micros().max(1) as f64);
    }
    Ok(())
}

/// The last deployment, if it did not end as asked.
async fn last_failure(
    deployd: &Deployd,
    app: &AppName,
) -> Result<Option<deployd_api::deployment::Deployment>, ErrorBody> {
    let rows = deployd.store().recent(app, 2).await.map_err(|e| store_failed(&e))?;
    let Some(row) = rows.into_iter().find(|r| r.finish.is_some()) else { return Ok(None) };
    // A journal that cannot be read is told by `doctor`; what serves can be shown all the same.
    let Ok(records) = deployd.store().load(&row.new.id).await else { return Ok(None) };
    let Ok(last) = view::deployment(&row, &records) else { return Ok(None) };
    Ok(Some(last).filter(|d| d.verdict != Some(Verdict::Committed)))
}
