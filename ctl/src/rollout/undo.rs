//! Taking hosts back that are live on the release, or on their way to it.

use deployd_api::deployment::{Deployment, Kind, RollbackRequest, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::Rollout;
use hyper::Method;

use super::crew;
use super::drive::Drive;
use super::outcome::Outcome;
use crate::cli::WaitFor;
use crate::client::Client;
use crate::commands::deploy::is_nothing;
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::project;
use crate::table::Tone;

/// Takes back every host that has the release, or may get it. Hosts do it at once: what serves there before
/// is warm, or starts in the time that a release of one host took.
pub(crate) async fn take_back(drive: &Drive<'_>, rollout: &Rollout) {
    let touched = |index: &usize| {
        let outcome = &drive.states()[*index].outcome;
        matches!(outcome, Outcome::Live { .. } | Outcome::Committed | Outcome::Running)
    };
    let due: Vec<usize> = (0..drive.members.len()).filter(touched).collect();
    crew::all(due.into_iter().map(|index| one(drive, rollout, index))).await;
}

async fn one(drive: &Drive<'_>, rollout: &Rollout, index: usize) {
    let view = drive.board.view(index);
    view.says("taking back");
    view.line("taking it back");
    let from = drive.members[index].from;
    match undo(drive, rollout, index).await {
        Ok(()) => {
            view.taken_back("serves again");
            view.finish(&from.map_or("taken back".to_owned(), |l| format!("{l}, taken back")), Tone::Warn);
            view.line("taken back");
            drive.set(index, Outcome::TakenBack);
        }
        Err(failure) => {
            view.finish("not taken back", Tone::Bad);
            drive.set(index, Outcome::Kept { failure });
        }
    }
}

/// Undoes one host; why it cannot be, if so.
async fn undo(drive: &Drive<'_>, rollout: &Rollout, index: usize) -> Result<(), ErrorBody> {
    let told = |error: CtlError| {
        if error.is_absence() {
            crew::absent(&drive.members[index].host.name, &error)
        } else {
            error.to_body()
        }
    };
    let known = drive.states()[index].deployment.clone();
    let is_running = matches!(drive.states()[index].outcome, Outcome::Running);
    let client = drive.client(index);
    let deployment = match (known, drive.members[index].from) {
        // The first release, or one on its way: there is nothing to go back to but to have it undone.
        (Some(deployment), from) if is_running || from.is_none() => {
            abort(&client, &deployment).await.map_err(told)?;
            deployment
        }
        (_, to) => roll_back(drive, rollout, index, to).await.map_err(told)?,
    };
    if is_nothing(&deployment) {
        return Ok(());
    }
    let view = drive.board.view(index);
    let until = if deployment.kind == Kind::Push { WaitFor::Committed } else { WaitFor::Live };
    match follow::follow(&client, &deployment, until, view).await.map_err(told)? {
        // The push itself was undone, or the way back is live.
        End::Finished { verdict: Verdict::RolledBack | Verdict::Refused, .. }
            if deployment.kind == Kind::Push =>
        {
            Ok(())
        }
        End::Live { .. } | End::Finished { verdict: Verdict::Committed, .. }
            if deployment.kind != Kind::Push =>
        {
            Ok(())
        }
        End::Finished { failure: Some(failure), .. } => Err(failure),
        End::Finished { .. } | End::Live { .. } => Err(too_late(&deployment)),
    }
}

/// Why an undo came to nothing.
pub(crate) fn too_late(deployment: &Deployment) -> ErrorBody {
    let app = &deployment.app;
    ErrorBody::new(
        ErrorCode::WrongState,
        "it was committed before it could be undone",
        format!("deployd-ctl rollback -a {app}"),
    )
}

async fn roll_back(
    drive: &Drive<'_>,
    rollout: &Rollout,
    index: usize,
    to: Option<deployd_api::ids::Label>,
) -> Result<Deployment, CtlError> {
    let id = rollout.undo(&drive.members[index].name);
    let request = RollbackRequest { id, to, origin: project::origin() };
    let path = format!("/apps/{}/rollback", rollout.app);
    Client::patiently(|| {
        let client = drive.client(index);
        let (path, request) = (&path, &request);
        async move { client.call(Method::POST, path, request).await }
    })
    .await
}

/// Has a deployment undone that runs.
pub(crate) async fn abort(client: &Client, deployment: &Deployment) -> Result<(), CtlError> {
    client.tell(Method::POST, &format!("{}/abort", follow::path(deployment))).await
}
