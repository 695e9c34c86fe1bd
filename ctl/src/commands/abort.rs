//! `abort`: undo the deployment that runs now, and follow it to its verdict.

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;

use super::{CTL, Context, Host, deploy, together};
use crate::cli::WaitFor;
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::project;
use crate::rollout::undo;
use crate::table::Tone;

pub(crate) async fn run(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let crew = together::crew(context, &app).await?;
    let running = |m: &crate::rollout::crew::Met| m.status.as_ref().is_some_and(|s| s.deployment.is_some());
    let busy: Vec<_> = crew.met.into_iter().filter(running).collect();
    let only = match busy.as_slice() {
        [] => {
            return Err(CtlError::Usage {
                message: format!("{app} has no deployment that runs"),
                hint: format!("to go back to the release before: {CTL} rollback -a {app}"),
            });
        }
        [only] if crew.absent.is_empty() => {
            only.status.as_ref().and_then(|s| s.deployment.clone()).map(|d| (only.host.clone(), d))
        }
        _ => None,
    };
    match only {
        Some((host, deployment)) => one(context, &host, &app, &deployment).await,
        None => together::abort(context, &app, busy, crew.absent).await,
    }
}

async fn one(
    context: &Context<'_>,
    host: &Host,
    app: &AppName,
    deployment: &Deployment,
) -> Result<ExitCode, CtlError> {
    undo::abort(&host.client, deployment).await?;
    context.on_interrupt(format!("detached; {} goes on undoing: {CTL} status -a {app}", host.name));
    let board = deploy::board_of(context, host, deployment);
    let view = board.view(0);
    let end = follow::follow(&host.client, deployment, WaitFor::Committed, view).await?;
    deploy::say_json(context, host, deployment).await?;
    let what = format!("{} of {app}", deployment.kind);
    match end {
        // Undone is what was asked for here.
        End::Finished { verdict: Verdict::RolledBack | Verdict::Refused, .. } => {
            let now = deployment.replaces.map(|l| format!("{l}, aborted"));
            view.finish(&now.unwrap_or_else(|| "aborted".to_owned()), Tone::Good);
            board.close();
            let serves = deployment.replaces.map(|l| format!("; {l} serves")).unwrap_or_default();
            context.printer.last(&format!("{what} is undone on {}{serves}.", host.name))?;
            Ok(ExitCode::Ok)
        }
        End::Finished { verdict: Verdict::Stuck, failure } => {
            deploy::say_failed(context, host, deployment, (Verdict::Stuck, failure), ExitCode::Stuck, &board);
            Ok(ExitCode::Stuck)
        }
        End::Live { .. } | End::Finished { .. } => {
            view.finish("too late", Tone::Warn);
            board.close();
            context.printer.last(&format!("{what} was past its commit: too late to undo it by abort."))?;
            if deploy::moves(deployment.kind) && deployment.replaces.is_some() {
                context.printer.last(&format!("undo: {CTL} rollback -a {app}"))?;
            }
            Ok(ExitCode::Refused)
        }
    }
}
