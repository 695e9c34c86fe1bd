//! What a host keeps for the fleet: leases and rollouts.

use deployd_api::error::ErrorBody;
use deployd_api::fleet::{Lease, LeaseRequest, Rollout};
use deployd_api::ids::{AppName, DeploymentId};

use super::{Observer, Supervisor, rollouts};
use crate::driver::Port;

impl<H: Port + Observer> Supervisor<H> {
    /// Who holds the deploy lock of an app.
    pub async fn lease(&self, app: &AppName) -> Result<Option<Lease>, ErrorBody> {
        self.leases.shown(app).await
    }

    /// Takes the deploy lock, or renews it.
    pub async fn take_lease(&self, app: &AppName, request: &LeaseRequest) -> Result<Lease, ErrorBody> {
        self.leases.take(app, request).await
    }

    /// Gives the deploy lock up; answers who holds it then.
    pub async fn give_up_lease(&self, app: &AppName, id: &DeploymentId) -> Result<Option<Lease>, ErrorBody> {
        self.leases.give_up(app, id).await
    }

    /// A rollout by its id, or the last one of the app.
    pub async fn rollout(&self, app: &AppName, id: Option<&DeploymentId>) -> Result<Rollout, ErrorBody> {
        rollouts::find(&self.store, app, id).await
    }

    /// The rollouts of an app that have not ended.
    pub async fn open_rollouts(&self, app: &AppName) -> Result<Vec<Rollout>, ErrorBody> {
        rollouts::open(&self.store, app).await
    }

    /// Keeps what ctl says of a rollout.
    pub async fn put_rollout(&self, app: &AppName, rollout: Rollout) -> Result<Rollout, ErrorBody> {
        // Two that are written at once must not lose one.
        let _writing = self.rollouts.lock().await;
        rollouts::put(&self.store, app, rollout).await
    }
}
