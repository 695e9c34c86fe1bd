//! The supervisor's answers that say no, each with what to do next.

use deployd_api::deployment::Deployment;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, DeploymentId};

use crate::store::StoreError;

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, ErrorBody> {
    serde_json::to_string(value).map_err(|e| {
        ErrorBody::new(
            ErrorCode::Internal,
            format!("failed to write a document: {e}"),
            "please report this defect",
        )
    })
}

/// A failure of the store as an answer.
pub fn store_failed(e: &StoreError) -> ErrorBody {
    let code = if e.is_full() { ErrorCode::DiskLow } else { ErrorCode::Internal };
    ErrorBody::new(code, e.to_string(), e.hint())
}

pub(super) fn unknown_app(app: &AppName) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::AppNotFound,
        format!("there is no app {app} on this host"),
        "deployd-ctl status --all lists the apps; deployd-ctl push DIR makes one",
    )
}

/// No such deployment.
pub fn unknown_deployment(id: &DeploymentId) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::DeploymentNotFound,
        format!("there is no deployment {id} on this host"),
        "deployd-ctl status --all shows what runs",
    )
}

pub(super) fn lease_held(app: &AppName, by: &Deployment) -> ErrorBody {
    let who = if by.origin.by.is_empty() { String::new() } else { format!(" by {}", by.origin.by) };
    let label = by.label.map(|l| format!(" {l}")).unwrap_or_default();
    let step = by.step.as_deref().unwrap_or("it is about to end");
    ErrorBody::new(
        ErrorCode::LeaseHeld,
        format!("{app} has a {} of{label} under way{who}", by.kind),
        format!("wait for it (deployd-ctl status -a {app}), or end it: deployd-ctl abort -a {app}"),
    )
    .cause("now", step)
}

/// The work on a request ended without an answer: the agent ends, or has a defect.
pub(super) fn broken(e: &tokio::task::JoinError) -> ErrorBody {
    let hint = "ask again: a request that was taken is known by its id; journalctl -u deployd says more";
    ErrorBody::new(ErrorCode::Internal, "the agent did not come to an answer", hint)
        .cause("because", e.to_string())
}

/// Somebody has to look: what is not understood is not changed.
pub(super) fn unreadable(app: &AppName, why: &str) -> ErrorBody {
    let message = format!("what this host knows of {app} cannot be read, so nothing is done to it");
    let hint = "install the deployd that wrote it, or a newer one; the app goes on running meanwhile";
    ErrorBody::new(ErrorCode::Internal, message, hint).cause("because", why.to_owned())
}
