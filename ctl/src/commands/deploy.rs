//! What push, rollback, start, stop, restart and remove share: begin, follow, say how it ended.

use std::time::Instant;

use deployd_api::deployment::{Deployment, Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;

use super::{CTL, Context};
use crate::cli::Wait;
use crate::client::Client;
use crate::error::CtlError;
use crate::failure;
use crate::follow::{self, End};
use crate::human;
use crate::progress::View;
use crate::project;
use crate::table::Tone;

/// How often a held lease is asked for again.
const LEASE_POLL: std::time::Duration = std::time::Duration::from_secs(1);

/// Begins a deployment: repeated while the agent restarts (its id makes that safe) and while another
/// deployment holds the lease.
pub(crate) async fn begin<F>(
    context: &Context<'_>,
    wait: Option<&Wait>,
    mut call: impl FnMut() -> F,
) -> Result<Deployment, CtlError>
where
    F: Future<Output = Result<Deployment, CtlError>>,
{
    let began = Instant::now();
    let patience = wait.map_or(std::time::Duration::ZERO, |w| w.lease_timeout.into());
    let mut said = false;
    loop {
        match Client::patiently(&mut call).await {
            Err(CtlError::Answer(body))
                if body.code == ErrorCode::LeaseHeld && began.elapsed() < patience =>
            {
                if !std::mem::replace(&mut said, true) {
                    let up_to = wait.map(|w| w.lease_timeout.to_string()).unwrap_or_default();
                    context.on_interrupt("stopped waiting; nothing was touched".to_owned());
                    context.printer.talk(&format!(
                        "{}. Waiting up to {up_to}; Ctrl-C to stop.",
                        body.message.trim_end_matches('.')
                    ));
                }
                tokio::time::sleep(LEASE_POLL).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether one release replaces another.
pub(crate) fn moves(kind: Kind) -> bool {
    match kind {
        Kind::Push | Kind::Rollback => true,
        Kind::Start | Kind::Stop | Kind::Restart | Kind::Remove => false,
    }
}

/// Whether the agent found that there was nothing to do.
pub(crate) fn is_nothing(deployment: &Deployment) -> bool {
    deployment.verdict == Some(Verdict::Committed) && deployment.step.is_none()
}

/// Follows what was begun and prints its end.
pub(crate) async fn conclude(
    context: &Context<'_>,
    deployment: &Deployment,
    wait: &Wait,
    mut view: View<'_>,
) -> Result<ExitCode, CtlError> {
    let (app, host) = (&deployment.app, &context.host);
    let on_host = format!("{host} goes on\nsee:  {CTL} status -a {app}\nundo: {CTL} abort -a {app}");
    context.on_interrupt(format!("detached from {} of {app}; {on_host}", deployment.kind));
    view.subject().label = deployment.label.or(view.subject().label);
    if moves(deployment.kind) {
        view.subject().replaces = deployment.replaces.or(view.subject().replaces);
    }
    if wait.detach {
        if context.printer.is_json() {
            context.printer.json(deployment)?;
        }
        context.printer.last(&format!("{} of {app} runs; {on_host}", deployment.kind))?;
        return Ok(ExitCode::Ok);
    }
    let end = follow::follow(&context.client, deployment, wait.until, &mut view).await?;
    let code = follow::exit(&end);
    if context.printer.is_json() {
        let path = format!("/apps/{}/deployments/{}", deployment.app, deployment.id);
        let now: Deployment = Client::patiently(|| context.client.get(&path)).await?;
        context.printer.json(&now)?;
    }
    match end {
        End::Live { watched_until } => say_live(context, deployment, watched_until, &mut view)?,
        End::Finished { verdict: Verdict::Committed, .. } => say_committed(context, deployment, &mut view)?,
        End::Finished { verdict, failure } => {
            say_failed(context, deployment, verdict, failure, code, &mut view);
        }
    }
    Ok(code)
}

fn say_live(
    context: &Context<'_>,
    deployment: &Deployment,
    watched_until: Option<Timestamp>,
    view: &mut View<'_>,
) -> Result<(), CtlError> {
    let label = view.subject().label.map(|l| l.to_string()).unwrap_or_default();
    view.finish(&label, Tone::Good);
    let (app, host) = (&deployment.app, &context.host);
    let drained = deployment.replaces.map(|old| format!(" and {old} drained")).unwrap_or_default();
    let watched = watched_until.map_or_else(String::new, |until| {
        format!(" Watched until {}, then committed{drained}.", human::clock(until))
    });
    let took = human::took(view.elapsed_ms());
    context.printer.talk("");
    context.printer.last(&format!("{app} {label} is live on {host}, {took}.{watched}"))?;
    say_undo(context, deployment)
}

fn say_committed(
    context: &Context<'_>,
    deployment: &Deployment,
    view: &mut View<'_>,
) -> Result<(), CtlError> {
    let label = view.subject().label.map(|l| l.to_string()).unwrap_or_default();
    let (app, host, took) = (&deployment.app, &context.host, human::took(view.elapsed_ms()));
    let (now, line) = match deployment.kind {
        Kind::Push | Kind::Rollback => {
            (label.clone(), format!("{app} {label} is live and committed on {host}, {took}."))
        }
        Kind::Start => ("started".to_owned(), format!("{app} {label} is started on {host}, {took}.")),
        Kind::Stop => ("stopped".to_owned(), format!("{app} is stopped on {host}, {took}.")),
        Kind::Restart => ("restarted".to_owned(), format!("{app} {label} is restarted on {host}, {took}.")),
        Kind::Remove => ("removed".to_owned(), format!("{app} is removed from {host}, {took}.")),
    };
    view.finish(&now, Tone::Good);
    context.printer.talk("");
    context.printer.last(&line)?;
    say_undo(context, deployment)
}

/// The one command that undoes it, where there is one, as it works in any folder.
fn say_undo(context: &Context<'_>, deployment: &Deployment) -> Result<(), CtlError> {
    let verb = match deployment.kind {
        Kind::Push | Kind::Rollback if deployment.replaces.is_some() => "rollback",
        Kind::Push => "remove",
        Kind::Stop => "start",
        Kind::Start => "stop",
        Kind::Rollback | Kind::Restart | Kind::Remove => return Ok(()),
    };
    context.printer.last(&format!("undo: {CTL} {verb} -a {}", deployment.app))
}

/// Says why it did not end as asked, what serves, and what to do.
pub(crate) fn say_failed(
    context: &Context<'_>,
    deployment: &Deployment,
    verdict: Verdict,
    failure: Option<ErrorBody>,
    code: ExitCode,
    view: &mut View<'_>,
) {
    let old = deployment.replaces.map(|l| l.to_string());
    let now = match (&old, verdict) {
        (Some(old), Verdict::RolledBack) => format!("{old}, rolled back"),
        (Some(old), Verdict::Refused) => old.clone(),
        (None, Verdict::RolledBack) => "rolled back".to_owned(),
        (None, Verdict::Refused) => "-".to_owned(),
        (_, Verdict::Stuck | Verdict::Committed) => "stuck".to_owned(),
    };
    view.finish(&now, Tone::Bad);
    let app = &deployment.app;
    let body = failure.unwrap_or_else(|| {
        let what = format!("{} of {app} ended {verdict}", deployment.kind);
        ErrorBody::new(ErrorCode::StepFailed, what, format!("{CTL} logs -a {app}"))
    });
    let body = complete(context, deployment, verdict, body, view);
    context.printer.talk("");
    context.printer.fail(&failure::render(&body, context.printer.colour_err()), code);
}

/// Adds what only is known at the end, and here: what serves, where the spec says it, what was undone.
fn complete(
    context: &Context<'_>,
    deployment: &Deployment,
    verdict: Verdict,
    mut body: ErrorBody,
    view: &View<'_>,
) -> ErrorBody {
    let (app, host) = (&deployment.app, &context.host);
    if verdict == Verdict::RolledBack && moves(deployment.kind) {
        let serves = deployment.replaces.map_or("Nothing serves".to_owned(), |old| format!("{old} serves"));
        body.message = format!("{}. {serves} on {host}.", body.message.trim_end_matches('.'));
    }
    for (_, text) in body.causes.iter_mut().filter(|(heading, _)| heading == "where") {
        let table = text.rfind("[checks.").map(|at| text[at..].to_owned());
        if let (Kind::Push, Some(table)) = (deployment.kind, table)
            && let Some(place) = project::place_of(context.global, &table)
        {
            *text += &format!(", {place}");
        }
    }
    let undone = view.undone();
    if !undone.is_empty() {
        body = body.cause("undone", undone);
    }
    let by_itself = matches!(body.code, ErrorCode::CheckFailed | ErrorCode::StartFailed);
    if let (Kind::Push, Verdict::RolledBack, true, Some(label)) =
        (deployment.kind, verdict, by_itself, deployment.label)
    {
        body.hint +=
            &format!("\n{label} is marked bad: push a new build, or {CTL} releases clear {label} -a {app}");
    }
    body
}
