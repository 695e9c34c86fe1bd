//! `secrets`: names and values to every host of the app; names and versions back.
//!
//! One version for all hosts: 1 + the highest that any of them knows. Nothing is sent before every host has
//! answered, so a host that is down is told before anything changed.

mod export;
mod read;
mod recovery;
mod rows;

use std::collections::BTreeMap;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use deployd_api::secret::{NewSecret, SecretName, SecretRow, SecretValue, SecretsRequest};
use deployd_api::status::AppStatus;
use hyper::Method;

use self::recovery::Recovery;
use super::{Context, Host};
use crate::cli::{Secrets, SecretsCommand};
use crate::error::CtlError;
use crate::fanout;
use crate::project;
use crate::rollout::crew;

type Rows = Vec<(Host, Vec<SecretRow>)>;

pub(crate) async fn run(context: &Context<'_>, args: &Secrets) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    match &args.command {
        SecretsCommand::Set(set) => {
            let values = read::given(context, &set.secrets).await?;
            change(context, &app, values, vec![], set.reach.skip_offline).await
        }
        SecretsCommand::Import { file, reach } => {
            let values = read::import(file).await?;
            change(context, &app, values, vec![], reach.skip_offline).await
        }
        SecretsCommand::Unset { names, reach } => {
            change(context, &app, BTreeMap::new(), names.clone(), reach.skip_offline).await
        }
        SecretsCommand::List => rows::list(context, &app).await,
        SecretsCommand::Export { out } => export::run(context, &app, out.as_deref()).await,
    }
}

/// The hosts of an app: those of its spec, as a push takes them. Away from the spec, and without a word, those that know
/// the app: values are not for every host of the fleet.
async fn hosts_of(context: &Context<'_>, app: &AppName) -> Result<Vec<Host>, CtlError> {
    let hosts = crew::of_app(context, app)?;
    let is_said = !context.global.only.is_empty()
        || project::find_project(context.global)?.is_some_and(|project| project.spec.app == *app);
    if !context.is_fleet() || hosts.len() == 1 || is_said {
        return Ok(hosts);
    }
    context.on_interrupt("stopped; nothing was changed.".to_owned());
    let (status, secrets) = (format!("/apps/{app}"), format!("/apps/{app}/secrets"));
    let (status, secrets) = (status.as_str(), secrets.as_str());
    let knows = |client: crate::client::Client| async move {
        match client.get::<AppStatus>(status).await {
            // Its secrets may be there before its first push.
            Err(CtlError::Answer(body)) if body.code == ErrorCode::AppNotFound => {
                Ok(!client.get::<Vec<SecretRow>>(secrets).await?.is_empty())
            }
            Ok(_) => Ok(true),
            Err(error) => Err(error),
        }
    };
    let (mut known, mut silent) = (Vec::new(), Vec::new());
    for (host, answer) in fanout::ask(&hosts, knows).await {
        match answer {
            Ok(true) => known.push(host),
            Ok(false) => {}
            // It may know the app, and is told as one that does not answer.
            Err(error) if error.is_absence() => silent.push(host),
            Err(error) => return Err(error),
        }
    }
    if known.is_empty() && silent.len() < hosts.len() {
        return Err(CtlError::Usage {
            message: format!("no host of the fleet knows {app} yet, so it is not clear which ones are meant"),
            hint: "run it in the folder of deployd.toml, or say -H web".to_owned(),
        });
    }
    known.append(&mut silent);
    known.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(known)
}

async fn change(
    context: &Context<'_>,
    app: &AppName,
    values: BTreeMap<SecretName, SecretValue>,
    unset: Vec<SecretName>,
    skip_offline: bool,
) -> Result<ExitCode, CtlError> {
    refuse_nul(context, &values)?;
    let hosts = hosts_of(context, app).await?;
    let all = hosts.len();
    let (known, offline) = look(context, app, &hosts).await?;
    if known.is_empty() || (!offline.is_empty() && !skip_offline) {
        return Err(nothing_changed(app, &offline));
    }
    let verb = if values.is_empty() { "unset" } else { "set" };
    refuse_unknown(app, &known, &unset)?;
    let recovery = Recovery::find(context)?;
    let mut set = BTreeMap::new();
    for (name, value) in values {
        let version = rows::highest(&known, &name) + 1;
        let recovery = recovery.encrypt(&value)?;
        set.insert(name, NewSecret { version, value, recovery });
    }
    if !recovery.is_known() && !set.is_empty() && context.is_fleet() {
        context.printer.talk(
            "neither your identity nor recovery.pub beside it names the fleet's recovery key, so nobody can read these \
             values again: ask who runs the fleet for recovery.pub",
        );
    }
    let names: Vec<String> = set.keys().chain(&unset).map(ToString::to_string).collect();
    let request = SecretsRequest { set, unset, by: project::origin().by };
    let targets: Vec<Host> = known.into_iter().map(|(host, _)| host).collect();
    let (path, request) = (format!("/apps/{app}/secrets"), &request);
    let path = path.as_str();
    let call = |client: crate::client::Client| async move {
        client.call::<Vec<SecretRow>>(Method::POST, path, request).await
    };
    let answers = fanout::ask(&targets, call).await;
    let failed: Vec<(Host, CtlError)> =
        answers.into_iter().filter_map(|(host, answer)| answer.err().map(|e| (host, e))).collect();
    let done = targets.len() - failed.len();
    if !failed.is_empty() || !offline.is_empty() {
        return Err(partly(app, verb, &names, [done, all], &failed, &offline));
    }
    let hosts = if all == 1 { "1 host".to_owned() } else { format!("{done} of {all} hosts") };
    let line = format!("{} {verb} on {hosts}; the next push uses it: deployd-ctl push", names.join(", "));
    if context.printer.is_json() {
        context.printer.json(&serde_json::json!({ "app": app, verb: names, "hosts": done }))?;
    }
    context.printer.last(&line)?;
    Ok(ExitCode::Ok)
}

/// What every host knows, and those that do not answer. Any other failure is one of the command.
async fn look(
    context: &Context<'_>,
    app: &AppName,
    hosts: &[Host],
) -> Result<(Rows, Vec<(Host, CtlError)>), CtlError> {
    context.on_interrupt("nothing was changed.".to_owned());
    let path = format!("/apps/{app}/secrets");
    let path = path.as_str();
    let answers = fanout::ask(hosts, |client| async move { client.get::<Vec<SecretRow>>(path).await }).await;
    context.on_interrupt(format!("hosts may differ; see: deployd-ctl secrets list -a {app}"));
    let (mut known, mut offline) = (Vec::new(), Vec::new());
    for (host, answer) in answers {
        match answer {
            Ok(rows) => known.push((host, rows)),
            Err(e) if e.is_absence() => offline.push((host, e)),
            Err(e) => return Err(e),
        }
    }
    if let ([], [_]) = (known.as_slice(), hosts) {
        // The only host: its own error says most.
        if let Some((_, error)) = offline.pop() {
            return Err(error);
        }
    }
    Ok((known, offline))
}

/// A variable cannot hold a NUL; only a spec says that a secret is a file.
fn refuse_nul(context: &Context<'_>, values: &BTreeMap<SecretName, SecretValue>) -> Result<(), CtlError> {
    let Some((name, _)) = values.iter().find(|(_, v)| v.reveal().contains(&0)) else { return Ok(()) };
    let is_file = project::read_spec(context.global).is_ok_and(|spec| spec.secrets.files.contains(name));
    if is_file {
        return Ok(());
    }
    Err(CtlError::Usage {
        message: format!("the value of {name} holds a NUL byte, which no variable can"),
        hint: format!("deliver it as a file: [secrets] files = [\"{name}\"] in deployd.toml"),
    })
}

fn refuse_unknown(app: &AppName, known: &Rows, unset: &[SecretName]) -> Result<(), CtlError> {
    let is_set =
        |name: &&SecretName| !known.iter().flat_map(|(_, rows)| rows).any(|r| r.name == **name && !r.removed);
    let Some(name) = unset.iter().find(is_set) else { return Ok(()) };
    Err(CtlError::Usage {
        message: format!("{app} has no secret {name}"),
        hint: format!("deployd-ctl secrets list -a {app} shows what it has"),
    })
}

fn nothing_changed(app: &AppName, offline: &[(Host, CtlError)]) -> CtlError {
    let names: Vec<&str> = offline.iter().map(|(host, _)| host.name.as_str()).collect();
    let verb = if names.len() == 1 { "does" } else { "do" };
    let message =
        format!("{} {verb} not answer, so nothing was changed on any host of {app}", names.join(", "));
    let hint = "bring it back and do it again, or change the others only: --skip-offline";
    let body = ErrorBody::new(ErrorCode::Partial, message, hint);
    CtlError::Answer(Box::new(because(body, offline)))
}

/// Some hosts have the new values, others the old ones.
fn partly(
    app: &AppName,
    verb: &str,
    names: &[String],
    [done, all]: [usize; 2],
    failed: &[(Host, CtlError)],
    offline: &[(Host, CtlError)],
) -> CtlError {
    let names = names.join(", ");
    let message = format!("{names} {verb} on {done} of {all} hosts; the others have the old values");
    let next =
        if verb == "set" { "do it again when they answer, on all hosts" } else { "unset them again then" };
    let hint = format!("a push is refused until all agree: {next}: deployd-ctl secrets {verb} NAME -a {app}");
    let body = ErrorBody::new(ErrorCode::Partial, message, hint);
    CtlError::Answer(Box::new(because(because(body, failed), offline)))
}

fn because(body: ErrorBody, hosts: &[(Host, CtlError)]) -> ErrorBody {
    hosts.iter().fold(body, |body, (host, error)| body.cause(host.name.clone(), error.to_string()))
}
