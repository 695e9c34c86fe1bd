//! Routes of the record of a rollout, which ctl writes on every host of it.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use deployd_api::fleet::Rollout;
use deployd_api::ids::{AppName, DeploymentId};
use serde::Deserialize;
use tracing::info;

use super::Api;
use super::answer::{Answer, body, id};
use super::apps::checked;
use super::audit::AUDIT;
use super::caller::Caller;

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// Default: the last one.
    id: Option<DeploymentId>,
}

pub(super) async fn show(
    State(api): State<Api>,
    Path(app): Path<String>,
    Query(which): Query<Which>,
) -> Answer<Rollout> {
    Ok(Json(api.supervisor.rollout(&id(&app)?, which.id.as_ref()).await?))
}

pub(super) async fn put(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Answer<Rollout> {
    let (app, mut rollout): (AppName, Rollout) = (id(&app)?, body(&bytes)?);
    checked(&rollout.document.spec)?;
    rollout.origin = caller.origin(rollout.origin);
    let rollout = api.supervisor.put_rollout(&app, rollout).await?;
    let (id, label, state) = (&rollout.id, rollout.label, &rollout.state);
    info!(target: AUDIT, audit = "rollout", caller = caller.name, %app, %id, %label, ?state, "a rollout was noted");
    Ok(Json(rollout))
}
