//! `secrets`: names and values to every host of the app; names and versions back.
//!
//! One version for all hosts: 1 + the highest that any of them knows. Nothing is sent before every host has
//! answered, so a host that is down is told before anything changed.

mod read;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use deployd_api::secret::{NewSecret, SecretName, SecretRow, SecretValue, SecretsRequest};
use hyper::Method;

use super::{Context, Host};
use crate::cli::{Secrets, SecretsCommand};
use crate::error::CtlError;
use crate::fanout;
use crate::pki::{broken, home};
use crate::project;

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
    }
}

/// The hosts of an app: those of the spec when there is one here, else all of the fleet.
pub(crate) fn hosts_of(context: &Context<'_>, app: &AppName) -> Result<Vec<Host>, CtlError> {
    let path = context.global.spec();
    let Ok(text) = std::fs::read_to_string(&path) else { return context.hosts() };
    let project = deployd_api::spec::parse_project(&text);
    let project = project.map_err(|e| CtlError::Spec(e.render(&path.display().to_string())))?;
    if project.spec.app != *app {
        return context.hosts();
    }
    let all: BTreeSet<_> =
        project.hosts.iter().chain(project.spec.processes.values().flat_map(|p| &p.hosts)).cloned().collect();
    context.hosts_of(&all.into_iter().collect::<Vec<_>>())
}

async fn change(
    context: &Context<'_>,
    app: &AppName,
    values: BTreeMap<SecretName, SecretValue>,
    unset: Vec<SecretName>,
    skip_offline: bool,
) -> Result<ExitCode, CtlError> {
    refuse_nul(context, &values)?;
    let hosts = hosts_of(context, app)?;
    let all = hosts.len();
    let (known, offline) = look(context, app, &hosts).await?;
    if known.is_empty() || (!offline.is_empty() && !skip_offline) {
        return Err(nothing_changed(app, &offline));
    }
    let verb = if values.is_empty() { "unset" } else { "set" };
    refuse_unknown(app, &known, &unset)?;
    let recovery = Recovery::find()?;
    let mut set = BTreeMap::new();
    for (name, value) in values {
        let version = rows::highest(&known, &name) + 1;
        let recovery = recovery.encrypt(&value)?;
        set.insert(name, NewSecret { version, value, recovery });
    }
    if recovery.0.is_none() && !set.is_empty() && !context.global.local {
        context
            .printer
            .talk("without recovery.pub (deployd-ctl pki init) nobody can read these values again");
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

/// Who can read values again: the owner of the recovery key.
struct Recovery(Option<age::x25519::Recipient>);

impl Recovery {
    fn find() -> Result<Self, CtlError> {
        // A host's own root has no folder of an operator.
        let Ok(home) = home::Home::find() else { return Ok(Self(None)) };
        let Some(text) = home.text(home::RECOVERY)? else { return Ok(Self(None)) };
        let recipient = text.trim().parse().map_err(|e: &str| {
            broken(
                "read recovery.pub, the key that secrets are encrypted to for recovery",
                std::io::Error::other(e),
            )
        })?;
        Ok(Self(Some(recipient)))
    }

    fn encrypt(&self, value: &SecretValue) -> Result<Option<String>, CtlError> {
        let encrypt = |to| age::encrypt_and_armor(to, value.reveal());
        self.0.as_ref().map(encrypt).transpose().map_err(|e| broken("encrypt a value for recovery", e))
    }
}
