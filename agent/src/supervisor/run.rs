//! Keeps the driver of a deployment going until there is a verdict.

use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_api::ids::DeploymentId;
use deployd_core::machine::Progress;
use deployd_core::plan::Plan;
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, error, info, info_span};

use super::refusal::store_failed;
use super::{Claims, Observer, Running, Slot, Supervisor};
use crate::driver::{Control, Driver, Port, Recorder, SharedState};
use crate::view::Story;

/// After this long a deployment whose journal could not be written is gone on with.
const AGAIN: Duration = Duration::from_secs(5);

impl<H: Port + Observer> Supervisor<H> {
    /// Starts a driver from where a deployment stands, with what was asked of it in an earlier life of the agent.
    pub(super) fn spawn(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        id: DeploymentId,
        plan: Plan,
        progress: Progress,
        seq: u64,
        asked: Option<Control>,
    ) -> Running {
        let (control, receiver) = mpsc::channel(4);
        if let Some(asked) = asked {
            // It is new: it takes a message.
            drop(control.try_send(asked));
        }
        let (ended_tx, ended) = watch::channel(false);
        let from = plan.from.map(|t| t.label);
        let claims = Arc::new(Claims::of(&plan));
        let running = Running { id: id.clone(), kind: plan.kind, from, claims, control, ended };
        let span = info_span!("deployment", app = %plan.app, kind = %plan.kind, id = id.short());
        let recorder = self.recorder(id, slot.state.clone(), seq);
        let driver = Driver::new(plan, progress, recorder, self.host.clone(), receiver);
        let this = self.clone();
        let work = async move {
            this.to_its_verdict(driver).await;
            ended_tx.send_replace(true);
            this.news.send_modify(|n| *n += 1);
        };
        tokio::spawn(work.instrument(span));
        running
    }

    /// Writes the records of a deployment, on from the one with this number.
    pub fn recorder(&self, id: DeploymentId, state: SharedState, seq: u64) -> Recorder {
        Recorder { id, store: self.store.clone(), state, seq, news: self.news.clone(), hold: self.hold }
    }

    /// A record that cannot be written stops the run, and nothing else of the app begins before it went
    /// on: from the last record that was written, as after a start of the agent.
    async fn to_its_verdict(&self, mut driver: Driver<Arc<H>>) {
        loop {
            match driver.run().await {
                Ok(_) => return,
                Err(e) => error!(error = %e, "its journal cannot be written: it stands still. {}", e.hint()),
            }
            while let Err(e) = self.read_again(&mut driver).await {
                error!(error = %e, "its journal cannot be read: it stands still");
                tokio::time::sleep(AGAIN).await;
            }
            tokio::time::sleep(AGAIN).await;
            info!("going on");
        }
    }

    async fn read_again(&self, driver: &mut Driver<Arc<H>>) -> Result<(), ErrorBody> {
        let id = driver.recorder.id.clone();
        let row = self.store.get(&id).await.map_err(|e| store_failed(&e))?;
        let row = row.ok_or_else(|| super::unknown_deployment(&id))?;
        let rows = self.store.load(&id).await.map_err(|e| store_failed(&e))?;
        driver.progress = Story::read(&row, &rows)?.progress;
        driver.recorder.seq = row.last_seq;
        Ok(())
    }
}
