//! `remove`: take the app off its hosts. Asks first.

use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;

use super::operate::operate;
use super::{Context, together};
use crate::cli::Remove;
use crate::error::CtlError;
use crate::project;
use crate::rollout::crew::Crew;
use crate::rollout::drive::Verb;
use crate::rollout::outcome::listed;

pub(crate) async fn run(context: &Context<'_>, args: &Remove) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    if !args.yes && !context.printer.can_ask() {
        return Err(CtlError::Usage {
            message: format!(
                "remove takes {app} and its files off its hosts, and there is no terminal to ask"
            ),
            hint: "add --yes".to_owned(),
        });
    }
    let crew = together::crew(context, &app).await?;
    if !args.yes {
        confirm(context, &app, &crew).await?;
    }
    operate(context, Verb::Remove, &app, crew).await
}

/// The app's name must be typed.
async fn confirm(context: &Context<'_>, app: &AppName, crew: &Crew) -> Result<(), CtlError> {
    let names: Vec<&str> = crew.met.iter().map(|met| met.host.name.as_str()).collect();
    let hosts = listed(&names);
    let line = context.printer.ask(&format!("{app} will be taken off {hosts}. Type its name: ")).await?;
    if line == app.as_str() {
        return Ok(());
    }
    let message = "that is not its name; nothing was touched".to_owned();
    Err(CtlError::Usage { message, hint: format!("type {app}") })
}
