//! `rollback [vN]`: an earlier release again, by the same path as a push.

use deployd_api::deployment::{Deployment, Kind, RollbackRequest, Verdict};
use deployd_api::exit::ExitCode;
use hyper::Method;

use super::deploy::{begin, conclude, say_failed};
use super::{CTL, Context};
use crate::cli::{Rollback, WaitFor};
use crate::client::Client;
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::human;
use crate::progress::{Subject, View};
use crate::project;
use crate::table::Tone;

pub(crate) async fn run(context: &Context<'_>, args: &Rollback) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    context.on_interrupt(format!("detached while rollback of {app} began; see: {CTL} status -a {app}"));
    let request = RollbackRequest { id: project::new_id()?, to: args.to, origin: project::origin() };
    let path = format!("/apps/{app}/rollback");
    // A first try without patience: an agent that is not there is said at once.
    let _: serde_json::Value = context.client.get(&format!("/apps/{app}")).await?;
    let call = || context.client.call::<Deployment>(Method::POST, &path, &request);
    let deployment = begin(context, Some(&args.wait), call).await?;
    // While a push is watched, going back means undoing it: the agent answers with that push.
    let undoes = deployment.kind == Kind::Push;
    let (to, from) = if undoes {
        (deployment.replaces, deployment.label)
    } else {
        (deployment.label, deployment.replaces)
    };
    let replaces = from.map(|old| format!("     replaces {old}")).unwrap_or_default();
    let to = to.map(|l| l.to_string()).unwrap_or_default();
    context.printer.talk(&format!("{app} back to {to} → {}{replaces}", context.host));
    context.printer.talk("");
    let subject =
        Subject { host: context.host.clone(), label: deployment.label, replaces: deployment.replaces };
    let mut view = View::new(context.printer, subject);
    if undoes && !args.wait.detach {
        return conclude_undo(context, &deployment, &to, &mut view).await;
    }
    conclude(context, &deployment, &args.wait, view).await
}

/// The push that is being undone ends as `rolled-back`: this time that is what was asked for.
async fn conclude_undo(
    context: &Context<'_>,
    push: &Deployment,
    to: &str,
    view: &mut View<'_>,
) -> Result<ExitCode, CtlError> {
    let end = follow::follow(&context.client, push, WaitFor::Committed, view).await?;
    if context.printer.is_json() {
        let path = format!("/apps/{}/deployments/{}", push.app, push.id);
        let now: Deployment = Client::patiently(|| context.client.get(&path)).await?;
        context.printer.json(&now)?;
    }
    match end {
        End::Finished { verdict: Verdict::RolledBack, .. } => {
            view.finish(to, Tone::Good);
            let (app, host, took) = (&push.app, &context.host, human::took(view.elapsed_ms()));
            context.printer.talk("");
            context.printer.last(&format!("{app} {to} is live on {host} again, {took}."))?;
            let undone = push.label.map(|l| format!("  (the build of {l}; its files are gone)"));
            context.printer.last(&format!("undo: {CTL} push DIR{}", undone.unwrap_or_default()))?;
            Ok(ExitCode::Ok)
        }
        End::Finished { verdict: Verdict::Committed, .. } | End::Live { .. } => {
            let (app, label) = (&push.app, push.label.map(|l| l.to_string()).unwrap_or_default());
            view.finish(&label, Tone::Warn);
            context.printer.last(&format!("{app} {label} was committed before it could be undone."))?;
            context.printer.last(&format!("undo: {CTL} rollback -a {app}"))?;
            Ok(ExitCode::Refused)
        }
        End::Finished { verdict, failure } => {
            let code = follow::exit(&End::Finished { verdict, failure: failure.clone() });
            say_failed(context, push, verdict, failure, code, view);
            Ok(code)
        }
    }
}
