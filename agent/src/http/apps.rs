//! Routes of apps that look, and what a document that arrives must hold: plan, status, releases, doctor. What
//! changes an app is in `changes`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use deployd_api::deployment::{PlanAnswer, PlanRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label, ProcessName};
use deployd_api::release::ReleaseRow;
use deployd_api::spec::Spec;
use deployd_api::status::{AppStatus, DoctorReport};
use futures_util::future::join_all;
use tracing::info;

use super::Api;
use super::answer::{Answer, Refused, body, id};
use super::audit::AUDIT;
use super::caller::Caller;
use crate::observe;

/// A right is that to the app of the path: what is sent must be of the same.
pub(super) fn same_app(path: &AppName, sent: &AppName) -> Result<(), Refused> {
    if path == sent {
        return Ok(());
    }
    let message = format!("the path says {path}, what was sent says {sent}");
    Err(ErrorBody::new(ErrorCode::BadRequest, message, "send it to its own app's route").into())
}

/// A document is ctl's, or anyone's who may call: what is in it ends up in unit files.
pub(super) fn checked(spec: &Spec) -> Result<(), Refused> {
    let faults = spec.check();
    let Some(first) = faults.first() else { return Ok(()) };
    let (key, hint) = (first.path.join("."), first.hint.clone());
    let body = ErrorBody::new(ErrorCode::SpecInvalid, format!("{key}: {}", first.what), hint);
    let more = faults.iter().skip(1);
    Err(more.fold(body, |body, fault| body.cause("and", fault.to_string())).into())
}

/// What of a spec is to run here: processes that it has.
pub(super) fn placed(spec: &Spec, processes: Option<&Vec<ProcessName>>) -> Result<(), Refused> {
    let Some(processes) = processes else { return Ok(()) };
    let unknown = processes.iter().find(|name| !spec.processes.contains_key(*name));
    let message = match unknown {
        Some(name) => format!("{} has no process {name}", spec.app),
        None if processes.is_empty() => format!("no process of {} is to run here", spec.app),
        None => return Ok(()),
    };
    Err(ErrorBody::new(ErrorCode::BadRequest, message, "name processes of the spec, at least one").into())
}

pub(super) async fn plan(
    State(api): State<Api>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Answer<PlanAnswer> {
    let (app, request): (AppName, PlanRequest) = (id(&app)?, body(&bytes)?);
    same_app(&app, &request.spec.app)?;
    checked(&request.spec)?;
    placed(&request.spec, request.processes.as_ref())?;
    Ok(Json(observe::plan::answer(&api.supervisor, request).await?))
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
    Extension(caller): Extension<Caller>,
    Path((app, label)): Path<(String, String)>,
) -> Answer<Vec<ReleaseRow>> {
    let (app, label): (AppName, Label) = (id(&app)?, id(&label)?);
    api.supervisor.clear(&app, label).await?;
    info!(target: AUDIT, audit = "clear", caller = caller.name, %app, %label, "a release was cleared");
    Ok(Json(observe::releases::list(&api.supervisor, &app).await?))
}

pub(super) async fn doctor(State(api): State<Api>) -> Answer<DoctorReport> {
    Ok(Json(observe::doctor::report(&api.supervisor, api.notices.looks(&api.trust)).await?))
}
