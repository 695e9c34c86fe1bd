//! `status` and `releases`: the app's state, and what PID 1 and the kernel say of it now.

use std::sync::Arc;

use deployd_api::deployment::Verdict;
use deployd_api::error::ErrorBody;
use deployd_api::ids::{AppName, ProcessName};
use deployd_api::release::{Origin, ReleaseRow, ReleaseState};
use deployd_api::spec::Address;
use deployd_api::status::{AppStatus, InstanceStatus, ProcessStatus, Role};
use deployd_core::state::{AppState, Tag};
use deployd_core::units::Activation;

use crate::effects::{RealHost, bound, step_failed};
use crate::host::connections;
use crate::host::listener::{LocalAddress, Stack};
use crate::supervisor::{Supervisor, store_failed};
use crate::view;

type Deployd = Arc<Supervisor<RealHost>>;

/// The status of an app.
pub async fn app(deployd: &Deployd, app: &AppName) -> Result<AppStatus, ErrorBody> {
    let state = deployd.app(app).await?.lock().await.clone();
    let running = match deployd.running(app).await {
        Some(id) => deployd.known(&id).await?,
        None => None,
    };
    let mut processes = Vec::new();
    for (tag, role) in activations(&state) {
        let Some(release) = state.releases.get(&tag.label) else { continue };
        let of = Activation { tag, release };
        for process in of.processes() {
            processes.push(one(deployd, of, &process, role).await?);
        }
    }
    let live = state.live_release();
    Ok(AppStatus {
        app: app.clone(),
        host: deployd.host().settings.name.clone(),
        live: state.live.map(|t| t.label),
        live_since: state.live_since,
        origin: live.map_or_else(Origin::default, |r| r.origin.clone()),
        committed: state.committed_at.filter(|_| state.committed == state.live),
        stopped: state.stopped,
        deployment: running,
        last_failure: last_failure(deployd, app).await?,
        processes,
    })
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

async fn one(
    deployd: &Deployd,
    of: Activation<'_>,
    process: &ProcessName,
    role: Role,
) -> Result<ProcessStatus, ErrorBody> {
    let spec = &of.spec().processes[process];
    let (mut instances, mut groups) = (Vec::new(), Vec::new());
    for instance in of.instances_of(process) {
        let unit = deployd.host().systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
        let Some(unit) = unit else { continue };
        groups.push(unit.control_group.clone());
        instances.push(InstanceStatus {
            number: instance.number,
            since: unit.active_enter.filter(|_| unit.is_active()),
            pid: unit.main_pid,
            restarts: unit.n_restarts,
            memory: unit.memory_current,
            cpu_us: unit.cpu_usage_nsec.map(|n| n / 1000),
            active_state: unit.active_state,
            sub_state: unit.sub_state,
        });
    }
    let listeners: Vec<_> = of.sockets_of(process).iter().filter_map(|s| local(&s.address)).collect();
    let connections = if listeners.is_empty() {
        None
    } else {
        let counted = connections::count(vec![groups], listeners).await.map_err(|e| step_failed(&e))?;
        counted.first().map(|c| c.established + c.half_closed)
    };
    Ok(ProcessStatus {
        label: of.tag.label,
        process: process.clone(),
        role,
        wanted: spec.instances,
        instances,
        connections,
        checks: Vec::new(),
        memory_limit: spec.memory,
    })
}

/// The last deployment, if it did not end as asked.
async fn last_failure(
    deployd: &Deployd,
    app: &AppName,
) -> Result<Option<deployd_api::deployment::Deployment>, ErrorBody> {
    let rows = deployd.store().recent(app, 2).await.map_err(|e| store_failed(&e))?;
    let Some(row) = rows.into_iter().find(|r| r.finish.is_some()) else { return Ok(None) };
    let records = deployd.store().load(&row.new.id).await.map_err(|e| store_failed(&e))?;
    let last = view::deployment(&row, &records)?;
    Ok(Some(last).filter(|d| d.verdict != Some(Verdict::Committed)))
}

/// The releases of an app, newest first.
pub async fn releases(deployd: &Deployd, app: &AppName) -> Result<Vec<ReleaseRow>, ErrorBody> {
    let state = deployd.app(app).await?.lock().await.clone();
    let rows = state.releases.values().rev().map(|r| ReleaseRow {
        label: r.label,
        digest: r.digest,
        state: if state.live.is_some_and(|t| t.label == r.label) { ReleaseState::Live } else { r.state },
        created: r.created,
        origin: r.origin.clone(),
        changed: r.changed.clone(),
        reason: r.failure.as_ref().map(|f| f.message.clone()),
        size: r.size,
    });
    Ok(rows.collect())
}

/// A listener as the kernel lists it.
fn local(address: &Address) -> Option<LocalAddress> {
    let stack = if matches!(address, Address::Any { .. }) { Stack::Dual } else { Stack::Single };
    match (address, bound(address)) {
        (Address::Unix { path }, _) => Some(LocalAddress::Unix(Some(path.into()))),
        (_, addr) => Some(LocalAddress::Tcp { addr: addr?, stack }),
    }
}
