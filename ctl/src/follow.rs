//! Following a deployment to what the command waits for, over restarts of the agent.
//!
//! The agent finishes or undoes the deployment with or without us: a lost connection is never a
//! failure of the deployment. Called by every verb that changes something.

use std::time::Duration;

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::event::{Event, What};
use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;
use tokio::time::{sleep, timeout};

use crate::cli::WaitFor;
use crate::client::{BackOff, Client, Lines};
use crate::error::CtlError;
use crate::progress::View;
use crate::rollout::migrate::Migration;

/// After how long without an event the agent is asked whether it is still there. Steps may take longer.
const SILENCE: Duration = Duration::from_secs(15);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(10);

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
            Ok(Read::End(end)) => return Ok(end),
            // A step takes its time, if the agent says so.
            Ok(Read::Silence) => match one.ask().await {
                Ok(now) => {
                    if one.ended(&now).is_some()
                        && let Some(end) = one.read_rest(&now).await?
                    {
                        return Ok(end);
                    }
                    continue;
                }
                Err(error) if error.is_absence() => Some(error),
                Err(error) => return Err(error),
            },
            // The stream ended early: the agent is going down, or has no more to tell.
            Ok(Read::Over) => None,
            Err(error) if error.is_absence() => Some(error),
            Err(error) => return Err(error),
        };
        let seen = *one.after;
        view.agent_lost();
        if !back_off.wait().await {
            return Err(error.unwrap_or_else(|| silent(deployment)));
        }
        match one.ask().await {
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

/// The deployment as its agent has it now. One that does not answer in time is away.
pub(crate) async fn ask(client: &Client, deployment: &Deployment) -> Result<Deployment, CtlError> {
    let path = path(deployment);
    in_time(&path, client.get(&path)).await
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

/// How a stream of events ended.
enum Read {
    /// With what is waited for.
    End(End),
    Over,
    /// Nothing came for long: a host that dies ends no stream.
    Silence,
}

/// What comes next on a stream.
enum Next {
    Event(Box<Event>),
    Over,
    Silence,
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
    async fn ask(&self) -> Result<Deployment, CtlError> {
        ask(self.client, self.deployment).await
    }

    async fn read_events(&mut self) -> Result<Read, CtlError> {
        let stream = format!("{}/events?after={}", path(self.deployment), self.after);
        let mut lines = in_time(&stream, self.client.lines(&stream)).await?;
        loop {
            let event = match self.next_event(&mut lines).await? {
                Next::Event(event) => event,
                Next::Over => return Ok(Read::Over),
                Next::Silence => return Ok(Read::Silence),
            };
            if event.seq <= *self.after {
                continue;
            }
            *self.after = event.seq;
            self.migration.event(&event, self.view).await;
            self.view.event(&event);
            match event.what {
                What::Live { watched_until, .. } if self.until == WaitFor::Live => {
                    return Ok(Read::End(End::Live { watched_until }));
                }
                What::Finished { verdict, failure } => {
                    return Ok(Read::End(End::Finished { verdict, failure }));
                }
                _ => {}
            }
        }
    }

    /// The next event that this version knows. The view ticks while nothing comes, and what a migration writes
    /// is shown as it comes.
    async fn next_event(&mut self, lines: &mut Lines) -> Result<Next, CtlError> {
        loop {
            let value: Option<serde_json::Value> = {
                let next = lines.next();
                let silence = sleep(SILENCE);
                tokio::pin!(next, silence);
                loop {
                    tokio::select! {
                        line = &mut next => break line?,
                        text = self.migration.next() => self.view.output(&text),
                        () = &mut silence => return Ok(Next::Silence),
                        () = self.view.tick() => {}
                    }
                }
            };
            let Some(value) = value else { return Ok(Next::Over) };
            // Types that this version does not know are passed over.
            if let Ok(event) = serde_json::from_value(value) {
                return Ok(Next::Event(Box::new(event)));
            }
        }
    }

    /// A deployment that ended while we were away may have no events left to tell.
    async fn read_rest(&mut self, now: &Deployment) -> Result<Option<End>, CtlError> {
        match self.read_events().await {
            Ok(Read::End(end)) => return Ok(Some(end)),
            Err(error) if !error.is_absence() => return Err(error),
            Ok(Read::Over | Read::Silence) | Err(_) => {}
        }
        Ok(self.ended(now))
    }

    /// Whether a deployment that stands so is where the command waits for.
    fn ended(&self, now: &Deployment) -> Option<End> {
        if let Some(verdict) = now.verdict {
            return Some(End::Finished { verdict, failure: now.failure.clone() });
        }
        let live = now.live && self.until == WaitFor::Live;
        live.then_some(End::Live { watched_until: now.watched_until })
    }
}

/// A call that only reads, if it is answered in time.
async fn in_time<T>(path: &str, call: impl Future<Output = Result<T, CtlError>>) -> Result<T, CtlError> {
    timeout(ANSWER, call)
        .await
        .unwrap_or_else(|late| Err(CtlError::Lost { during: format!("GET {path}"), source: late.into() }))
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
