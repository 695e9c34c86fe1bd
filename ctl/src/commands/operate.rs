//! `start`, `stop`, `restart`: the same release, running or not.

use deployd_api::deployment::{Deployment, OperateRequest};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use hyper::Method;

use super::deploy::{begin, conclude};
use super::{CTL, Context};
use crate::cli::{Wait, WaitFor};
use crate::error::CtlError;
use crate::progress::{Subject, View};
use crate::project;

pub(crate) async fn run(context: &Context<'_>, verb: &str) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let path = format!("/apps/{app}/{verb}");
    operate(context, verb, &app, Method::POST, &path).await
}

/// Begins a change without arguments and follows it to its verdict.
pub(crate) async fn operate(
    context: &Context<'_>,
    verb: &str,
    app: &AppName,
    method: Method,
    path: &str,
) -> Result<ExitCode, CtlError> {
    context.on_interrupt(format!("detached while {verb} of {app} began; see: {CTL} status -a {app}"));
    let request = OperateRequest { id: project::new_id()?, origin: project::origin() };
    let _: serde_json::Value = context.client.get(&format!("/apps/{app}")).await?;
    let call = || context.client.call::<Deployment>(method.clone(), path, &request);
    let deployment = begin(context, None, call).await?;
    let subject = Subject { host: context.host.clone(), label: deployment.label, replaces: None };
    let wait = Wait { until: WaitFor::Committed, detach: false, lease_timeout: deployd_api::spec::Millis(0) };
    conclude(context, &deployment, &wait, View::new(context.printer, subject)).await
}
