//! Routes of apps: push, plan, rollback, start, stop, restart, remove, status, releases, doctor.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use deployd_api::deployment::{
    Deployment, OperateRequest, PlanAnswer, PlanRequest, PushRequest, RollbackRequest,
};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label};
use deployd_api::release::{ReleaseDocument, ReleaseRow};
use deployd_api::spec::Spec;
use deployd_api::status::{AppStatus, DoctorReport};
use deployd_core::plan::Request;
use futures_util::future::join_all;

use super::Api;
use super::answer::{Answer, Refused, body, id};
use super::caller::Caller;
use crate::observe;

type Accepted = Result<(StatusCode, Json<Deployment>), Refused>;

/// 202 while it runs, 200 when there was nothing to do.
fn accepted(deployment: Deployment) -> (StatusCode, Json<Deployment>) {
    let status = if deployment.verdict.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    (status, Json(deployment))
}

/// A right is that to the app of the path: what is sent must be of the same.
pub(super) fn same_app(path: &AppName, sent: &AppName) -> Result<(), Refused> {
    if path == sent {
        return Ok(());
    }
    let message = format!("the path says {path}, what was sent says {sent}");
    Err(ErrorBody::new(ErrorCode::BadRequest, message, "send it to its own app's route").into())
}

/// A document is ctl's, or anyone's who may call: what is in it ends up in unit files.
fn checked(spec: &Spec) -> Result<(), Refused> {
    let faults = spec.check();
    let Some(first) = faults.first() else { return Ok(()) };
    let (key, hint) = (first.path.join("."), first.hint.clone());
    let body = ErrorBody::new(ErrorCode::SpecInvalid, format!("{key}: {}", first.what), hint);
    let more = faults.iter().skip(1);
    Err(more.fold(body, |body, fault| body.cause("and", fault.to_string())).into())
}

pub(super) async fn push(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    let (app, mut request): (AppName, PushRequest) = (id(&app)?, body(&bytes)?);
    request.origin = caller.origin(request.origin);
    same_app(&app, &request.spec.app)?;
    checked(&request.spec)?;
    let document = Box::new(ReleaseDocument::new(request.artifact, request.spec));
    let origin = request.origin.clone();
    let push = Request::Push { document, strategy: request.strategy, origin: request.origin };
    // From here on its plan looks at the disk, and counts what it needs itself; however it ends.
    api.reserved.release(&app, request.artifact);
    Ok(accepted(api.supervisor.submit(&app, request.id, push, origin).await?))
}

pub(super) async fn plan(
    State(api): State<Api>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Answer<PlanAnswer> {
    let (app, request): (AppName, PlanRequest) = (id(&app)?, body(&bytes)?);
    same_app(&app, &request.spec.app)?;
    checked(&request.spec)?;
    Ok(Json(observe::plan::answer(&api.supervisor, request).await?))
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    let (app, request): (AppName, RollbackRequest) = (id(&app)?, body(&bytes)?);
    let rollback = Request::Rollback { to: request.to };
    let origin = caller.origin(request.origin);
    Ok(accepted(api.supervisor.submit(&app, request.id, rollback, origin).await?))
}

async fn operate(api: Api, caller: Caller, app: String, bytes: Bytes, what: Request) -> Accepted {
    let (app, request): (AppName, OperateRequest) = (id(&app)?, body(&bytes)?);
    let origin = caller.origin(request.origin);
    Ok(accepted(api.supervisor.submit(&app, request.id, what, origin).await?))
}

pub(super) async fn start(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    operate(api, caller, app, bytes, Request::Start).await
}

pub(super) async fn stop(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    operate(api, caller, app, bytes, Request::Stop).await
}

pub(super) async fn restart(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    operate(api, caller, app, bytes, Request::Restart).await
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Accepted {
    operate(api, caller, app, bytes, Request::Remove).await
}

pub(super) async fn list(State(api): State<Api>) -> Answer<Vec<AppStatus>> {
    let apps = api.supervisor.apps().await;
    // Side by side: each waits for its own checks.
    let all = join_all(apps.iter().map(|(app, _)| observe::status::app(&api.supervisor, app))).await;
    // One that was removed meanwhile is none of them.
    let gone = |one: &Result<AppStatus, ErrorBody>| matches!(one, Err(e) if e.code == ErrorCode::AppNotFound);
    Ok(Json(all.into_iter().filter(|one| !gone(one)).collect::<Result<_, _>>()?))
}

pub(super) async fn status(State(api): State<Api>, Path(app): Path<String>) -> Answer<AppStatus> {
    Ok(Json(observe::status::app(&api.supervisor, &id(&app)?).await?))
}

pub(super) async fn releases(State(api): State<Api>, Path(app): Path<String>) -> Answer<Vec<ReleaseRow>> {
    Ok(Json(observe::releases::list(&api.supervisor, &id(&app)?).await?))
}

pub(super) async fn clear(
    State(api): State<Api>,
    Path((app, label)): Path<(String, String)>,
) -> Answer<Vec<ReleaseRow>> {
    let (app, label): (AppName, Label) = (id(&app)?, id(&label)?);
    api.supervisor.clear(&app, label).await?;
    Ok(Json(observe::releases::list(&api.supervisor, &app).await?))
}

pub(super) async fn doctor(State(api): State<Api>) -> Answer<DoctorReport> {
    Ok(Json(observe::doctor::report(&api.supervisor, api.notices.looks(&api.trust)).await?))
}
