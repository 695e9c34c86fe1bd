//! `rollback [vN]`: an earlier release again, by the same path as a push.

use deployd_api::deployment::{Deployment, RollbackRequest};
use deployd_api::exit::ExitCode;
use hyper::Method;

use super::deploy::{begin, conclude};
use super::{CTL, Context};
use crate::cli::Rollback;
use crate::error::CtlError;
use crate::progress::{Subject, View};
use crate::project;

pub(crate) async fn run(context: &Context<'_>, args: &Rollback) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    context.on_interrupt(format!("detached while rollback of {app} began; see: {CTL} status -a {app}"));
    let request = RollbackRequest { id: project::new_id()?, to: args.to, origin: project::origin() };
    let path = format!("/apps/{app}/rollback");
    // A first try without patience: an agent that is not there is said at once.
    let _: serde_json::Value = context.client.get(&format!("/apps/{app}")).await?;
    let call = || context.client.call::<Deployment>(Method::POST, &path, &request);
    let deployment = begin(context, Some(&args.wait), call).await?;
    let to = deployment.label.map(|l| l.to_string()).unwrap_or_default();
    let replaces = deployment.replaces.map(|old| format!("     replaces {old}")).unwrap_or_default();
    context.printer.talk(&format!("{app} back to {to} → {}{replaces}", context.host));
    context.printer.talk("");
    let subject =
        Subject { host: context.host.clone(), label: deployment.label, replaces: deployment.replaces };
    conclude(context, &deployment, &args.wait, View::new(context.printer, subject)).await
}
