//! What changes of one host share: begin, follow, say how it ended.

use std::time::Instant;

use deployd_api::deployment::{Deployment, Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::{AppName, Timestamp};

use super::{CTL, Context, Host};
use crate::cli::Wait;
use crate::client::Client;
use crate::error::CtlError;
use crate::failure;
use crate::follow::{self, End};
use crate::human;
use crate::progress::{Board, Subject};
use crate::rollout::outcome;
use crate::table::Tone;

/// How often a held lease is asked for again.
const LEASE_POLL: std::time::Duration = std::time::Duration::from_secs(1);

/// Begins a deployment: repeated while the agent restarts (its id makes that safe) and while another
/// deployment holds the lease; `waits` is told of that.
pub(crate) async fn begin<F>(
    context: &Context<'_>,
    wait: Option<&Wait>,
    waits: impl Fn(),
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
                    context.printer.talk(&format!(
                        "{}. Waiting up to {up_to}; Ctrl-C to stop.",
                        body.message.trim_end_matches('.')
                    ));
                }
                waits();
                tokio::time::sleep(LEASE_POLL).await;
            }
            outcome => return outcome,
        }
    }
}

/// What Ctrl-C says while the only host is waited for.
pub(crate) fn say_waits(context: &Context<'_>) {
    context.on_interrupt("stopped waiting; nothing was touched".to_owned());
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

/// Says that a host goes on without us.
pub(crate) fn say_detached(
    context: &Context<'_>,
    host: &Host,
    deployment: &Deployment,
) -> Result<(), CtlError> {
    if context.printer.is_json() {
        context.printer.json(deployment)?;
    }
    let (app, kind) = (&deployment.app, deployment.kind);
    let on_host = goes_on(host, app);
    context.printer.last(&format!("{kind} of {app} runs; {on_host}"))
}

fn goes_on(host: &Host, app: &AppName) -> String {
    format!("{} goes on\nsee:  {CTL} status -a {app}\nundo: {CTL} abort -a {app}", host.name)
}

/// The deployment as it is now, as JSON.
pub(crate) async fn say_json(context: &Context<'_>, host: &Host, known: &Deployment) -> Result<(), CtlError> {
    if !context.printer.is_json() {
        return Ok(());
    }
    let path = follow::path(known);
    let now: Deployment = Client::patiently(|| host.client.get(&path)).await?;
    context.printer.json(&now)
}

/// A board for one host.
pub(crate) fn board_of<'a>(context: &Context<'a>, host: &Host, deployment: &Deployment) -> Board<'a> {
    let replaces = deployment.replaces.filter(|_| moves(deployment.kind));
    let subject = Subject { host: host.name.clone(), label: deployment.label, replaces };
    Board::new(context.printer, vec![subject])
}

/// Follows what was begun on one host and prints its end.
pub(crate) async fn conclude(
    context: &Context<'_>,
    host: &Host,
    deployment: &Deployment,
    wait: &Wait,
    board: &Board<'_>,
) -> Result<ExitCode, CtlError> {
    let app = &deployment.app;
    context.on_interrupt(format!("detached from {} of {app}; {}", deployment.kind, goes_on(host, app)));
    if wait.detach {
        say_detached(context, host, deployment)?;
        return Ok(ExitCode::Ok);
    }
    let end = follow::follow(&host.client, deployment, wait.until, board.view(0)).await?;
    let code = follow::exit(&end);
    say_json(context, host, deployment).await?;
    match end {
        End::Live { watched_until } => say_live(context, host, deployment, watched_until, board)?,
        End::Finished { verdict: Verdict::Committed, .. } => say_committed(context, host, deployment, board)?,
        End::Finished { verdict, failure } => {
            say_failed(context, host, deployment, (verdict, failure), code, board);
        }
    }
    Ok(code)
}

fn say_live(
    context: &Context<'_>,
    host: &Host,
    deployment: &Deployment,
    watched_until: Option<Timestamp>,
    board: &Board<'_>,
) -> Result<(), CtlError> {
    let label = label_of(board);
    finish(board, &label, Tone::Good);
    let (app, host) = (&deployment.app, &host.name);
    let drained = deployment.replaces.map(|old| format!(" and {old} drained")).unwrap_or_default();
    let watched = watched_until.map_or_else(String::new, |until| {
        format!(" Watched until {}, then committed{drained}.", human::clock(until))
    });
    let took = human::took(board.elapsed_ms());
    context.printer.talk("");
    context.printer.last(&format!("{app} {label} is live on {host}, {took}.{watched}"))?;
    say_undo(context, deployment)
}

fn label_of(board: &Board<'_>) -> String {
    board.view(0).subject().label.map(|l| l.to_string()).unwrap_or_default()
}

fn finish(board: &Board<'_>, now: &str, tone: Tone) {
    board.view(0).finish(now, tone);
    board.close();
}

fn say_committed(
    context: &Context<'_>,
    host: &Host,
    deployment: &Deployment,
    board: &Board<'_>,
) -> Result<(), CtlError> {
    let label = label_of(board);
    let (app, host, took) = (&deployment.app, &host.name, human::took(board.elapsed_ms()));
    let (now, line) = match deployment.kind {
        Kind::Push | Kind::Rollback => {
            (label.clone(), format!("{app} {label} is live and committed on {host}, {took}."))
        }
        Kind::Start => ("started".to_owned(), format!("{app} {label} is started on {host}, {took}.")),
        Kind::Stop => ("stopped".to_owned(), format!("{app} is stopped on {host}, {took}.")),
        Kind::Restart => ("restarted".to_owned(), format!("{app} {label} is restarted on {host}, {took}.")),
        Kind::Remove => ("removed".to_owned(), format!("{app} is removed from {host}, {took}.")),
    };
    finish(board, &now, Tone::Good);
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
    host: &Host,
    deployment: &Deployment,
    (verdict, failure): (Verdict, Option<ErrorBody>),
    code: ExitCode,
    board: &Board<'_>,
) {
    let old = deployment.replaces.map(|l| l.to_string());
    let now = match (&old, verdict) {
        (Some(old), Verdict::RolledBack) => format!("{old}, rolled back"),
        (Some(old), Verdict::Refused) => old.clone(),
        (None, Verdict::RolledBack) => "rolled back".to_owned(),
        (None, Verdict::Refused) => "-".to_owned(),
        (_, Verdict::Stuck | Verdict::Committed) => "stuck".to_owned(),
    };
    finish(board, &now, Tone::Bad);
    let app = &deployment.app;
    let body = failure.unwrap_or_else(|| {
        let what = format!("{} of {app} ended {verdict}", deployment.kind);
        ErrorBody::new(ErrorCode::StepFailed, what, format!("{CTL} logs -a {app}"))
    });
    let body = complete(host, deployment, verdict, body, board);
    context.printer.talk("");
    context.printer.fail(&failure::render(&body, context.printer.colour_err()), code);
}

/// Adds what only is known at the end, and here: what serves, what was undone.
fn complete(
    host: &Host,
    deployment: &Deployment,
    verdict: Verdict,
    mut body: ErrorBody,
    board: &Board<'_>,
) -> ErrorBody {
    if verdict == Verdict::RolledBack && moves(deployment.kind) {
        let serves = outcome::serves(&[(host.name.clone(), deployment.replaces)], 1);
        body.message = format!("{}. {serves}.", body.message.trim_end_matches('.'));
    }
    let undone = board.view(0).undone();
    if undone.is_empty() { body } else { body.cause("undone", undone) }
}
