//! `rollback`, `start`, `stop`, `restart`, `remove` and `abort` on several hosts. A host that is away keeps no
//! other from it: it is told, and the exit code is 6.

use std::cell::Cell;

use deployd_api::deployment::{Deployment, Kind, OperateRequest, RollbackRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::fleet::OnFailure;
use deployd_api::ids::{AppName, Label};
use deployd_api::release::{ReleaseRow, ReleaseState};
use deployd_api::spec::{Millis, Share};
use futures_util::FutureExt;
use hyper::Method;

use super::operate::{call_of, until_the_end};
use super::{Context, Host};
use crate::cli::{Rollback, Wait};
use crate::client::Client;
use crate::error::CtlError;
use crate::fanout;
use crate::project;
use crate::rollout::crew::{self, Crew, Met};
use crate::rollout::drive::{Drive, Kept, Member, Topic, Verb};
use crate::rollout::outcome::listed;
use crate::rollout::report::{self, Ending};
use crate::rollout::{lease, plan, undo};

/// The hosts that have the app. None at all is an error.
pub(crate) async fn crew(context: &Context<'_>, app: &AppName) -> Result<Crew, CtlError> {
    let hosts = crew::of_app(context, app)?;
    let crew = crew::meet(context, &hosts, app).await?.having();
    if !crew.met.is_empty() {
        return Ok(crew);
    }
    let body = crew.absent.into_iter().next().map_or_else(
        || {
            let what = match hosts.as_slice() {
                [only] => format!("{} has no app {app}", only.name),
                _ => format!("no host has an app {app}"),
            };
            ErrorBody::new(ErrorCode::AppNotFound, what, "deployd-ctl status --all lists what there is")
        },
        |(_, absent)| absent,
    );
    Err(CtlError::Answer(Box::new(body)))
}

/// How many hosts are away at one time.
fn share(context: &Context<'_>, app: &AppName) -> Result<Share, CtlError> {
    let project = project::find_project(context.global)?.filter(|p| p.spec.app == *app);
    Ok(project.map_or(Share::DEFAULT, |p| p.max_unavailable))
}

/// A drive over these hosts, under leases.
async fn drive<'a>(
    context: &'a Context<'a>,
    topic: Topic,
    met: Vec<Met>,
    at_once: usize,
    patience: Millis,
) -> Result<Drive<'a>, CtlError> {
    let hosts = hosts_of(&met);
    if topic.verb == Verb::Abort {
        lease::none(context, &topic.app)?;
    } else {
        lease::take(context, &topic.app, &hosts, topic.verb.word(), patience).await?;
    }
    over(context, topic, met, at_once)
}

/// The same, when the leases are held.
fn over<'a>(
    context: &'a Context<'a>,
    topic: Topic,
    hosts: Vec<Met>,
    at_once: usize,
) -> Result<Drive<'a>, CtlError> {
    let waves = if at_once >= hosts.len() { vec![0; hosts.len()] } else { plan::waves(hosts.len(), at_once) };
    let member = |(met, wave): (Met, u32)| -> Result<Member, CtlError> {
        let (name, from) = (crew::name(&met.host.name)?, met.status.and_then(|s| s.live));
        Ok(Member { host: met.host, name, wave, from })
    };
    let members = hosts.into_iter().zip(waves).map(member).collect::<Result<Vec<_>, _>>()?;
    Ok(Drive::new(context, topic, members, context.leases()?))
}

fn hosts_of(met: &[Met]) -> Vec<Host> {
    met.iter().map(|m| m.host.clone()).collect()
}

fn ending(absent: Vec<(String, ErrorBody)>, undo: Option<&'static str>) -> Ending {
    Ending { already: Vec::new(), absent, on_failure: OnFailure::Hold, undo }
}

/// `start`, `stop`, `restart`, `remove`: a restart goes host by host, the others everywhere at once.
pub(crate) async fn operate(
    context: &Context<'_>,
    verb: Verb,
    app: &AppName,
    crew: Crew,
) -> Result<ExitCode, CtlError> {
    let count = crew.met.len();
    let at_once = if verb == Verb::Restart { plan::at_once(share(context, app)?, count) } else { count };
    let topic = Topic { app: app.clone(), verb, label: None, record: Kept::Nowhere };
    let drive = drive(context, topic, crew.met, at_once, Millis(0)).await?;
    context.printer.talk(&format!("{} {app} -> {}", verb.word(), names(&drive)));
    let (method, path) = call_of(verb, app);
    let ids = (0..count).map(|_| project::new_id()).collect::<Result<Vec<_>, _>>()?;
    let call = |index: usize, client: Client| {
        let request = OperateRequest { id: ids[index].clone(), origin: project::origin() };
        let (method, path) = (method.clone(), path.clone());
        async move { client.call::<Deployment>(method, &path, &request).await }.boxed_local()
    };
    drive.run(&call, &until_the_end()).await?;
    context.release().await;
    let undo = match verb {
        Verb::Start => Some("stop"),
        Verb::Stop => Some("start"),
        _ => None,
    };
    report::end(&drive, &ending(crew.absent, undo)).await
}

fn names(drive: &Drive<'_>) -> String {
    listed(&drive.members.iter().map(|m| m.host.name.as_str()).collect::<Vec<_>>())
}

/// Hosts go back wave by wave, all to the same release, as far as they have it.
pub(crate) async fn roll_back(
    context: &Context<'_>,
    app: &AppName,
    crew: Crew,
    args: &Rollback,
) -> Result<ExitCode, CtlError> {
    refuse_detached(&args.wait)?;
    let hosts = hosts_of(&crew.met);
    lease::take(context, app, &hosts, Verb::Rollback.word(), args.wait.lease_timeout).await?;
    // While the leases were waited for, hosts may have moved.
    let now = crew::meet(context, &hosts, app).await?.having();
    let mut absent = crew.absent;
    absent.extend(now.absent);
    let (going, staying) = choose(now.met, app, args.to).await?;
    for (host, label, why) in &staying {
        context.printer.talk(&format!("{host} stays on {label}: {why}"));
    }
    let there: Vec<String> = staying.iter().map(|(host, ..)| host.clone()).collect();
    // One that lacks the release is not where it was asked to be.
    absent.extend(
        staying.into_iter().filter(|(_, _, why)| why.lacks).map(|(host, _, why)| (host, why.body(app))),
    );
    if going.is_empty() {
        return nothing_to_go_back(context, app, args.to, ending(absent, None).with(there));
    }
    let count = going.len();
    let at_once = plan::at_once(share(context, app)?, count);
    let from = going.iter().filter_map(|m| m.status.as_ref()?.live).max();
    let topic = Topic { app: app.clone(), verb: Verb::Rollback, label: args.to, record: Kept::Nowhere };
    // The first wave is one host: where it goes, the others go.
    let watched: Vec<bool> = going.iter().map(is_watched).collect();
    let drive = over(context, topic, going, at_once.min(count.saturating_sub(1).max(1)))?;
    let (to, from) = (words("to", args.to), words("from", from));
    context.printer.talk(&format!("{app} back{from}{to} -> {}", names(&drive)));
    let target = Cell::new(args.to);
    let ids = (0..count).map(|_| project::new_id()).collect::<Result<Vec<_>, _>>()?;
    let path = format!("/apps/{app}/rollback");
    let (target, path, watched) = (&target, &path, &watched);
    let call = |index: usize, client: Client| {
        let id = ids[index].clone();
        async move {
            let to = match (args.to, target.get()) {
                (None, Some(first)) => way(first, watched[index], keeps(&client, app, first).await?),
                (to, _) => to,
            };
            let request = RollbackRequest { id, to, origin: project::origin() };
            let deployment = client.call::<Deployment>(Method::POST, path, &request).await?;
            let went = if deployment.kind == Kind::Push { deployment.replaces } else { deployment.label };
            target.set(target.get().or(went));
            Ok(deployment)
        }
        .boxed_local()
    };
    drive.run(&call, &args.wait).await?;
    context.release().await;
    let undone = drive.states().iter().any(|s| s.deployment.as_ref().is_some_and(|d| d.kind == Kind::Push));
    let undo = if undone { "push DIR" } else { "rollback" };
    report::end(&drive, &ending(absent, Some(undo))).await
}

/// Whether a push is watched there: going back means undoing it.
fn is_watched(met: &Met) -> bool {
    let running = met.status.as_ref().and_then(|s| s.deployment.as_ref());
    running.is_some_and(|d| d.kind == Kind::Push)
}

/// Where a host goes, when the first one went there and nobody named a release: the same way, if it can, else
/// to what its own push replaced. To name another release than that would commit a push that is watched.
fn way(first: Label, is_watched: bool, keeps: bool) -> Option<Label> {
    (keeps && !is_watched).then_some(first)
}

fn words(word: &str, label: Option<Label>) -> String {
    label.map(|label| format!(" {word} {label}")).unwrap_or_default()
}

fn refuse_detached(wait: &Wait) -> Result<(), CtlError> {
    if !wait.detach {
        return Ok(());
    }
    Err(CtlError::Usage {
        message: "--detach is for one host: this command begins one host after the other".to_owned(),
        hint: "leave it out".to_owned(),
    })
}

/// Why a host does not go back.
struct Stays {
    text: String,
    /// Whether it would have to, and cannot.
    lacks: bool,
}

impl std::fmt::Display for Stays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Stays {
    fn body(&self, app: &AppName) -> ErrorBody {
        ErrorBody::new(
            ErrorCode::ReleaseNotFound,
            self.text.clone(),
            format!("deployd-ctl releases -a {app} lists what is kept"),
        )
    }
}

/// Which hosts go back: those that have the release that was named, else those on the newest one.
async fn choose(
    met: Vec<Met>,
    app: &AppName,
    to: Option<Label>,
) -> Result<(Vec<Met>, Vec<(String, String, Stays)>), CtlError> {
    let live = |m: &Met| m.status.as_ref().and_then(|s| s.live);
    let newest = met.iter().filter_map(live).max();
    let has = match to {
        Some(to) => having(&met, app, to).await?,
        None => Vec::new(),
    };
    let (mut going, mut staying) = (Vec::new(), Vec::new());
    for one in met {
        let (name, now) = (one.host.name.clone(), live(&one));
        let stopped = one.status.as_ref().is_some_and(|s| s.stopped);
        let stays = match to {
            Some(to) if now == Some(to) && !stopped => Some(("it is there already".to_owned(), false)),
            Some(to) if !has.contains(&name) => Some((format!("{name} has not got {to}"), true)),
            None if now != newest => Some(("it was not part of it".to_owned(), false)),
            _ => None,
        };
        match stays {
            None => going.push(one),
            Some((text, lacks)) => {
                let now = now.map_or("no release".to_owned(), |l| l.to_string());
                staying.push((name, now, Stays { text, lacks }));
            }
        }
    }
    Ok((going, staying))
}

/// The hosts that keep a release.
async fn having(met: &[Met], app: &AppName, label: Label) -> Result<Vec<String>, CtlError> {
    let ask = |client: Client| async move { keeps(&client, app, label).await };
    let mut names = Vec::new();
    for (host, keeps) in fanout::ask(&hosts_of(met), ask).await {
        if keeps? {
            names.push(host.name);
        }
    }
    Ok(names)
}

/// Whether a host can go back to a release.
async fn keeps(client: &Client, app: &AppName, label: Label) -> Result<bool, CtlError> {
    let rows: Vec<ReleaseRow> = client.get(&format!("/apps/{app}/releases")).await?;
    let is_kept = |row: &ReleaseRow| matches!(row.state, ReleaseState::Kept | ReleaseState::Live);
    Ok(rows.iter().any(|row| row.label == label && is_kept(row)))
}

fn nothing_to_go_back(
    context: &Context<'_>,
    app: &AppName,
    to: Option<Label>,
    ending: Ending,
) -> Result<ExitCode, CtlError> {
    if context.printer.is_json() && ending.absent.is_empty() {
        context.printer.json(&report::nothing(app, Verb::Rollback, to, &ending, ExitCode::Ok))?;
    }
    if let Some((_, body)) = ending.absent.into_iter().next() {
        return Err(CtlError::Answer(Box::new(body)));
    }
    let label = to.map(|l| l.to_string()).unwrap_or_default();
    context.printer.last(&format!("{app} {label} is live on all hosts already, nothing to change."))?;
    Ok(ExitCode::Ok)
}

/// Undoes what runs, on every host where something does.
pub(crate) async fn abort(
    context: &Context<'_>,
    app: &AppName,
    met: Vec<Met>,
    absent: Vec<(String, ErrorBody)>,
) -> Result<ExitCode, CtlError> {
    let count = met.len();
    let running: Vec<Deployment> = met.iter().filter_map(|m| m.status.as_ref()?.deployment.clone()).collect();
    let topic = Topic { app: app.clone(), verb: Verb::Abort, label: None, record: Kept::Nowhere };
    let drive = drive(context, topic, met, count, Millis(0)).await?;
    context.printer.talk(&format!("abort {app} -> {}", names(&drive)));
    let call = |index: usize, client: Client| {
        let deployment = running[index].clone();
        async move {
            undo::abort(&client, &deployment).await?;
            Ok(deployment)
        }
        .boxed_local()
    };
    drive.run(&call, &until_the_end()).await?;
    report::end(&drive, &ending(absent, None)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_goes_where_the_first_went_if_it_can() {
        let first = Label::new(1).unwrap();
        for (is_watched, keeps, want) in
            [(false, true, Some(first)), (false, false, None), (true, true, None), (true, false, None)]
        {
            assert_eq!(way(first, is_watched, keeps), want);
        }
    }
}
