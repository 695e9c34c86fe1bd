//! `rollout status|resume|abort`: a push over many hosts whose ctl is gone, from what the hosts keep of it.

use deployd_api::deployment::{Deployment, PushRequest, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::fleet::{Rollout, RolloutHost, RolloutState};
use deployd_api::ids::{AppName, HostName};
use deployd_api::needs::Needs;
use deployd_api::spec::Millis;
use futures_util::FutureExt;
use hyper::Method;
use serde::Serialize;

use super::{CTL, Context, Host};
use crate::cli::{self, RolloutCommand, Wait, WaitFor};
use crate::client::Client;
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::rollout::drive::{Drive, Kept, Member, Topic, Verb};
use crate::rollout::outcome::{self, Outcome, listed};
use crate::rollout::record::{self, Found};
use crate::rollout::report::{self, Ending};
use crate::rollout::{lease, plan, undo};
use crate::table::{Cell, Table, Tone, wrap};

pub(crate) async fn run(context: &Context<'_>, args: &cli::Rollout) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    match &args.command {
        RolloutCommand::Status => status(context, &app).await,
        RolloutCommand::Resume(patience) => resume(context, &app, patience.lease_timeout).await,
        RolloutCommand::Abort(patience) => abort(context, &app, patience.lease_timeout).await,
    }
}

/// What `rollout status -o json` gives.
#[derive(Debug, Serialize)]
struct Status<'s> {
    rollout: &'s Rollout,
    hosts: Vec<HostStatus<'s>>,
}

#[derive(Debug, Serialize)]
struct HostStatus<'s> {
    host: &'s str,
    #[serde(flatten)]
    outcome: &'s Outcome,
}

async fn status(context: &Context<'_>, app: &AppName) -> Result<ExitCode, CtlError> {
    let mut found = record::find(context, app).await?;
    found.rollout.state = outcome::derived(found.rollout.state, &outcomes_of(&found));
    let outcomes = outcomes_of(&found);
    let code = match outcome::exit(outcomes.iter().copied()) {
        // That it failed is what was asked: only hosts that do not answer leave the question open.
        ExitCode::Partial if outcomes.iter().any(|o| matches!(o, Outcome::Offline { .. })) => {
            ExitCode::Partial
        }
        _ => ExitCode::Ok,
    };
    let printer = context.printer;
    if printer.is_json() {
        let hosts = found.rollout.hosts.iter().zip(&outcomes);
        let hosts = hosts.map(|(h, outcome)| HostStatus { host: h.host.as_str(), outcome }).collect();
        printer.json(&Status { rollout: &found.rollout, hosts })?;
        return Ok(code);
    }
    for line in wrap(&headline(&found), 100) {
        printer.data(&line)?;
    }
    printer.data("")?;
    for line in table(&found).render(printer.colour_out()) {
        printer.data(&line)?;
    }
    for line in next(&found) {
        printer.last(&line)?;
    }
    Ok(code)
}

fn outcomes_of(found: &Found) -> Vec<&Outcome> {
    found.hosts.iter().map(|(_, outcome, _)| outcome).collect()
}

fn headline(found: &Found) -> String {
    let Rollout { app, label, origin, started, .. } = &found.rollout;
    let live = found.hosts.iter().filter(|(_, o, _)| o.is_good()).count();
    let state = match found.rollout.state {
        RolloutState::Sending => "was sending its files",
        RolloutState::Running => "is not at its end",
        RolloutState::Live => "is at its end",
        RolloutState::Failed => "failed",
        RolloutState::Aborted => "was aborted",
    };
    let git = origin.git.as_ref().map(|git| format!(", git {git}")).unwrap_or_default();
    format!(
        "push of {app} {label} by {}{git} since {} {state}: live on {live} of {} hosts.",
        if origin.by.is_empty() { "somebody" } else { &origin.by },
        human::since(*started),
        found.hosts.len(),
    )
}

fn table(found: &Found) -> Table {
    let mut table = Table::new(&["HOST", ">WAVE", "FROM", "STATE"]);
    for (part, (_, outcome, deployment)) in found.rollout.hosts.iter().zip(&found.hosts) {
        let (state, tone) = in_words(outcome, deployment.as_ref());
        table.row(vec![
            part.host.as_str().into(),
            (part.wave + 1).to_string().into(),
            part.from.map_or("-".to_owned(), |l| l.to_string()).into(),
            Cell(state, tone),
        ]);
    }
    table
}

fn in_words(outcome: &Outcome, deployment: Option<&Deployment>) -> (String, Tone) {
    let step = deployment.and_then(|d| d.step.as_ref()).map(|s| format!(": {s}")).unwrap_or_default();
    match outcome {
        Outcome::Queued => ("not begun".to_owned(), Tone::Plain),
        Outcome::Running => (format!("running{step}"), Tone::Warn),
        Outcome::Live { watched_until } => {
            let until = watched_until.map(|at| format!(", watched until {}", human::clock(at)));
            (format!("live{}", until.unwrap_or_default()), Tone::Good)
        }
        Outcome::Committed | Outcome::Already => ("live, committed".to_owned(), Tone::Good),
        Outcome::Replaced { by: Some(label) } => (format!("replaced by {label}"), Tone::Warn),
        Outcome::Replaced { by: None } => ("replaced, no release is live".to_owned(), Tone::Warn),
        Outcome::TakenBack => ("taken back".to_owned(), Tone::Warn),
        Outcome::Failed { verdict: Verdict::Stuck, failure } => {
            (format!("stuck: {}", failure.message), Tone::Bad)
        }
        Outcome::Failed { failure, .. } => (format!("failed: {}", failure.message), Tone::Bad),
        Outcome::Offline { failure } | Outcome::Unknown { failure } | Outcome::Kept { failure } => {
            (format!("unreachable: {}", failure.message), Tone::Bad)
        }
    }
}

/// What can be done about it.
fn next(found: &Found) -> Vec<String> {
    let app = &found.rollout.app;
    let any = |want: fn(&Outcome) -> bool| found.hosts.iter().any(|(_, o, _)| want(o));
    let left = any(|o| matches!(o, Outcome::Queued | Outcome::Running | Outcome::Offline { .. }));
    let over =
        matches!(found.rollout.state, RolloutState::Live | RolloutState::Failed | RolloutState::Aborted);
    if over || !left || any(|o| matches!(o, Outcome::Failed { .. })) {
        let live = any(|o| matches!(o, Outcome::Live { .. } | Outcome::Committed));
        let can = live && found.rollout.state != RolloutState::Aborted;
        return if can { vec![format!("undo: {CTL} rollout abort -a {app}")] } else { Vec::new() };
    }
    vec![format!("next: {CTL} rollout resume -a {app}"), format!("undo: {CTL} rollout abort -a {app}")]
}

/// The rollout as it is once its leases are held: while they were waited for, another one may have gone on.
async fn hold(context: &Context<'_>, found: &Found, patience: Millis) -> Result<Found, CtlError> {
    let (app, label) = (&found.rollout.app, found.rollout.label);
    let there = found.hosts.iter().filter(|(_, o, _)| !matches!(o, Outcome::Offline { .. }));
    let mut hosts: Vec<Host> = there.filter_map(|(host, _, _)| host.clone()).collect();
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    lease::take(context, app, &hosts, &format!("push {label}"), patience).await?;
    let mut now = record::find(context, app).await?;
    if now.rollout.id != found.rollout.id {
        let what = format!("another rollout of {app} began meanwhile: {}", now.rollout.label);
        let hint = format!("{CTL} rollout status -a {app}");
        return Err(CtlError::Answer(Box::new(ErrorBody::new(ErrorCode::WrongState, what, hint))));
    }
    for (part, (host, outcome, _)) in now.rollout.hosts.iter().zip(&mut now.hosts) {
        let held = host.as_ref().is_some_and(|host| hosts.iter().any(|h| h.name == host.name));
        if !held && !matches!(outcome, Outcome::Offline { .. }) {
            let what = format!("{} did not answer when the leases were taken", part.host);
            let hint = format!("{CTL} hosts check {}", part.host);
            let failure = ErrorBody::new(ErrorCode::AgentUnreachable, what, hint);
            *outcome = Outcome::Offline { failure };
        }
    }
    Ok(now)
}

/// Takes the part of the ctl that is gone: the same hosts, under leases of its own.
fn take_over<'a>(
    context: &'a Context<'a>,
    found: &Found,
) -> Result<(Drive<'a>, Vec<(String, ErrorBody)>), CtlError> {
    let rollout = &found.rollout;
    let mut members = Vec::new();
    let (mut known, mut absent) = (Vec::new(), Vec::new());
    for (part, (host, outcome, deployment)) in rollout.hosts.iter().zip(&found.hosts) {
        match (host, outcome) {
            (_, Outcome::Offline { failure }) => absent.push((part.host.to_string(), failure.clone())),
            (Some(host), outcome) => {
                let host = host.clone();
                members.push(Member { host, name: part.host.clone(), wave: part.wave, from: part.from });
                known.push((outcome.clone(), deployment.clone()));
            }
            (None, _) => {}
        }
    }
    let topic = Topic {
        app: rollout.app.clone(),
        verb: Verb::Push,
        label: Some(rollout.label),
        record: Kept::Recorded,
    };
    let drive = Drive::new(context, topic, members, context.leases()?);
    for (index, (outcome, deployment)) in known.into_iter().enumerate() {
        drive.take_up(index, outcome, deployment);
    }
    Ok((drive, absent))
}

async fn resume(context: &Context<'_>, app: &AppName, patience: Millis) -> Result<ExitCode, CtlError> {
    let found = record::find(context, app).await?;
    refuse_resume(&found)?;
    let found = hold(context, &found, patience).await?;
    refuse_resume(&found)?;
    let (drive, absent) = take_over(context, &found)?;
    let mut rollout = found.rollout.clone();
    let left = drive.states().iter().filter(|s| !s.outcome.is_good()).count();
    let names: Vec<&str> = drive.members.iter().map(|m| m.host.name.as_str()).collect();
    context.printer.talk(&format!(
        "{app} {} -> {} goes on, {} to come",
        rollout.label,
        listed(&names),
        human::plural(left as u64, "host")
    ));
    rollout.state = RolloutState::Running;
    drive.write_down(&rollout).await;
    let (spec, drive_ref, record) = (&rollout.document.spec, &drive, &rollout);
    let call = |index: usize, client: Client| {
        let member = &drive_ref.members[index];
        let part = record.hosts.iter().find(|h| h.host == member.name);
        let migrates = record.migrate_on.as_ref() == Some(&member.name);
        let push = PushRequest {
            id: record.deployment(&member.name),
            artifact: record.document.artifact,
            spec: spec.clone(),
            secrets: record.document.secrets.clone(),
            strategy: record.strategy,
            label: Some(record.label),
            processes: part.and_then(|p| p.processes.clone()),
            migrate: plan::migrate(spec, migrates.then_some(index), index),
            // They were looked at when the rollout began.
            needs: Needs::default(),
            expect: None,
            origin: record.origin.clone(),
        };
        let path = format!("/apps/{}/deployments", record.app);
        async move { client.call::<Deployment>(Method::POST, &path, &push).await }.boxed_local()
    };
    drive.run(&call, &until_live(patience)).await?;
    let outcomes = drive.outcomes();
    if outcome::goes_back(rollout.on_failure, &outcomes.iter().collect::<Vec<_>>()) {
        undo::take_back(&drive, &rollout).await;
    }
    let mut outcomes = drive.outcomes();
    outcomes.extend(absent.iter().map(|_| Outcome::Queued));
    rollout.state = outcome::state(&outcomes.iter().collect::<Vec<_>>());
    drive.write_down(&rollout).await;
    context.release().await;
    let undo = Some(if rollout.hosts.iter().any(|h| h.from.is_some()) { "rollback" } else { "remove" });
    let ending = Ending { already: Vec::new(), absent, on_failure: rollout.on_failure, undo };
    report::end(&drive, &ending).await
}

fn until_live(lease_timeout: Millis) -> Wait {
    Wait { until: WaitFor::Live, detach: false, lease_timeout }
}

/// A rollout that is over is not gone on with, and one with a host that failed is not either.
fn refuse_resume(found: &Found) -> Result<(), CtlError> {
    let Rollout { app, label, state, .. } = &found.rollout;
    let failed = found.hosts.iter().find_map(|(_, o, _)| match o {
        Outcome::Failed { failure, .. } => Some(failure),
        _ => None,
    });
    let refuse = |what: String, hint: String| {
        Err(CtlError::Answer(Box::new(ErrorBody::new(ErrorCode::WrongState, what, hint))))
    };
    let push = "deployd-ctl push".to_owned();
    match (state, failed) {
        (RolloutState::Aborted, _) => refuse(format!("the rollout of {app} {label} was aborted"), push),
        (_, Some(failure)) => refuse(
            format!("the rollout of {app} {label} failed: {}", failure.message),
            format!("push a new build, or take back what is live: deployd-ctl rollout abort -a {app}"),
        ),
        (_, None) if found.hosts.iter().any(|(_, o, _)| matches!(o, Outcome::TakenBack)) => {
            refuse(format!("hosts of the rollout of {app} {label} were taken back"), push)
        }
        (_, None) if found.hosts.iter().any(|(_, o, _)| matches!(o, Outcome::Replaced { .. })) => refuse(
            format!("hosts of the rollout of {app} {label} have another release since"),
            format!("deployd-ctl status -a {app}"),
        ),
        (RolloutState::Live | RolloutState::Failed, None) => refuse(
            format!("the rollout of {app} {label} is over"),
            format!("deployd-ctl rollout status -a {app}"),
        ),
        (RolloutState::Sending, None) if found.hosts.iter().all(|(_, o, _)| !is_begun(o)) => refuse(
            format!(
                "the rollout of {app} {label} ended before its files were on all hosts; nothing was touched"
            ),
            push,
        ),
        _ => match needed(&found.rollout, &outcomes_of(found)) {
            Some(host) => refuse(
                format!("{host} comes before the others, and does not answer; nothing was touched"),
                format!(
                    "when it is back: deployd-ctl rollout resume -a {app}; or take back what is live: \
                     deployd-ctl rollout abort -a {app}"
                ),
            ),
            None => Ok(()),
        },
    }
}

/// The host that does not answer and without which no other may begin: the one that migrates, or one of an
/// earlier wave than the next.
fn needed<'r>(rollout: &'r Rollout, outcomes: &[&Outcome]) -> Option<&'r HostName> {
    let hosts = || rollout.hosts.iter().zip(outcomes);
    let due = hosts().filter(|(_, o)| matches!(o, Outcome::Queued | Outcome::Running));
    let next = due.map(|(part, _)| part.wave).min()?;
    let away = |part: &RolloutHost| part.wave < next || rollout.migrate_on.as_ref() == Some(&part.host);
    let mut silent = hosts().filter(|(_, o)| matches!(o, Outcome::Offline { .. }));
    silent.find(|(part, _)| away(part)).map(|(part, _)| &part.host)
}

fn is_begun(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Queued | Outcome::Offline { .. })
}

async fn abort(context: &Context<'_>, app: &AppName, patience: Millis) -> Result<ExitCode, CtlError> {
    let found = record::find(context, app).await?;
    let found = hold(context, &found, patience).await?;
    let (drive, absent) = take_over(context, &found)?;
    let mut rollout = found.rollout.clone();
    let back = drive
        .states()
        .iter()
        .filter(|s| s.outcome.is_good() || matches!(s.outcome, Outcome::Running))
        .count();
    let label = rollout.label;
    context.printer.talk(&format!("{app} {label}: taking back {}", human::plural(back as u64, "host")));
    undo::take_back(&drive, &rollout).await;
    // One that stays on it is a host to come back to.
    let kept = drive.states().iter().any(|s| matches!(s.outcome, Outcome::Kept { .. }));
    rollout.state = if kept { RolloutState::Failed } else { RolloutState::Aborted };
    drive.write_down(&rollout).await;
    context.release().await;
    report::aborted(&drive, &absent)
}
