//! `start`, `stop`, `restart`: the same release, running or not.

use deployd_api::deployment::{Deployment, OperateRequest};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use deployd_api::spec::Millis;
use hyper::Method;

use super::deploy::{begin, board_of, conclude, say_waits};
use super::{CTL, Context, Host, together};
use crate::cli::{Wait, WaitFor};
use crate::error::CtlError;
use crate::project;
use crate::rollout::crew::Crew;
use crate::rollout::drive::Verb;

/// How an agent is asked for it.
pub(crate) fn call_of(verb: Verb, app: &AppName) -> (Method, String) {
    match verb {
        Verb::Remove => (Method::DELETE, format!("/apps/{app}")),
        verb => (Method::POST, format!("/apps/{app}/{}", verb.word())),
    }
}

pub(crate) async fn run(context: &Context<'_>, verb: Verb) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let crew = together::crew(context, &app).await?;
    operate(context, verb, &app, crew).await
}

/// Begins it where the app is, and follows it to its verdict.
pub(crate) async fn operate(
    context: &Context<'_>,
    verb: Verb,
    app: &AppName,
    crew: Crew,
) -> Result<ExitCode, CtlError> {
    match crew.met.as_slice() {
        [only] if crew.absent.is_empty() => one(context, verb, app, &only.host).await,
        _ => together::operate(context, verb, app, crew).await,
    }
}

async fn one(context: &Context<'_>, verb: Verb, app: &AppName, host: &Host) -> Result<ExitCode, CtlError> {
    let word = verb.word();
    context.on_interrupt(format!("detached while {word} of {app} began; see: {CTL} status -a {app}"));
    let request = OperateRequest { id: project::new_id()?, origin: project::origin() };
    let (method, path) = call_of(verb, app);
    let call = || host.client.call::<Deployment>(method.clone(), &path, &request);
    let deployment = begin(context, None, || say_waits(context), call).await?;
    let wait = until_the_end();
    conclude(context, host, &deployment, &wait, &board_of(context, host, &deployment)).await
}

/// What has no watch is waited for to its end.
pub(crate) fn until_the_end() -> Wait {
    Wait { until: WaitFor::Committed, detach: false, lease_timeout: Millis(0) }
}
