//! `abort`: undo the deployment that runs now, and follow it to its verdict.

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::exit::ExitCode;
use deployd_api::status::AppStatus;
use hyper::Method;

use super::{CTL, Context, deploy};
use crate::cli::WaitFor;
use crate::client::Client;
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::progress::{Subject, View};
use crate::project;
use crate::table::Tone;

pub(crate) async fn run(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let status: AppStatus = context.client.get(&format!("/apps/{app}")).await?;
    let Some(deployment) = status.deployment else {
        return Err(CtlError::Usage {
            message: format!("{app} has no deployment that runs"),
            hint: format!("to go back to the release before: {CTL} rollback -a {app}"),
        });
    };
    let path = format!("/apps/{app}/deployments/{}/abort", deployment.id);
    context.client.tell(Method::POST, &path).await?;
    context.on_interrupt(format!("detached; {} goes on undoing: {CTL} status -a {app}", context.host));
    let replaces = deployment.replaces.filter(|_| deploy::moves(deployment.kind));
    let subject = Subject { host: context.host.clone(), label: deployment.label, replaces };
    let mut view = View::new(context.printer, subject);
    let end = follow::follow(&context.client, &deployment, WaitFor::Committed, &mut view).await?;
    if context.printer.is_json() {
        let path = format!("/apps/{app}/deployments/{}", deployment.id);
        let now: Deployment = Client::patiently(|| context.client.get(&path)).await?;
        context.printer.json(&now)?;
    }
    let what = format!("{} of {app}", deployment.kind);
    match end {
        // Undone is what was asked for here.
        End::Finished { verdict: Verdict::RolledBack | Verdict::Refused, .. } => {
            let now = deployment.replaces.map(|l| format!("{l}, aborted"));
            view.finish(&now.unwrap_or_else(|| "aborted".to_owned()), Tone::Good);
            let serves = deployment.replaces.map(|l| format!("; {l} serves")).unwrap_or_default();
            context.printer.last(&format!("{what} is undone on {}{serves}.", context.host))?;
            Ok(ExitCode::Ok)
        }
        End::Finished { verdict: Verdict::Stuck, failure } => {
            deploy::say_failed(context, &deployment, Verdict::Stuck, failure, ExitCode::Stuck, &mut view);
            Ok(ExitCode::Stuck)
        }
        End::Live { .. } | End::Finished { .. } => {
            view.finish("too late", Tone::Warn);
            context.printer.last(&format!("{what} was past its commit: too late to undo it by abort."))?;
            if deploy::moves(deployment.kind) && deployment.replaces.is_some() {
                context.printer.last(&format!("undo: {CTL} rollback -a {app}"))?;
            }
            Ok(ExitCode::Refused)
        }
    }
}
