//! What a running deployment does for a newer request: its watch ends early, or it goes back.

use deployd_api::deployment::{Deployment, Kind};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, DeploymentId};
use deployd_api::release::Origin;
use deployd_core::plan::Request;

use super::refusal::{lease_held, store_failed, unknown_deployment};
use super::{Observer, Running, Supervisor, alias};
use crate::driver::{Control, Port};
use crate::view::Story;

impl<H: Port + Observer> Supervisor<H> {
    /// The deployment that answers the request instead of a new one; `None` when the way is free.
    pub(super) async fn make_way(
        &self,
        app: &AppName,
        current: &Running,
        request: &Request,
        id: &DeploymentId,
        origin: &Origin,
    ) -> Result<Option<Deployment>, ErrorBody> {
        if undoes(current, request) && self.undo(app, current, origin).await? {
            let target = current.id.to_string();
            self.store.put_meta(alias(id), target).await.map_err(|e| store_failed(&e))?;
            return self.known(&current.id).await;
        }
        let deployment = self.known(&current.id).await?.ok_or_else(|| unknown_deployment(&current.id))?;
        let watched = deployment.live && deployment.verdict.is_none() && deployment.watched_until.is_some();
        let late = undoes(current, request) && deployment.live;
        if deployment.verdict.is_none() && !watched && !late {
            return Err(lease_held(app, &deployment));
        }
        drop(current.control.try_send(Control::Supersede));
        let mut ended = current.ended.clone();
        // If its sender is gone, it has ended too.
        drop(ended.wait_for(|e| *e).await);
        Ok(None)
    }

    /// Has the running deployment undone; false when it is too late for that.
    async fn undo(&self, app: &AppName, current: &Running, origin: &Origin) -> Result<bool, ErrorBody> {
        let who = if origin.by.is_empty() { "an operator".to_owned() } else { origin.by.clone() };
        let message = format!("{who} rolled {app} back");
        let failure = ErrorBody::new(ErrorCode::Aborted, message, "push again when it is mended");
        // Watched before it is asked, so that no answer is missed.
        let mut news = self.news.subscribe();
        drop(current.control.try_send(Control::Abort(Box::new(failure))));
        loop {
            let story = self.story(&current.id).await?;
            if story.progress.failure().is_some() {
                return Ok(true);
            }
            if story.progress.crossed() || story.progress.verdict().is_some() {
                return Ok(false);
            }
            drop(news.changed().await);
        }
    }

    async fn story(&self, id: &DeploymentId) -> Result<Story, ErrorBody> {
        let row = self.store.get(id).await.map_err(|e| store_failed(&e))?;
        let row = row.ok_or_else(|| unknown_deployment(id))?;
        let rows = self.store.load(id).await.map_err(|e| store_failed(&e))?;
        Story::read(&row, &rows)
    }
}

/// Whether the request asks for what the deployment replaces.
fn undoes(current: &Running, request: &Request) -> bool {
    let Request::Rollback { to } = request else { return false };
    current.kind == Kind::Push && current.from.is_some() && (to.is_none() || *to == current.from)
}
