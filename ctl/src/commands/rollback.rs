//! `rollback [vN]`: an earlier release again, by the same path as a push.

use deployd_api::deployment::{Deployment, Kind, RollbackRequest, Verdict};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use hyper::Method;

use super::deploy::{begin, board_of, conclude, say_failed, say_json, say_waits};
use super::{CTL, Context, Host, together};
use crate::cli::{Rollback, WaitFor};
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::human;
use crate::progress::Board;
use crate::project;
use crate::table::Tone;

pub(crate) async fn run(context: &Context<'_>, args: &Rollback) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let crew = together::crew(context, &app).await?;
    match crew.met.as_slice() {
        [only] if crew.absent.is_empty() => one(context, &only.host, &app, args).await,
        _ => together::roll_back(context, &app, crew, args).await,
    }
}

/// Rolls back the only host of the app.
async fn one(
    context: &Context<'_>,
    host: &Host,
    app: &AppName,
    args: &Rollback,
) -> Result<ExitCode, CtlError> {
    context.on_interrupt(format!("detached while rollback of {app} began; see: {CTL} status -a {app}"));
    let request = RollbackRequest { id: project::new_id()?, to: args.to, origin: project::origin() };
    let path = format!("/apps/{app}/rollback");
    let call = || host.client.call::<Deployment>(Method::POST, &path, &request);
    let deployment = begin(context, Some(&args.wait), || say_waits(context), call).await?;
    // While a push is watched, going back means undoing it: the agent answers with that push.
    let undoes = deployment.kind == Kind::Push;
    let (to, from) = if undoes {
        (deployment.replaces, deployment.label)
    } else {
        (deployment.label, deployment.replaces)
    };
    let replaces = from.map(|old| format!("     replaces {old}")).unwrap_or_default();
    let to = to.map(|l| l.to_string()).unwrap_or_default();
    context.printer.talk(&format!("{app} back to {to} → {}{replaces}", host.name));
    context.printer.talk("");
    let board = board_of(context, host, &deployment);
    if undoes && !args.wait.detach {
        return conclude_undo(context, host, &deployment, &to, &board).await;
    }
    conclude(context, host, &deployment, &args.wait, &board).await
}

/// The push that is being undone ends as `rolled-back`: this time that is what was asked for.
async fn conclude_undo(
    context: &Context<'_>,
    host: &Host,
    push: &Deployment,
    to: &str,
    board: &Board<'_>,
) -> Result<ExitCode, CtlError> {
    let view = board.view(0);
    let end = follow::follow(&host.client, push, WaitFor::Committed, view).await?;
    say_json(context, host, push).await?;
    match end {
        End::Finished { verdict: Verdict::RolledBack, .. } => {
            view.finish(to, Tone::Good);
            board.close();
            let (app, host, took) = (&push.app, &host.name, human::took(board.elapsed_ms()));
            context.printer.talk("");
            context.printer.last(&format!("{app} {to} is live on {host} again, {took}."))?;
            let undone = push.label.map(|l| format!("  (the build of {l}; its files are gone)"));
            context.printer.last(&format!("undo: {CTL} push DIR{}", undone.unwrap_or_default()))?;
            Ok(ExitCode::Ok)
        }
        End::Finished { verdict: Verdict::Committed, .. } | End::Live { .. } => {
            let (app, label) = (&push.app, push.label.map(|l| l.to_string()).unwrap_or_default());
            view.finish(&label, Tone::Warn);
            board.close();
            context.printer.last(&format!("{app} {label} was committed before it could be undone."))?;
            context.printer.last(&format!("undo: {CTL} rollback -a {app}"))?;
            Ok(ExitCode::Refused)
        }
        End::Finished { verdict, failure } => {
            let code = follow::exit(&End::Finished { verdict, failure: failure.clone() });
            say_failed(context, host, push, (verdict, failure), code, board);
            Ok(code)
        }
    }
}
