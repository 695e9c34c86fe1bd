//! Following a deployment to what the command waits for, over restarts of the agent.
//!
//! The agent finishes or undoes the deployment with or without us: a lost connection is never a
//! failure of the deployment. Called by every verb that changes something.

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::event::{Event, What};
use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;

use crate::cli::WaitFor;
use crate::client::{BackOff, Client, Lines};
use crate::error::CtlError;
use crate::progress::View;

/// How a deployment stands when following it ends.
#[derive(Debug)]
pub(crate) enum End {
    /// It has all traffic; the rest goes on alone.
    Live { watched_until: Option<Timestamp> },
    /// It is over.
    Finished { verdict: Verdict, failure: Option<ErrorBody> },
}

/// Shows the events of a deployment until it is where the command waits for.
pub(crate) async fn follow(
    client: &Client,
    deployment: &Deployment,
    until: WaitFor,
    view: &mut View<'_>,
) -> Result<End, CtlError> {
    let mut after = 0;
    let mut back_off = BackOff::new();
    loop {
        let error = match read_events(client, deployment, until, &mut after, view).await {
            Ok(Some(end)) => return Ok(end),
            // The stream ended early: the agent is going down, or has no more to tell.
            Ok(None) => None,
            Err(error) if error.is_absence() => Some(error),
            Err(error) => return Err(error),
        };
        let seen = after;
        view.agent_lost();
        if !back_off.wait().await {
            return Err(error.unwrap_or_else(|| silent(deployment)));
        }
        match client
            .get::<Deployment>(&format!("/apps/{}/deployments/{}", deployment.app, deployment.id))
            .await
        {
            Ok(now) => {
                view.agent_back();
                if let Some(end) = read_rest(client, &now, until, &mut after, view).await? {
                    return Ok(end);
                }
                if after > seen {
                    back_off = BackOff::new();
                }
            }
            Err(error) if error.is_absence() => {}
            Err(error) => return Err(error),
        }
    }
}

fn silent(deployment: &Deployment) -> CtlError {
    let what = format!("the agent tells nothing more about {}", deployment.id.short());
    CtlError::Answer(Box::new(ErrorBody::new(
        ErrorCode::AgentUnreachable,
        what,
        "see: journalctl -u deployd; deployd-ctl --local status",
    )))
}

fn stream(deployment: &Deployment, after: u64) -> String {
    format!("/apps/{}/deployments/{}/events?after={after}", deployment.app, deployment.id)
}

async fn read_events(
    client: &Client,
    deployment: &Deployment,
    until: WaitFor,
    after: &mut u64,
    view: &mut View<'_>,
) -> Result<Option<End>, CtlError> {
    let mut lines = client.lines(&stream(deployment, *after)).await?;
    while let Some(event) = next_event(&mut lines, view).await? {
        if event.seq <= *after {
            continue;
        }
        *after = event.seq;
        view.event(&event);
        match event.what {
            What::Live { watched_until, .. } if until == WaitFor::Live => {
                return Ok(Some(End::Live { watched_until }));
            }
            What::Finished { verdict, failure } => return Ok(Some(End::Finished { verdict, failure })),
            _ => {}
        }
    }
    Ok(None)
}

/// The next event that this version knows; the view ticks while nothing comes.
async fn next_event(lines: &mut Lines, view: &mut View<'_>) -> Result<Option<Event>, CtlError> {
    loop {
        let value: Option<serde_json::Value> = {
            let next = lines.next();
            tokio::pin!(next);
            loop {
                tokio::select! {
                    line = &mut next => break line?,
                    () = view.tick() => {}
                }
            }
        };
        let Some(value) = value else { return Ok(None) };
        // Types that this version does not know are passed over.
        if let Ok(event) = serde_json::from_value(value) {
            return Ok(Some(event));
        }
    }
}

/// A deployment that ended while we were away may have no events left to tell.
async fn read_rest(
    client: &Client,
    now: &Deployment,
    until: WaitFor,
    after: &mut u64,
    view: &mut View<'_>,
) -> Result<Option<End>, CtlError> {
    match read_events(client, now, until, after, view).await {
        Ok(Some(end)) => return Ok(Some(end)),
        Err(error) if !error.is_absence() => return Err(error),
        Ok(None) | Err(_) => {}
    }
    if let Some(verdict) = now.verdict {
        return Ok(Some(End::Finished { verdict, failure: now.failure.clone() }));
    }
    let live = now.live && until == WaitFor::Live;
    Ok(live.then_some(End::Live { watched_until: now.watched_until }))
}

/// The exit code of an end.
pub(crate) fn exit(end: &End) -> ExitCode {
    match end {
        End::Live { .. } | End::Finished { verdict: Verdict::Committed, .. } => ExitCode::Ok,
        End::Finished { verdict: Verdict::RolledBack, .. } => ExitCode::RolledBack,
        End::Finished { verdict: Verdict::Stuck, .. } => ExitCode::Stuck,
        End::Finished { verdict: Verdict::Refused, failure } => match failure.as_ref().map(|f| f.code.exit())
        {
            Some(code @ (ExitCode::LeaseHeld | ExitCode::Unauthorized)) => code,
            _ => ExitCode::Refused,
        },
    }
}
