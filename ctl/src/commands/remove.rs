//! `remove`: take the app off the host. Asks first.

use std::io::{self, BufRead, IsTerminal};

use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use hyper::Method;

use super::{Context, operate};
use crate::cli::Remove;
use crate::error::CtlError;
use crate::project;

pub(crate) async fn run(context: &Context<'_>, args: &Remove) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    if !args.yes {
        confirm(context, &app).await?;
    }
    operate::operate(context, "remove", &app, Method::DELETE, &format!("/apps/{app}")).await
}

/// The app's name must be typed.
async fn confirm(context: &Context<'_>, app: &AppName) -> Result<(), CtlError> {
    if !io::stdin().is_terminal() {
        return Err(CtlError::Usage {
            message: format!("remove takes {app} off {}, and there is no terminal to ask", context.host),
            hint: "add --yes".to_owned(),
        });
    }
    context.printer.draw(&format!("{app} will be taken off {}. Type its name: ", context.host));
    let read = || -> io::Result<String> {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    };
    let line = tokio::task::spawn_blocking(read).await;
    let line = line.map_err(|e| CtlError::Runtime(e.into()))?.map_err(CtlError::Runtime)?;
    if line.trim() == app.as_str() {
        return Ok(());
    }
    let message = "that is not its name; nothing was touched".to_owned();
    Err(CtlError::Usage { message, hint: format!("type {app}") })
}
