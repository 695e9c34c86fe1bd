//! Ends what drains: when the last process of an old release is gone, its units and folders go too.
//!
//! Draining is not part of a deployment, because it may last for hours and must not hold the next push.
//! What is done here is idempotent and needs no journal: the state says what drains, and the host says
//! whether it still does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_api::ids::AppName;
use deployd_core::plan;
use deployd_core::state::{Change, Tag};
use tracing::{info, warn};

use crate::driver::{Port, Run, SharedState, limited, record};
use crate::supervisor::{Observer, Supervisor, store_failed};

/// How often the host is asked whether something still drains. Only while something does.
const EVERY: Duration = Duration::from_secs(1);

/// Whether all instances of an activation have ended.
pub trait Drained: Send + Sync + 'static {
    /// True when none of these units runs.
    fn all_ended(&self, units: &[String]) -> impl Future<Output = Result<bool, ErrorBody>> + Send;
    /// True when none of these proxies, whose apps have ended, carries anything any more, or each has had its
    /// time for it.
    fn all_carried(&self, carriers: &[plan::Carrier])
    -> impl Future<Output = Result<bool, ErrorBody>> + Send;
}

/// Runs for ever.
pub async fn run<H: Port + Observer + Drained>(supervisor: Arc<Supervisor<H>>) {
    let mut told: BTreeSet<(AppName, Tag)> = BTreeSet::new();
    loop {
        for (app, state) in supervisor.apps().await {
            if state.lock().await.draining.is_empty() {
                continue;
            }
            // What is tidied must not be what a deployment makes at the same time.
            let Some(_idle) = supervisor.keep_idle(&app).await else { continue };
            let draining = state.lock().await.draining.clone();
            for tag in draining {
                if told.insert((app.clone(), tag))
                    && let Err(e) = end(&supervisor, &state, tag).await
                {
                    warn!(%tag, error = %e, "failed to tell a release to end; trying again");
                    told.remove(&(app.clone(), tag));
                }
                if let Err(e) = tidy(&supervisor, &state, tag, &mut told).await {
                    warn!(%tag, error = %e, "failed to tidy up a release that has drained; trying again");
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Tells it to end, once a life of the agent: the step that should have done it may have failed.
async fn end<H: Port + Observer + Drained>(
    supervisor: &Arc<Supervisor<H>>,
    state: &SharedState,
    tag: Tag,
) -> Result<(), ErrorBody> {
    let known = state.lock().await.clone();
    for action in plan::plan_drain(&known, tag) {
        let run = Run { elapsed: Duration::ZERO, state: state.clone() };
        limited(supervisor.host(), &action, &run, plan::deadline(&action).into()).await?;
    }
    Ok(())
}

async fn tidy<H: Port + Observer + Drained>(
    supervisor: &Arc<Supervisor<H>>,
    state: &SharedState,
    tag: Tag,
    told: &mut BTreeSet<(AppName, Tag)>,
) -> Result<(), ErrorBody> {
    let known = state.lock().await.clone();
    let units: Vec<String> = plan::drained_when(&known, tag).into_iter().map(|i| i.unit).collect();
    if !supervisor.host().all_ended(&units).await?
        || !supervisor.host().all_carried(&plan::carriers(&known, tag)).await?
    {
        return Ok(());
    }
    for action in plan::plan_drained(&known, tag) {
        let run = Run { elapsed: Duration::ZERO, state: state.clone() };
        let done = limited(supervisor.host(), &action, &run, plan::deadline(&action).into()).await?;
        let changes: Vec<Change> = done.learned.into_iter().chain(action.change_at_end()).collect();
        let saved = record::save(supervisor.store(), state, &changes, None).await;
        saved.map_err(|e| store_failed(&e))?;
    }
    told.remove(&(known.app.clone(), tag));
    info!(app = %known.app, %tag, "drained");
    Ok(())
}
