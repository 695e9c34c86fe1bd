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
    let is_committed = matches!(drive.states()[index].outcome, Outcome::Committed);
    let client = drive.client(index);
    let deployment = match (known, drive.members[index].from) {
        // Its data would go with it: that is a person's to say.
        (Some(deployment), None) if is_committed => return Err(too_late(&deployment)),
        // The first release, or one on its way: there is nothing to go back to but to have it undone.
        (Some(deployment), from) if is_running || from.is_none() => {
            Client::patiently(|| abort(&client, &deployment)).await.map_err(told)?;
            deployment
        }
        (_, to) => roll_back(drive, rollout, index, to).await.map_err(told)?,
    };
    if is_nothing(&deployment) {
        return Ok(());
    }
    let view = drive.board.view(index);
    let until = if deployment.kind == Kind::Push { WaitFor::Committed } else { WaitFor::Live };
    // While a push is watched, the answer is that push: what was shown is not shown again.
    let mut after = drive.seen(index, &deployment);
    match follow::follow_on(&client, &deployment, until, view, &mut after).await.map_err(told)? {
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
    let (what, verb) = match deployment.replaces {
        Some(_) => ("it was committed before it could be undone", "rollback"),
        None => ("it is the first release there, and was committed before it could be undone", "remove"),
    };
    ErrorBody::new(ErrorCode::WrongState, what, format!("deployd-ctl {verb} -a {app}"))
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
        let (path, request) = (&path, &request);
        drive.leased(index, move |client| async move { client.call(Method::POST, path, request).await })
    })
    .await
}

/// Has a deployment undone that runs.
pub(crate) async fn abort(client: &Client, deployment: &Deployment) -> Result<(), CtlError> {
    client.tell(Method::POST, &format!("{}/abort", follow::path(deployment))).await
}
