//! What the hosts keep of a rollout: written down before it begins, found again by any other ctl.

use deployd_api::deployment::Deployment;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::Rollout;
use deployd_api::ids::{AppName, DeploymentId, Label};
use deployd_api::status::AppStatus;
use hyper::Method;

use super::crew;
use super::lease::Leases;
use super::outcome::{Outcome, standing, unless_replaced};
use crate::client::Client;
use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::fanout;

/// Writes it down on these hosts; which did not take it, with why.
pub(crate) async fn put(leases: &Leases, hosts: &[Host], rollout: &Rollout) -> Vec<(String, CtlError)> {
    let path = format!("/apps/{}/rollout", rollout.app);
    let calls = hosts.iter().map(|host| {
        let (client, path) = (leases.client(host), &path);
        async move { client.call::<serde_json::Value>(Method::PUT, path, rollout).await }
    });
    let answers = crew::all(calls).await;
    hosts.iter().zip(answers).filter_map(|(host, answer)| Some((host.name.clone(), answer.err()?))).collect()
}

/// A rollout as the hosts tell it: each of its hosts with how it stands, and where it can be asked.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) rollout: Rollout,
    pub(crate) hosts: Vec<(Option<Host>, Outcome, Option<Deployment>)>,
}

/// The latest rollout of an app, and how each host stands now.
pub(crate) async fn find(context: &Context<'_>, app: &AppName) -> Result<Found, CtlError> {
    let hosts = crew::of_app(context, app)?;
    let path = format!("/apps/{app}/rollout");
    let path = &path;
    let answers = fanout::ask(&hosts, |client| async move { client.get::<Rollout>(path).await }).await;
    let mut latest: Option<Rollout> = None;
    let mut silent = Vec::new();
    for (host, answer) in answers {
        match answer {
            Ok(found) => latest = Some(newer(latest.take(), found)),
            Err(CtlError::Answer(body)) if is_none(body.code) => {}
            Err(error) if error.is_absence() => silent.push((host, error)),
            Err(error) => return Err(error),
        }
    }
    let Some(rollout) = latest else {
        return Err(match silent.into_iter().next() {
            Some((host, error)) => CtlError::Answer(Box::new(crew::absent(&host.name, &error))),
            None => CtlError::Answer(Box::new(unknown(app))),
        });
    };
    // `--host` narrows what is asked, not what the rollout is.
    let all = context.reached.all()?;
    let calls = rollout.hosts.iter().map(|member| {
        let host = all.iter().find(|h| crew::name(&h.name).is_ok_and(|name| name == member.host)).cloned();
        let (own, undo) = (rollout.deployment(&member.host), rollout.undo(&member.host));
        let label = rollout.label;
        async move { stands(app, host, label, &own, &undo).await }
    });
    let stands = crew::all(calls).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Found { rollout, hosts: stands })
}

/// The one with the later label, else that began later, or was written down in a later state: clocks of those
/// who begin differ.
fn newer(known: Option<Rollout>, found: Rollout) -> Rollout {
    use deployd_api::fleet::RolloutState::{Aborted, Failed, Live, Running, Sending};
    let rank = |r: &Rollout| match r.state {
        Sending => 0,
        Running => 1,
        Live | Failed => 2,
        Aborted => 3,
    };
    match known {
        Some(known)
            if (known.label, known.started, &known.id, rank(&known))
                >= (found.label, found.started, &found.id, rank(&found)) =>
        {
            known
        }
        _ => found,
    }
}

fn is_none(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::RolloutNotFound | ErrorCode::AppNotFound)
}

fn unknown(app: &AppName) -> ErrorBody {
    let what = format!("no host knows a rollout of {app}");
    ErrorBody::new(ErrorCode::RolloutNotFound, what, format!("what runs: deployd-ctl status -a {app}"))
}

/// One host's own record of its part.
async fn stands(
    app: &AppName,
    host: Option<Host>,
    label: Label,
    own: &DeploymentId,
    undo: &DeploymentId,
) -> Result<(Option<Host>, Outcome, Option<Deployment>), CtlError> {
    let Some(host) = host else {
        let body = ErrorBody::new(
            ErrorCode::FleetInvalid,
            "it is not in fleet.toml any more",
            "deployd-ctl hosts list shows what is",
        );
        return Ok((None, Outcome::Offline { failure: body }, None));
    };
    let found = async {
        let deployment = get(&host.client, app, own).await?;
        let undo = if deployment.is_some() { get(&host.client, app, undo).await? } else { None };
        let outcome = standing(deployment.as_ref(), undo.as_ref());
        let outcome = match outcome {
            Outcome::Committed => unless_replaced(outcome, label, live(&host.client, app).await?),
            other => other,
        };
        Ok::<_, CtlError>((deployment, outcome))
    };
    match found.await {
        Ok((deployment, outcome)) => Ok((Some(host), outcome, deployment)),
        Err(error) if error.is_absence() => {
            let failure = crew::absent(&host.name, &error);
            Ok((Some(host), Outcome::Offline { failure }, None))
        }
        Err(error) => Err(error),
    }
}

/// What is live there now.
async fn live(client: &Client, app: &AppName) -> Result<Option<Label>, CtlError> {
    match client.get::<AppStatus>(&format!("/apps/{app}")).await {
        Ok(status) => Ok(status.live),
        Err(CtlError::Answer(body)) if body.code == ErrorCode::AppNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn get(client: &Client, app: &AppName, id: &DeploymentId) -> Result<Option<Deployment>, CtlError> {
    match client.get(&format!("/apps/{app}/deployments/{id}")).await {
        Ok(deployment) => Ok(Some(deployment)),
        Err(CtlError::Answer(body))
            if matches!(body.code, ErrorCode::DeploymentNotFound | ErrorCode::AppNotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
