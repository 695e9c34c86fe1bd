//! Routes of the record of a rollout, which ctl writes on every host of it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::Rollout;
use deployd_api::ids::{AppName, DeploymentId};
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, body, id};
use super::apps::checked;

/// Largest record: thousands of hosts, and a spec.
const BYTES_MAX: usize = 4 << 20;

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

pub(super) async fn put(State(api): State<Api>, Path(app): Path<String>, bytes: Bytes) -> Answer<Rollout> {
    if bytes.len() > BYTES_MAX {
        let message = format!("the record of a rollout has at most {BYTES_MAX} bytes");
        let hint = "make the spec shorter, or deploy to fewer hosts at once";
        return Err(ErrorBody::new(ErrorCode::BadRequest, message, hint).into());
    }
    let (app, rollout): (AppName, Rollout) = (id(&app)?, body(&bytes)?);
    checked(&rollout.document.spec)?;
    Ok(Json(api.supervisor.put_rollout(&app, rollout).await?))
}
