//! Push and rollback: the whole order of a deployment, as a list to be read from top to bottom.

use deployd_api::deployment::Kind;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::Label;
use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
use deployd_api::spec::{Millis, Strategy};

use super::refuse::{refuse_push, wanted_memory};
use super::swap::{Return, Swap, stop_workers};
use super::{Phase, Plan, Planned, Steps, Warm};
use crate::action::Action;
use crate::facts::Facts;
use crate::state::{Change, Release, Tag};
use crate::units::{self, Activation};
use crate::{diff, journal, retention};

/// Crashes that are forgiven while a release is watched; while it earns `min_healthy`, none is.
const MONITOR_RESTARTS: u32 = 2;

pub(super) fn plan_push(
    document: &ReleaseDocument,
    strategy: Option<Strategy>,
    origin: &Origin,
    facts: &Facts,
) -> Result<Planned, Box<ErrorBody>> {
    let state = &facts.state;
    let digest = document.digest();
    if let Some(live) = state.live_release().filter(|r| r.digest == digest && !state.stopped) {
        return Ok(Planned::Nothing { live: live.label });
    }
    // A release that the host still has is not made twice: its identity is its digest.
    let kept = state.releases.values().find(|r| r.digest == digest && r.is_kept());
    if let Some(kept) = kept.filter(|k| Some(k.label) != state.live.map(|t| t.label)) {
        return plan_rollback(Some(kept.label), facts);
    }
    refuse_push(document, facts)?;
    let label = state.next_label();
    let release = new_release(label, document, origin, facts);
    let strategy = strategy.unwrap_or(document.spec.deploy.strategy);
    let tag = Tag { label, run: 1 };
    let plan = plan_swap(Kind::Push, &release, tag, strategy, facts);
    Ok(Planned::Plan(Box::new(plan)))
}

fn new_release(label: Label, document: &ReleaseDocument, origin: &Origin, facts: &Facts) -> Release {
    let app = &document.spec.app;
    let digest = document.digest();
    let artifact = facts.artifact.as_ref();
    Release {
        label,
        digest,
        document: document.clone(),
        tree: format!("{}/{app}/releases/{label}-{}", facts.apps_dir, digest.short()),
        runtime: facts.runtime.clone(),
        beam: artifact.is_some_and(|a| a.beam),
        state: ReleaseState::Candidate,
        created: facts.now,
        origin: origin.clone(),
        changed: diff::summary(facts.state.live_release().map(|r| &r.document), document),
        failure: None,
        size: artifact.map_or(0, |a| a.size),
        runs: 1,
        base_port: facts.base_port,
    }
}

pub(super) fn plan_rollback(to: Option<Label>, facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let state = &facts.state;
    let app = &state.app;
    let Some(to) = to.or(state.previous) else {
        let message = format!("{app} has no earlier release to go back to");
        return Err(Box::new(ErrorBody::new(
            ErrorCode::WrongState,
            message,
            "deployd-ctl releases lists what is kept",
        )));
    };
    let Some(release) = state.releases.get(&to) else {
        let message = format!("this host has no release {to} of {app}");
        return Err(Box::new(ErrorBody::new(
            ErrorCode::ReleaseNotFound,
            message,
            "deployd-ctl releases lists what is kept",
        )));
    };
    if state.live.is_some_and(|t| t.label == to) && !state.stopped {
        return Ok(Planned::Nothing { live: to });
    }
    if !release.is_kept() {
        let message = format!("the files of {to} are not on this host any more: it was {}", release.state);
        return Err(Box::new(ErrorBody::new(
            ErrorCode::WrongState,
            message,
            "deployd-ctl releases lists what is kept; to get it back push its build again",
        )));
    }
    let tag = Tag { label: to, run: release.runs + 1 };
    let mut release = release.clone();
    release.base_port = facts.base_port;
    let strategy = release.document.spec.deploy.strategy;
    Ok(Planned::Plan(Box::new(plan_swap(Kind::Rollback, &release, tag, strategy, facts))))
}

/// The order of DESIGN: stage → socket → start → check → weights → live → monitor → commit → retire →
/// prune. Lease and preflight came before (the supervisor holds one deployment an app; refusals and
/// facts), backup and migrate do not exist yet.
fn plan_swap(kind: Kind, release: &Release, tag: Tag, strategy: Strategy, facts: &Facts) -> Plan {
    let new = Activation { tag, release };
    let old = running(facts);
    let swap = Swap { facts, new, old };
    let warm = warm(kind, strategy, &new, facts);
    let monitor = if kind == Kind::Rollback { Millis(0) } else { new.spec().deploy.monitor };
    let mut steps = Steps::new();
    plan_stage(kind, &new, facts, &mut steps);
    match strategy {
        Strategy::Rolling => plan_rolling(&swap, &mut steps),
        Strategy::Immediate => plan_immediate(&swap, &mut steps),
    }
    plan_live(kind, &swap, warm, &mut steps);
    plan_monitor(&swap, monitor, &mut steps);
    swap.commit(&mut steps);
    plan_retire(&swap, strategy, warm, &mut steps);
    plan_prune(&new, facts, &mut steps);
    let from = facts.state.live;
    Plan {
        format: journal::FORMAT,
        app: new.spec().app.clone(),
        kind,
        to: Some(tag),
        from,
        strategy,
        monitor,
        warm,
        steps: steps.steps,
    }
}

/// What serves now, if anything does.
pub(super) fn running(facts: &Facts) -> Option<Activation<'_>> {
    let tag = facts.state.live.filter(|_| !facts.state.stopped)?;
    Some(Activation { tag, release: facts.state.releases.get(&tag.label)? })
}

/// The old one stays ready when both fit: what is free must hold the candidate's limit and a tenth more.
/// A rollback is not watched, so nothing stays behind it.
fn warm(kind: Kind, strategy: Strategy, new: &Activation<'_>, facts: &Facts) -> Warm {
    let nothing_to_keep = running(facts).is_none() || strategy == Strategy::Immediate;
    if kind == Kind::Rollback || nothing_to_keep || new.spec().deploy.monitor == Millis(0) {
        return Warm::None;
    }
    let wanted = wanted_memory(new.spec());
    let with_margin = wanted.saturating_add(wanted / 10);
    if facts.memory_available >= with_margin { Warm::Yes } else { Warm::NoMemory }
}

fn plan_stage(kind: Kind, new: &Activation<'_>, facts: &Facts, steps: &mut Steps) {
    let (app, release) = (&new.spec().app, new.release);
    let user = units::user(app);
    let first = !facts.state.is_installed();
    let record = |change| Action::Record { change };
    if kind == Kind::Push {
        // The trees are removed by their own undo; the row stays and says why.
        let fail = record(Change::Fail { label: release.label });
        steps.add(Phase::Stage, Action::add(release.clone()), vec![fail]);
    }
    let dismiss = record(Change::Dismiss { tag: new.tag });
    steps.add(Phase::Stage, record(Change::Candidate { tag: new.tag }), vec![dismiss]);
    let forget_user =
        if first { vec![Action::RemoveUser { app: app.clone(), user: user.clone() }] } else { vec![] };
    let ensure = Action::EnsureUser { app: app.clone(), user, uid: facts.state.uid };
    steps.add(Phase::Stage, ensure, forget_user);
    if kind == Kind::Push {
        let tree = release.tree.clone();
        let seal = Action::Seal { app: app.clone(), artifact: release.document.artifact, tree: tree.clone() };
        steps.add(Phase::Stage, seal, vec![Action::RemoveTree { app: app.clone(), tree }]);
    }
    let (writable, shared) = (new.writable(), new.shared());
    if first || !(writable.is_empty() && shared.is_empty()) {
        let tree = release.tree.clone();
        let prepare = Action::PrepareDirs { app: app.clone(), tree, uid: facts.state.uid, writable, shared };
        // What is private goes with the tree; what is kept over releases goes only with the whole app.
        let state_dir = format!("{}/{app}", units::STATE_DIR);
        let undo = if first { vec![Action::RemoveDirs { dirs: vec![state_dir] }] } else { vec![] };
        steps.add(Phase::Stage, prepare, undo);
    }
    let nonblocking =
        |p: &deployd_api::ids::ProcessName| facts.state.nonblocking.get(p).copied().unwrap_or(false);
    let files = new.files(&facts.host, facts.region.as_deref(), &nonblocking);
    let mut paths: Vec<String> = files.iter().map(|f| f.path.clone()).collect();
    paths.extend(new.processes().iter().map(|p| units::nonblocking_drop_in(app, p, new.tag)));
    let shared = shared_units(new, facts);
    paths.retain(|p| !shared.contains(p));
    if first {
        paths.push(units::slice_file(app).path);
    }
    let files = std::iter::once(units::slice_file(app)).chain(files).collect();
    steps.add(Phase::Stage, Action::WriteFiles { files }, vec![Action::RemoveFiles { paths }]);
}

/// Units of Unix sockets belong to every release that names them.
fn shared_units(new: &Activation<'_>, facts: &Facts) -> Vec<String> {
    let Some(old) = running(facts) else { return Vec::new() };
    let old: Vec<String> = old.sockets().into_iter().map(|s| units::path(&s.unit)).collect();
    new.sockets().into_iter().map(|s| units::path(&s.unit)).filter(|p| old.contains(p)).collect()
}

fn plan_rolling(swap: &Swap<'_>, steps: &mut Steps) {
    swap.open(steps);
    if let Some(old) = swap.old {
        stop_workers(old, false, Phase::Start, steps);
    }
    swap.start(steps);
    swap.check(steps);
    swap.switch(steps);
}

/// Stop, then start: clients wait in the new release's listener meanwhile.
fn plan_immediate(swap: &Swap<'_>, steps: &mut Steps) {
    swap.open(steps);
    swap.switch_early(steps);
    if let Some(old) = swap.old {
        stop_workers(old, true, Phase::Socket, steps);
        stop_workers(old, false, Phase::Socket, steps);
        swap.retire_and_wait(old, Phase::Socket, steps);
    }
    swap.start(steps);
    swap.check(steps);
}

fn plan_live(kind: Kind, swap: &Swap<'_>, warm: Warm, steps: &mut Steps) {
    if let Some(old) = swap.old {
        stop_workers(old, true, Phase::Live, steps);
    }
    let min_healthy = swap.new.spec().deploy.min_healthy;
    if kind == Kind::Push && min_healthy > Millis(0) {
        let trial = swap.trial(swap.new, deployd_api::spec::Gate::while_watched);
        let watch = Action::Watch { trial, duration: min_healthy, restarts: 0, supersedable: false };
        steps.add(Phase::Live, watch, vec![]);
    }
    if swap.facts.state.stopped {
        let stopped = |value| Action::Record { change: Change::Stopped { value } };
        steps.add(Phase::Live, stopped(false), vec![stopped(true)]);
    }
    swap.mark_live(warm == Warm::Yes, steps);
    swap.reload(steps);
}

fn plan_monitor(swap: &Swap<'_>, monitor: Millis, steps: &mut Steps) {
    if monitor == Millis(0) {
        return;
    }
    let trial = swap.trial(swap.new, deployd_api::spec::Gate::while_watched);
    let watch = Action::Watch { trial, duration: monitor, restarts: MONITOR_RESTARTS, supersedable: true };
    steps.add(Phase::Monitor, watch, vec![]);
}

fn plan_retire(swap: &Swap<'_>, strategy: Strategy, warm: Warm, steps: &mut Steps) {
    let Some(old) = swap.old else { return };
    if strategy == Strategy::Rolling {
        // Without memory for two the old one goes at live, before the watch, and can be started again.
        let monitor = steps.steps.iter().position(|s| s.phase == Phase::Monitor);
        match (warm, monitor) {
            (Warm::NoMemory, Some(at)) => {
                let rest = steps.steps.split_off(at);
                swap.retire(old, Phase::Live, Return::Possible, steps);
                steps.steps.extend(rest);
            }
            _ => swap.retire(old, Phase::Retire, Return::Never, steps),
        }
    }
    steps.add(Phase::Retire, Action::Record { change: Change::Draining { tag: old.tag } }, vec![]);
}

fn plan_prune(new: &Activation<'_>, facts: &Facts, steps: &mut Steps) {
    let mut after = facts.state.clone();
    after.releases.entry(new.release.label).or_insert_with(|| new.release.clone());
    after.apply(&Change::Live { tag: new.tag, warm: None }, facts.now, None);
    after.apply(&Change::Committed, facts.now, None);
    let labels = retention::prunable(&after, facts.keep);
    if labels.is_empty() {
        return;
    }
    let trees = labels.iter().filter_map(|l| after.releases.get(l)).filter(|r| r.is_kept());
    let trees = trees.map(|r| r.tree.clone()).collect();
    steps.add(Phase::Prune, Action::Sweep { app: new.spec().app.clone(), trees, labels }, vec![]);
}
