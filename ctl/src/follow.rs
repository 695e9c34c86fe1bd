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
use crate::rollout::migrate::Migration;

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
    view: View<'_>,
) -> Result<End, CtlError> {
    follow_on(client, deployment, until, view, &mut 0).await
}

/// The same, from behind the event with this number, which is moved on.
pub(crate) async fn follow_on(
    client: &Client,
    deployment: &Deployment,
    until: WaitFor,
    view: View<'_>,
    after: &mut u64,
) -> Result<End, CtlError> {
    let mut one =
        Following { client, deployment, until, after, view, migration: Migration::new(client, deployment) };
    let mut back_off = BackOff::new();
    loop {
        let error = match one.read_events().await {
            Ok(Some(end)) => return Ok(end),
            // The stream ended early: the agent is going down, or has no more to tell.
            Ok(None) => None,
            Err(error) if error.is_absence() => Some(error),
            Err(error) => return Err(error),
        };
        let seen = *one.after;
        view.agent_lost();
        if !back_off.wait().await {
            return Err(error.unwrap_or_else(|| silent(deployment)));
        }
        match client.get::<Deployment>(&path(deployment)).await {
            Ok(now) => {
                view.agent_back();
                if let Some(end) = one.read_rest(&now).await? {
                    return Ok(end);
                }
                if *one.after > seen {
                    back_off = BackOff::new();
                }
            }
            Err(error) if error.is_absence() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Where a deployment is asked for.
pub(crate) fn path(deployment: &Deployment) -> String {
    format!("/apps/{}/deployments/{}", deployment.app, deployment.id)
}

fn silent(deployment: &Deployment) -> CtlError {
    let what = format!("the agent tells nothing more about {}", deployment.id.short());
    let hint = format!("see: journalctl -u deployd; deployd-ctl status -a {}", deployment.app);
    CtlError::Answer(Box::new(ErrorBody::new(ErrorCode::AgentUnreachable, what, hint)))
}

/// What is followed.
struct Following<'f> {
    client: &'f Client,
    deployment: &'f Deployment,
    until: WaitFor,
    after: &'f mut u64,
    view: View<'f>,
    migration: Migration<'f>,
}

impl Following<'_> {
    async fn read_events(&mut self) -> Result<Option<End>, CtlError> {
        let stream = format!("{}/events?after={}", path(self.deployment), self.after);
        let mut lines = self.client.lines(&stream).await?;
        while let Some(event) = self.next_event(&mut lines).await? {
            if event.seq <= *self.after {
                continue;
            }
            *self.after = event.seq;
            self.migration.event(&event, self.view).await;
            self.view.event(&event);
            match event.what {
                What::Live { watched_until, .. } if self.until == WaitFor::Live => {
                    return Ok(Some(End::Live { watched_until }));
                }
                What::Finished { verdict, failure } => return Ok(Some(End::Finished { verdict, failure })),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next event that this version knows. The view ticks while nothing comes, and what a migration writes
    /// is shown as it comes.
    async fn next_event(&mut self, lines: &mut Lines) -> Result<Option<Event>, CtlError> {
        loop {
            let value: Option<serde_json::Value> = {
                let next = lines.next();
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        line = &mut next => break line?,
                        text = self.migration.next() => self.view.output(&text),
                        () = self.view.tick() => {}
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
    async fn read_rest(&mut self, now: &Deployment) -> Result<Option<End>, CtlError> {
        match self.read_events().await {
            Ok(Some(end)) => return Ok(Some(end)),
            Err(error) if !error.is_absence() => return Err(error),
            Ok(None) | Err(_) => {}
        }
        if let Some(verdict) = now.verdict {
            return Ok(Some(End::Finished { verdict, failure: now.failure.clone() }));
        }
        let live = now.live && self.until == WaitFor::Live;
        Ok(live.then_some(End::Live { watched_until: now.watched_until }))
    }
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
