//! Ends what drains: when the last process of an old release is gone, its units and folders go too.
//!
//! Draining is not part of a deployment, because it may last for hours and must not hold the next push.
//! What is done here is idempotent and needs no journal: the state says what drains, and the host says
//! whether it still does.

use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_core::action::Action;
use deployd_core::state::{AppState, Change, Tag};
use deployd_core::units::{self, Activation};
use tracing::{info, warn};

use crate::driver::{Port, Run, SharedState, record};
use crate::supervisor::{Observer, Supervisor};

/// How often the host is asked whether something still drains. Only while something does.
const EVERY: Duration = Duration::from_secs(1);

/// Whether all instances of an activation have ended.
pub trait Drained: Send + Sync + 'static {
    /// True when none of these units runs.
    fn all_ended(&self, units: &[String]) -> impl Future<Output = Result<bool, ErrorBody>> + Send;
}

/// Runs for ever.
pub async fn run<H: Port + Observer + Drained>(supervisor: Arc<Supervisor<H>>) {
    loop {
        for (_, state) in supervisor.apps().await {
            let draining = state.lock().await.draining.clone();
            for tag in draining {
                if let Err(e) = tidy(&supervisor, &state, tag).await {
                    warn!(%tag, error = %e, "failed to tidy up a release that has drained; trying again");
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn tidy<H: Port + Observer + Drained>(
    supervisor: &Arc<Supervisor<H>>,
    state: &SharedState,
    tag: Tag,
) -> Result<(), ErrorBody> {
    let known = state.lock().await.clone();
    let Some(release) = known.releases.get(&tag.label) else {
        return forget(supervisor, state, tag).await;
    };
    let of = Activation { tag, release };
    let units: Vec<String> = of.instances().into_iter().map(|i| i.unit).collect();
    if !supervisor.host().all_ended(&units).await? {
        return Ok(());
    }
    for action in endings(&known, of) {
        let run = Run { elapsed: Duration::ZERO, state: state.clone(), failure: None };
        supervisor.host().apply(&action, &run).await?;
    }
    forget(supervisor, state, tag).await?;
    info!(app = %known.app, %tag, "drained");
    Ok(())
}

/// The proxies end last, because they carry the connections of the processes; then files and folders.
fn endings(state: &AppState, of: Activation<'_>) -> Vec<Action> {
    let processes = of.processes();
    let proxies = processes.iter().flat_map(|p| of.proxies_of(p));
    let mut actions: Vec<Action> =
        proxies.map(|instance| Action::StopInstance { instance, wait: true }).collect();
    let mut paths: Vec<String> = of.files("", None, &|_| false).into_iter().map(|f| f.path).collect();
    paths.extend(processes.iter().map(|p| units::nonblocking_drop_in(&state.app, p, of.tag)));
    // Units of Unix sockets carry no label: they belong to whoever serves.
    let shared = |path: &String| {
        let live =
            state.live.and_then(|t| Some(Activation { tag: t, release: state.releases.get(&t.label)? }));
        live.is_some_and(|l| l.sockets().iter().any(|s| units::path(&s.unit) == *path))
    };
    paths.retain(|p| !shared(p));
    actions.push(Action::RemoveFiles { paths });
    actions
}

async fn forget<H: Port + Observer>(
    supervisor: &Arc<Supervisor<H>>,
    state: &SharedState,
    tag: Tag,
) -> Result<(), ErrorBody> {
    record::save(supervisor.store(), state, &[Change::Drained { tag }], None)
        .await
        .map_err(|e| crate::supervisor::store_failed(&e))
}
