//! `exec`, `console` and `run`: a command in the surroundings of the live release.

use std::io::IsTerminal as _;

use deployd_api::command::{CommandEnd, CommandKind, CommandRequest, Terminal};
use deployd_api::exit::ExitCode;
use deployd_api::ids::{AppName, ProcessName};
use deployd_api::status::AppStatus;

use super::{Context, Host};
use crate::cli::{Console, Exec, Place, RunOnce};
use crate::command_stream::{self, Input};
use crate::error::CtlError;
use crate::fanout;
use crate::project;
use crate::rollout::crew;

/// What a shell adds to a signal's number.
const SIGNAL_BASE: i32 = 128;

pub(crate) async fn exec(context: &Context<'_>, args: &Exec) -> Result<ExitCode, CtlError> {
    attached(context, &args.place, CommandKind::Exec, args.words.clone()).await
}

pub(crate) async fn console(context: &Context<'_>, args: &Console) -> Result<ExitCode, CtlError> {
    attached(context, &args.place, CommandKind::Console, Vec::new()).await
}

pub(crate) async fn run_once(context: &Context<'_>, args: &RunOnce) -> Result<ExitCode, CtlError> {
    let app = app(context, args.which.as_ref())?;
    let request = request(CommandKind::Run, args.words.clone(), args.process.clone(), None)?;
    let host = pick(context, &app).await?;
    let instance = format!("run-{}", request.short_id());
    let follow = format!("deployd-ctl logs -a {app} -f --instance {instance}");
    context.on_interrupt(format!("the command goes on on {} as {instance}.\nfollow: {follow}", host.name));
    context.printer.talk(&format!("{}: {app} {instance}; what it says is kept: {follow}", host.name));
    // Typing into a command that nobody has to watch makes no sense.
    let input = if std::io::stdin().is_terminal() { Input::None } else { Input::Sent };
    let end = command_stream::run(&host.client, &app, &request, input).await?;
    finish(context, end)
}

async fn attached(
    context: &Context<'_>,
    place: &Place,
    kind: CommandKind,
    words: Vec<String>,
) -> Result<ExitCode, CtlError> {
    let app = app(context, place.which.as_ref())?;
    let terminal = match (place.terminal, place.pipes) {
        (true, _) => Some(command_stream::described()),
        (_, true) => None,
        _ => command_stream::terminal(),
    };
    let request = request(kind, words, place.process.clone(), terminal)?;
    let host = pick(context, &app).await?;
    context.on_interrupt(format!("the command on {} was stopped: it ends with its caller.", host.name));
    let end = command_stream::run(&host.client, &app, &request, Input::Sent).await?;
    finish(context, end)
}

/// The first positional is the app, as in `exec shop -- ls`.
fn app(context: &Context<'_>, which: Option<&AppName>) -> Result<AppName, CtlError> {
    match (which, &context.global.app) {
        (Some(which), Some(app)) if which != app => Err(CtlError::Usage {
            message: format!("which app: {which}, or {app} of -a?"),
            hint: "a command stands behind --: deployd-ctl exec APP -- CMD".to_owned(),
        }),
        (Some(which), _) => Ok(which.clone()),
        (None, _) => project::need_app(context.global),
    }
}

fn request(
    kind: CommandKind,
    words: Vec<String>,
    process: Option<ProcessName>,
    terminal: Option<Terminal>,
) -> Result<CommandRequest, CtlError> {
    let (id, by) = (project::new_id()?, project::origin().by);
    Ok(CommandRequest { id, kind, words, process, terminal, by })
}

/// The first host where the app is live; the only one without being asked.
async fn pick(context: &Context<'_>, app: &AppName) -> Result<Host, CtlError> {
    let hosts = crew::of_app(context, app)?;
    if let [only] = hosts.as_slice() {
        return Ok(only.clone());
    }
    let path = format!("/apps/{app}");
    let path = path.as_str();
    let answers = fanout::ask(&hosts, |client| async move { client.get::<AppStatus>(path).await }).await;
    let mut failed = None;
    for (host, answer) in answers {
        match answer {
            Ok(status) if status.live.is_some() => {
                context.printer.talk(&format!("{}: {app} {}", host.name, live(&status)));
                return Ok(host);
            }
            Err(e) if failed.is_none() => failed = Some(e),
            Ok(_) | Err(_) => {}
        }
    }
    Err(failed.unwrap_or_else(|| CtlError::Usage {
        message: format!("{app} is live on none of {} hosts", hosts.len()),
        hint: format!("see what runs: deployd-ctl status -a {app}"),
    }))
}

fn live(status: &AppStatus) -> String {
    status.live.map(|label| label.to_string()).unwrap_or_default()
}

/// This program ends as the command did.
fn finish(context: &Context<'_>, end: CommandEnd) -> Result<ExitCode, CtlError> {
    let code = match end {
        CommandEnd::Exited { status } => status,
        CommandEnd::Killed { signal } => SIGNAL_BASE + signal,
        CommandEnd::Failed { error } => return Err(CtlError::Answer(error)),
    };
    context.status.set(Some(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
    Ok(ExitCode::Ok)
}
