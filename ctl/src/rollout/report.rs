//! The end of a change in words: what is true now, what undoes it, why it is not as asked; and as JSON.

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::fleet::OnFailure;
use deployd_api::ids::{AppName, DeploymentId, Label, Timestamp};
use serde::Serialize;

use super::drive::{Drive, Verb};
use super::outcome::{self, Outcome, listed};
use crate::client::Client;
use crate::commands::CTL;
use crate::error::CtlError;
use crate::failure;
use crate::follow;
use crate::human;
use crate::project;

/// What `-o json` gives for a change on the hosts of a fleet.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) app: AppName,
    pub(crate) verb: &'static str,
    pub(crate) label: Option<Label>,
    pub(crate) exit: u8,
    pub(crate) hosts: Vec<HostReport>,
}

/// One host of it.
#[derive(Debug, Serialize)]
pub(crate) struct HostReport {
    pub(crate) host: String,
    pub(crate) from: Option<Label>,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deployment: Option<DeploymentId>,
}

/// What the end needs to know beside the drive.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Hosts that had it before, and are not part of the drive.
    pub(crate) already: Vec<String>,
    /// Hosts that were left out.
    pub(crate) absent: Vec<(String, ErrorBody)>,
    pub(crate) on_failure: OnFailure,
    /// The verb that undoes it, if there is one.
    pub(crate) undo: Option<&'static str>,
}

impl Ending {
    /// With hosts that had it before.
    pub(crate) fn with(self, already: Vec<String>) -> Self {
        Self { already, ..self }
    }
}

/// Says how it ended and gives the exit code.
pub(crate) async fn end(drive: &Drive<'_>, ending: &Ending) -> Result<ExitCode, CtlError> {
    let offline = |(_, failure): &(String, ErrorBody)| Outcome::Offline { failure: failure.clone() };
    let mut outcomes = drive.outcomes();
    outcomes.extend(ending.absent.iter().map(offline));
    let code = outcome::exit(&outcomes);
    drive.board.close();
    if drive.context.printer.is_json() {
        json(drive, ending, code).await?;
    }
    match drive.failure() {
        Some((index, body)) => {
            let body = if drive.topic.verb == Verb::Push && drive.members.len() == 1 {
                complete_one(drive, index, body)
            } else {
                complete(drive, ending, index, body)
            };
            drive.context.printer.talk("");
            drive.context.printer.fail(&failure::render(&body, drive.context.printer.colour_err()), code);
        }
        None => say_good(drive, ending, code)?,
    }
    Ok(code)
}

async fn json(drive: &Drive<'_>, ending: &Ending, code: ExitCode) -> Result<(), CtlError> {
    if !drive.context.is_fleet() {
        let known = drive.states().first().and_then(|s| s.deployment.clone());
        let Some(known) = known else { return Ok(()) };
        let client = drive.client(0);
        let now: Deployment = Client::patiently(|| {
            let (client, path) = (client.clone(), follow::path(&known));
            async move { client.get(&path).await }
        })
        .await?;
        return drive.context.printer.json(&now);
    }
    drive.context.printer.json(&report(drive, ending, code))
}

fn report(drive: &Drive<'_>, ending: &Ending, code: ExitCode) -> Report {
    let states = drive.states();
    let mut hosts: Vec<HostReport> = drive
        .members
        .iter()
        .zip(states.iter())
        .map(|(member, state)| HostReport {
            host: member.host.name.clone(),
            from: member.from,
            outcome: state.outcome.clone(),
            deployment: state.deployment.as_ref().map(|d| d.id.clone()),
        })
        .collect();
    let label = drive.label();
    let other =
        |host: &str, from, outcome| HostReport { host: host.to_owned(), from, outcome, deployment: None };
    hosts.extend(ending.already.iter().map(|host| other(host, label, Outcome::Already)));
    hosts.extend(
        ending
            .absent
            .iter()
            .map(|(host, failure)| other(host, None, Outcome::Offline { failure: failure.clone() })),
    );
    hosts.sort_by(|a, b| a.host.cmp(&b.host));
    let (app, verb) = (drive.topic.app.clone(), drive.topic.verb.word());
    Report { app, verb, label, exit: code as u8, hosts }
}

/// Hosts of the app, whether they answer or not.
fn count(drive: &Drive<'_>, ending: &Ending) -> usize {
    drive.members.len() + ending.already.len() + ending.absent.len()
}

/// `web1`, or `3 of 3 hosts`.
fn place(drive: &Drive<'_>, ending: &Ending) -> String {
    let good = drive.states().iter().filter(|s| s.outcome.is_good()).count() + ending.already.len();
    match (count(drive, ending), drive.members.first()) {
        (1, Some(only)) => only.host.name.clone(),
        (all, _) => format!("{good} of {all} hosts"),
    }
}

fn say_good(drive: &Drive<'_>, ending: &Ending, code: ExitCode) -> Result<(), CtlError> {
    let (printer, app) = (drive.context.printer, &drive.topic.app);
    let label = drive.labels().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let (place, took) = (place(drive, ending), human::took(drive.board.elapsed_ms()));
    let committed = drive.states().iter().all(|s| matches!(s.outcome, Outcome::Committed | Outcome::Already));
    if drive.states().iter().all(|s| matches!(s.outcome, Outcome::Already)) && code == ExitCode::Ok {
        return printer.last(&format!("{app} {label} is already on {place}, nothing to change."));
    }
    printer.talk("");
    let line = match (drive.topic.verb, drive.topic.verb.past()) {
        (_, None) if committed => format!("{app} {label} is live and committed on {place}, {took}."),
        (_, None) => format!("{app} {label} is live on {place}, {took}.{}", watched(drive)),
        (Verb::Remove, Some(past)) => format!("{app} is {past} from {place}, {took}."),
        (Verb::Abort, Some(_)) => format!("what ran of {app} is undone on {place}, {took}."),
        (_, Some(past)) => format!("{app} is {past} on {place}, {took}."),
    };
    printer.last(&line)?;
    if let Some(verb) = ending.undo {
        printer.last(&format!("undo: {CTL} {verb} -a {app}"))?;
    }
    if code != ExitCode::Ok {
        let mut lines: Vec<String> = ending
            .absent
            .iter()
            .map(|(_, why)| format!("{}: left out; it catches up when {app} is pushed again", why.message))
            .collect();
        if lines.is_empty() {
            lines.push(drive.in_words());
        }
        printer.fail(&lines, code);
    }
    Ok(())
}

/// Until when hosts are watched, and what happens then.
fn watched(drive: &Drive<'_>) -> String {
    let states = drive.states();
    let until = |o: &Outcome| match o {
        Outcome::Live { watched_until } => *watched_until,
        _ => None,
    };
    let Some(last) = states.iter().filter_map(|s| until(&s.outcome)).max() else { return String::new() };
    let replaced = |d: &Deployment| d.replaces;
    let mut old: Vec<Label> =
        states.iter().filter_map(|s| s.deployment.as_ref().and_then(replaced)).collect();
    old.sort_unstable();
    old.dedup();
    let drained = match old.as_slice() {
        [] => String::new(),
        [one] => format!(" and {one} drained"),
        _ => " and what was before drained".to_owned(),
    };
    format!(" Watched until {}, then committed{drained}.", clock(last))
}

fn clock(at: Timestamp) -> String {
    human::clock(at)
}

/// What serves on each host, as far as it is known.
fn serving(drive: &Drive<'_>, ending: &Ending) -> Vec<(String, Option<Label>)> {
    let states = drive.states();
    let mut hosts: Vec<(String, Option<Label>)> = drive
        .members
        .iter()
        .zip(states.iter())
        .filter_map(|(member, state)| {
            let label = match &state.outcome {
                Outcome::Failed { verdict: Verdict::Stuck, .. }
                | Outcome::Unknown { .. }
                | Outcome::Running
                | Outcome::Offline { .. } => return None,
                Outcome::Failed { .. } | Outcome::Queued | Outcome::TakenBack => member.from,
                Outcome::Replaced { by } => *by,
                Outcome::Live { .. } | Outcome::Committed | Outcome::Already | Outcome::Kept { .. } => {
                    state.deployment.as_ref().map_or(drive.label(), |d| d.label.or(drive.label()))
                }
            };
            Some((member.host.name.clone(), label))
        })
        .collect();
    hosts.extend(ending.already.iter().map(|host| (host.clone(), drive.label())));
    hosts
}

/// Adds what only is known at the end: what serves where, what was undone, what to do.
fn complete(drive: &Drive<'_>, ending: &Ending, index: usize, mut body: ErrorBody) -> ErrorBody {
    let app = &drive.topic.app;
    let moves = drive.topic.verb.past().is_none();
    let serves =
        if moves { outcome::serves(&serving(drive, ending), count(drive, ending)) } else { drive.in_words() };
    let host = &drive.members[index].host.name;
    let states = drive.states();
    let is_lost = matches!(states[index].outcome, Outcome::Unknown { .. });
    if is_lost {
        body.message = format!("{host} went away in the middle of its deployment");
    } else if !body.message.contains(host.as_str()) {
        body.message = format!("{host}: {}", body.message);
    }
    body.message = format!("{}. {serves}.", body.message.trim_end_matches('.'));
    place_in_spec(drive, &mut body);
    for (other, state) in drive.members.iter().zip(states.iter()).filter(|(m, _)| m.host.name != *host) {
        if let Some(failure) = state.outcome.failure() {
            body = body.cause("also", format!("{}: {}", other.host.name, failure.message));
        }
    }
    body = undone(drive, index, body);
    let named = |want: fn(&Outcome) -> bool| -> Vec<String> {
        let hosts = drive.members.iter().zip(states.iter()).filter(|(_, s)| want(&s.outcome));
        hosts.map(|(m, _)| m.host.name.clone()).collect()
    };
    let back = named(|o| matches!(o, Outcome::TakenBack));
    if !back.is_empty() {
        body = body.cause("undone", format!("taken back on {}, where it was live", listed(&back)));
    }
    let live = named(|o| matches!(o, Outcome::Live { .. } | Outcome::Committed));
    let label = drive.label().map(|l| l.to_string()).unwrap_or_default();
    if drive.topic.verb == Verb::Push && is_lost {
        body.hint = format!(
            "when it is back: deployd-ctl rollout resume -a {app}; or take it back: deployd-ctl rollout abort -a {app}"
        );
    } else if drive.topic.verb == Verb::Push && !live.is_empty() {
        let held = if ending.on_failure == OnFailure::Hold { " (on_failure = \"hold\")" } else { "" };
        let live = listed(&live);
        body = body.cause("kept", format!("{label} stays on {live}{held}"));
        body.hint += &format!("\ntake {label} back: deployd-ctl rollout abort -a {app}");
    }
    mark(drive, index, body)
}

/// The same for one host, in the words of one.
fn complete_one(drive: &Drive<'_>, index: usize, mut body: ErrorBody) -> ErrorBody {
    let states = drive.states();
    let host = &drive.members[index].host.name;
    if let Outcome::Failed { verdict: Verdict::RolledBack, .. } = states[index].outcome {
        let old = states[index].deployment.as_ref().and_then(|d| d.replaces).or(drive.members[index].from);
        let serves = outcome::serves(&[(host.clone(), old)], 1);
        body.message = format!("{}. {serves}.", body.message.trim_end_matches('.'));
    }
    place_in_spec(drive, &mut body);
    let body = undone(drive, index, body);
    mark(drive, index, body)
}

fn undone(drive: &Drive<'_>, index: usize, body: ErrorBody) -> ErrorBody {
    let undone = drive.board.view(index).undone();
    if undone.is_empty() { body } else { body.cause("undone", undone) }
}

/// Where the spec says what failed.
fn place_in_spec(drive: &Drive<'_>, body: &mut ErrorBody) {
    for (_, text) in body.causes.iter_mut().filter(|(heading, _)| heading == "where") {
        let table = text.rfind("[checks.").map(|at| text[at..].to_owned());
        if let (Verb::Push, Some(table)) = (drive.topic.verb, table)
            && let Some(place) = project::place_of(drive.context.global, &table)
        {
            *text += &format!(", {place}");
        }
    }
}

/// A release that undid itself is not deployed again by accident.
fn mark(drive: &Drive<'_>, index: usize, mut body: ErrorBody) -> ErrorBody {
    let states = drive.states();
    let rolled_back = matches!(states[index].outcome, Outcome::Failed { verdict: Verdict::RolledBack, .. });
    let by_itself = matches!(body.code, ErrorCode::CheckFailed | ErrorCode::StartFailed);
    let label = states[index].deployment.as_ref().and_then(|d| d.label).or(drive.label());
    if let (Verb::Push, true, true, Some(label)) = (drive.topic.verb, rolled_back, by_itself, label) {
        let app = &drive.topic.app;
        body.hint +=
            &format!("\n{label} is marked bad: push a new build, or {CTL} releases clear {label} -a {app}");
    }
    body
}

/// The report of a change that found every host as it should be.
pub(crate) fn nothing(
    app: &AppName,
    verb: Verb,
    label: Option<Label>,
    ending: &Ending,
    code: ExitCode,
) -> Report {
    let already = ending.already.iter().map(|host| (host.clone(), label, Outcome::Already));
    let absent = ending.absent.iter();
    let absent = absent.map(|(host, f)| (host.clone(), None, Outcome::Offline { failure: f.clone() }));
    let hosts = already
        .chain(absent)
        .map(|(host, from, outcome)| HostReport { host, from, outcome, deployment: None })
        .collect();
    Report { app: app.clone(), verb: verb.word(), label, exit: code as u8, hosts }
}

/// The end of a rollout that a person took back.
pub(crate) fn aborted(drive: &Drive<'_>, absent: &[(String, ErrorBody)]) -> Result<ExitCode, CtlError> {
    let ending =
        Ending { already: Vec::new(), absent: absent.to_vec(), on_failure: OnFailure::Hold, undo: None };
    drive.board.close();
    let mut outcomes = drive.outcomes();
    outcomes.extend(absent.iter().map(|(_, failure)| Outcome::Offline { failure: failure.clone() }));
    let code = outcome::exit_of_abort(&outcomes.iter().collect::<Vec<_>>());
    if drive.context.printer.is_json() {
        drive.context.printer.json(&report(drive, &ending, code))?;
    }
    let serves = outcome::serves(&serving(drive, &ending), count(drive, &ending));
    let label = drive.label().map(|l| l.to_string()).unwrap_or_default();
    let app = &drive.topic.app;
    let left = if code == ExitCode::Ok { "" } else { ", but not on all hosts" };
    drive.context.printer.last(&format!("the rollout of {app} {label} is aborted{left}. {serves}."))?;
    if code != ExitCode::Ok {
        drive.context.printer.fail(&not_aborted(drive, absent), code);
    }
    Ok(code)
}

/// The hosts that an abort left as they are, each with what to do.
fn not_aborted(drive: &Drive<'_>, absent: &[(String, ErrorBody)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (member, state) in drive.members.iter().zip(drive.states().iter()) {
        let (what, why) = match &state.outcome {
            Outcome::Failed { verdict: Verdict::Stuck, failure } => ("is stuck", failure),
            Outcome::Unknown { failure } => ("is not known", failure),
            Outcome::Kept { failure } => ("was not taken back", failure),
            _ => continue,
        };
        lines.push(format!("{} {what}: {}", member.host.name, why.message));
        lines.push(format!("next: {}", why.hint));
    }
    lines.extend(absent.iter().map(|(_, why)| format!("{}: not taken back", why.message)));
    if !absent.is_empty() {
        lines.push(format!("next: {CTL} rollout abort -a {}, when they answer", drive.topic.app));
    }
    lines
}
