//! Routes of leases, and the header of calls that are made under one.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::{LEASE_HEADER, Lease, LeaseRequest};
use deployd_api::ids::{AppName, DeploymentId};
use serde::Deserialize;
use tracing::info;

use super::Api;
use super::answer::{Answer, Refused, body, id};
use super::audit::AUDIT;
use super::caller::Caller;
use crate::supervisor::Claim;

/// Longest text that a lease carries.
const TEXT_MAX: usize = 200;

/// The lease that a call is made under.
pub(super) fn claimed(headers: &HeaderMap) -> Result<Option<Claim>, Refused> {
    let Some(value) = headers.get(LEASE_HEADER) else { return Ok(None) };
    Ok(Some(value.to_str().unwrap_or_default().parse::<Claim>()?))
}

pub(super) async fn show(State(api): State<Api>, Path(app): Path<String>) -> Answer<Option<Lease>> {
    Ok(Json(api.supervisor.lease(&id(&app)?).await?))
}

pub(super) async fn take(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Answer<Lease> {
    let (app, mut request): (AppName, LeaseRequest) = (id(&app)?, body(&bytes)?);
    request.holder = caller.by(request.holder);
    let long = [&request.holder, &request.reason].into_iter().any(|text| text.len() > TEXT_MAX);
    if long || request.ttl_ms == 0 {
        let message = "a lease has a time, and a holder and a reason of at most 200 bytes";
        return Err(ErrorBody::new(ErrorCode::BadRequest, message, "shorten them").into());
    }
    Ok(Json(api.supervisor.take_lease(&app, &request).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Whose {
    id: DeploymentId,
}

/// Gives it up; one that another holds stays. Answers who holds it then.
pub(super) async fn give_up(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    Query(whose): Query<Whose>,
) -> Answer<Option<Lease>> {
    let app: AppName = id(&app)?;
    let held = api.supervisor.give_up_lease(&app, &whose.id).await?;
    info!(target: AUDIT, audit = "lease", caller = caller.name, %app, id = %whose.id, "a lease was given up");
    Ok(Json(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_strictly() {
        let mut headers = HeaderMap::new();
        assert!(claimed(&headers).unwrap().is_none());
        headers.insert(LEASE_HEADER, "deployment-00000001;3".parse().unwrap());
        assert_eq!(claimed(&headers).unwrap().unwrap().epoch, 3);
        headers.insert(LEASE_HEADER, "deployment-00000001".parse().unwrap());
        assert_eq!(claimed(&headers).unwrap_err().0.code, ErrorCode::BadRequest);
    }
}
