//! Push and rollback: the whole order of a deployment, as a list to be read from top to bottom.

use std::collections::BTreeSet;
use std::path::Path;

use deployd_api::deployment::Kind;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::Label;
use deployd_api::release::ReleaseState;
use deployd_api::spec::{Migration, Millis, Strategy};

use super::refuse::{refuse_addresses, refuse_label, refuse_ports, refuse_push, wanted_memory};
use super::swap::{Return, Swap, stop_workers, take_down};
use super::{Phase, Plan, Planned, Push, Steps, Warm};
use crate::action::{Action, Socket, UnitFile};
use crate::facts::{Epmd, Facts};
use crate::secrets::Sealed;
use crate::state::{Change, Release, Tag};
use crate::units::{self, Activation};
use crate::{diff, journal, retention};

/// PID 1's back-off before it starts a process that ended again, and some: only then is the crash counted.
const SETTLE: Millis = Millis::from_secs(3);
/// Crashes that are forgiven while a release is watched; while it earns `min_healthy`, none is.
const MONITOR_RESTARTS: u32 = 2;

/// Where a release's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// They were sent, and become a tree now.
    Staging,
    /// The host has its tree.
    Kept,
    /// The host has its tree, and ran other processes of it.
    Placed,
}

pub(super) fn plan_push(push: &Push, facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let state = &facts.state;
    let is_it = |r: &Release| r.digest == push.digest && push.label.is_none_or(|label| label == r.label);
    let runs = |r: &Release| is_it(r) && r.document == push.document && !state.stopped;
    if let Some(live) = state.live_release().filter(|r| runs(r)) {
        return Ok(Planned::Nothing { live: live.label });
    }
    refuse_label(push, state)?;
    // A release that the host still has is not made twice: its identity is its digest.
    let kept = state.releases.values().rev().find(|r| is_it(r) && r.is_kept());
    let strategy = push.strategy();
    refuse_push(push, strategy, kept.is_some(), facts)?;
    refuse_addresses(&push.document.spec, strategy, facts)?;
    let (release, from) = match kept {
        Some(kept) if kept.document == push.document => (kept.clone(), From::Kept),
        Some(kept) => (kept.placed(push.document.clone()), From::Placed),
        None => (new_release(push.label.unwrap_or(state.next_label()), push, facts), From::Staging),
    };
    let release = Release { base_port: facts.base_port, ..release };
    // One that undid itself under this label has had its activations.
    let run = state.releases.get(&release.label).map_or(1, |known| known.runs + 1);
    let tag = Tag { label: release.label, run };
    let is_live = state.live.is_some_and(|t| t.label == release.label);
    let migration = release.document.spec.migrate.clone().filter(|_| push.migrate.is_here() && !is_live);
    let way = Way { kind: Kind::Push, from, strategy, migration };
    Ok(Planned::Plan(Box::new(plan_swap(&way, &release, tag, facts))))
}

fn new_release(label: Label, push: &Push, facts: &Facts) -> Release {
    let (digest, document) = (push.digest, &push.document);
    let app = &document.spec.app;
    let artifact = facts.artifact.as_ref();
    let tree = format!("{}/{app}/releases/{label}-{}", facts.apps_dir, digest.short());
    let epmd = artifact.and_then(|a| a.epmd.as_ref());
    // One that undid itself under this label may still drain.
    let known = facts.state.releases.get(&label);
    let placed =
        known.filter(|known| known.document != *document).map(|known| known.placed(document.clone()));
    Release {
        label,
        digest,
        document: document.clone(),
        earlier: placed.or(known.cloned()).map(|r| r.earlier).unwrap_or_default(),
        // An absolute path stays as it is.
        epmd: epmd.map(|path| Path::new(&tree).join(path).to_string_lossy().into_owned()),
        tree,
        runtime: facts.runtime.clone(),
        beam: artifact.is_some_and(|a| a.beam),
        state: ReleaseState::Candidate,
        created: facts.now,
        origin: push.origin.clone(),
        changed: diff::summary(facts.state.live_release().map(|r| &r.document), document),
        failure: None,
        size: artifact.map_or(0, |a| a.size),
        runs: known.map_or(1, |known| known.runs + 1),
        base_port: facts.base_port,
        secrets: Sealed::of(&facts.apps_dir, app, &document.secrets, facts.credentials),
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
            format!("deployd-ctl releases -a {app} lists what is kept"),
        )));
    };
    let Some(release) = state.releases.get(&to) else {
        let message = format!("this host has no release {to} of {app}");
        return Err(Box::new(ErrorBody::new(
            ErrorCode::ReleaseNotFound,
            message,
            format!("deployd-ctl releases -a {app} lists what is kept"),
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
            format!("deployd-ctl releases -a {app} lists what is kept; to get it back push its build again"),
        )));
    }
    let tag = Tag { label: to, run: release.runs + 1 };
    let mut release = release.clone();
    release.base_port = facts.base_port;
    let spec = &release.document.spec;
    refuse_ports(spec, facts)?;
    // Going back must work: where rolling would lose connections, clients wait instead.
    let strategy = match refuse_addresses(spec, spec.deploy.strategy, facts) {
        Ok(()) => spec.deploy.strategy,
        Err(_) => Strategy::Immediate,
    };
    refuse_addresses(spec, strategy, facts)?;
    // Going back never migrates: what an earlier release needs of its data is there already.
    let way = Way { kind: Kind::Rollback, from: From::Kept, strategy, migration: None };
    Ok(Planned::Plan(Box::new(plan_swap(&way, &release, tag, facts))))
}

/// What a swap is for, and which way it goes.
#[derive(Debug)]
struct Way {
    kind: Kind,
    from: From,
    strategy: Strategy,
    /// What runs before the candidate has anything.
    migration: Option<Migration>,
}

/// The order of DESIGN: stage → migrate → socket → start → check → weights → live → monitor → commit → retire →
/// prune. Lease and preflight came before (the supervisor; refusals and facts), backup does not exist yet.
fn plan_swap(way: &Way, release: &Release, tag: Tag, facts: &Facts) -> Plan {
    let &Way { kind, from, strategy, .. } = way;
    let new = Activation { tag, release };
    let old = running(facts);
    let lingers = new.drains_without_limit() && !new.spec().listen.is_empty();
    let swap = Swap { facts, new, old, lingers };
    let warm = warm(kind, strategy, &new, facts);
    // Without memory for two and with an old release that may never end there is no way back to watch for.
    let no_way_back = warm == Warm::NoMemory && old.is_some_and(|o| o.drains_without_limit());
    let watched = kind != Kind::Rollback && !no_way_back;
    let monitor = if watched { new.spec().deploy.monitor } else { Millis(0) };
    let mut steps = Steps::new();
    let leftovers = plan_leftovers(&swap, &mut steps);
    plan_stage(from, strategy, &swap, &mut steps);
    let migrates = way.migration.as_ref().and_then(|m| plan_migrate(m, &swap, &mut steps));
    match strategy {
        Strategy::Rolling => plan_rolling(&swap, &mut steps),
        Strategy::Immediate => plan_immediate(&swap, &mut steps),
    }
    plan_live(kind, &swap, warm, &mut steps);
    if strategy == Strategy::Rolling && warm == Warm::NoMemory && !no_way_back {
        plan_retire(&swap, Phase::Live, Return::Possible, &mut steps);
    }
    plan_monitor(&swap, monitor, &mut steps);
    swap.commit(&mut steps);
    if let Some(unit) = migrates {
        steps.add(Phase::Retire, Action::ClearMigration { unit }, vec![]);
    }
    if strategy == Strategy::Rolling && (warm != Warm::NoMemory || no_way_back) {
        plan_retire(&swap, Phase::Retire, Return::Never, &mut steps);
    }
    // What was live ends, and so do its units; a stopped release has only those.
    for tag in facts.state.live.into_iter().chain(leftovers) {
        steps.add(Phase::Retire, Action::Record { change: Change::Draining { tag } }, vec![]);
    }
    plan_prune(&new, facts, &mut steps);
    Plan {
        format: journal::FORMAT,
        app: new.spec().app.clone(),
        kind,
        to: Some(tag),
        from: old.map(|o| o.tag),
        strategy,
        monitor,
        warm,
        steps: steps.steps,
    }
}

/// A member that could not leave its group, because a step of its retirement failed or the agent had lost
/// the descriptor, leaves first: a third member beside it would make indexes shift under the program.
fn plan_stale(swap: &Swap<'_>, steps: &mut Steps) {
    let state = &swap.facts.state;
    let serves = swap.old.map(|o| o.tag);
    let members = || state.groups.values().flatten().filter(|s| Some(s.tag) != serves);
    let tags: BTreeSet<Tag> = members().map(|s| s.tag).collect();
    for tag in tags {
        let Some(release) = state.releases.get(&tag.label) else { continue };
        let of = Activation { tag, release };
        let grouped = of.sockets().into_iter().filter(Socket::is_grouped).collect();
        take_down(of, grouped, Phase::Preflight, steps);
    }
}

/// Takes down what a deployment that got stuck left behind, so that a group never has three members.
/// Answers what still boots and therefore keeps its units until the commit.
fn plan_leftovers(swap: &Swap<'_>, steps: &mut Steps) -> Vec<Tag> {
    let state = &swap.facts.state;
    let mut boots = Vec::new();
    if state.unended.is_some()
        && let Some(tag) = state.live
        && let Some(release) = state.releases.get(&tag.label)
    {
        swap.put_down(Activation { tag, release }, steps);
    }
    plan_stale(swap, steps);
    for of in super::operate::leftovers(swap.facts) {
        swap.put_down(of, steps);
        if state.committed == Some(of.tag) {
            boots.push(of.tag);
        } else {
            let drains = Change::Draining { tag: of.tag };
            steps.add(Phase::Preflight, Action::Record { change: drains }, vec![]);
        }
    }
    boots
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

fn plan_stage(from: From, strategy: Strategy, swap: &Swap<'_>, steps: &mut Steps) {
    let (new, facts) = (&swap.new, swap.facts);
    // A candidate that may drain without limit outlives its undo: `plan_drained` removes what is its.
    let lingers = swap.lingers;
    let undo = |actions: Vec<Action>| if lingers { vec![] } else { actions };
    let (app, release) = (&new.spec().app, new.release);
    let user = units::user(app);
    let first = !facts.state.is_installed();
    let record = |change| Action::Record { change };
    if from == From::Staging {
        // The trees are removed by their own undo; the row stays and says why.
        let fail = record(Change::Fail { label: release.label });
        steps.add(Phase::Stage, Action::add(release.clone()), vec![fail]);
    }
    if from == From::Placed
        && let Some(before) = facts.state.releases.get(&release.label)
    {
        // What this activation ran stays known, and the next one runs none of it.
        let mut earlier = release.earlier.clone();
        earlier.push((new.tag.run, new.spec().clone()));
        let back = Release { runs: new.tag.run, earlier, ..before.clone() };
        steps.add(Phase::Stage, Action::add(release.clone()), vec![Action::add(back)]);
    }
    let dismiss = record(Change::Dismiss { tag: new.tag });
    let drains = lingers.then(|| record(Change::Draining { tag: new.tag }));
    let begin = record(Change::Candidate { tag: new.tag, base_port: release.base_port });
    steps.add(Phase::Stage, begin, drains.into_iter().chain([dismiss]).collect());
    let forget_user =
        if first { vec![Action::RemoveUser { app: app.clone(), user: user.clone() }] } else { vec![] };
    let ensure = Action::EnsureUser { app: app.clone(), user, uid: facts.state.uid };
    steps.add(Phase::Stage, ensure, undo(forget_user));
    if from == From::Staging {
        let tree = release.tree.clone();
        let seal = Action::Seal { app: app.clone(), artifact: release.document.artifact, tree: tree.clone() };
        steps.add(Phase::Stage, seal, undo(vec![Action::RemoveTree { app: app.clone(), tree }]));
    }
    let (writable, shared) = (new.writable(), new.shared());
    if first || !(writable.is_empty() && shared.is_empty()) {
        let tree = release.tree.clone();
        let prepare = Action::PrepareDirs { app: app.clone(), tree, uid: facts.state.uid, writable, shared };
        // What is private goes with the tree; what is kept over releases goes only with the whole app.
        let state_dir = format!("{}/{app}", units::STATE_DIR);
        let gone = if first { vec![Action::RemoveDirs { dirs: vec![state_dir] }] } else { vec![] };
        steps.add(Phase::Stage, prepare, undo(gone));
    }
    let nonblocking =
        |p: &deployd_api::ids::ProcessName| facts.state.nonblocking.get(p).copied().unwrap_or(false);
    let mut files = new.files(&facts.host, facts.region.as_deref(), &nonblocking);
    let held = held_files(facts);
    let shared: Vec<UnitFile> =
        held.iter().filter(|h| files.iter().any(|f| f.path == h.path)).cloned().collect();
    if swap.old.is_some() {
        // The one that serves keeps them for now: `take_over_shared`.
        files.retain(|f| !shared.iter().any(|h| h.path == f.path));
    }
    let own = |path: &String| !shared.iter().any(|h| h.path == *path);
    let mut paths: Vec<String> = files.iter().map(|f| f.path.clone()).filter(own).collect();
    paths.extend(new.drop_ins());
    if let (Strategy::Immediate, Some(old)) = (strategy, swap.old) {
        files.extend(new.after_files(old));
    }
    if first {
        paths.push(units::slice_file(app).path);
    }
    let mut back = undo(vec![Action::RemoveFiles { paths }]);
    if swap.old.is_none() && !shared.is_empty() {
        back.push(Action::WriteFiles { files: shared });
    }
    let files = std::iter::once(units::slice_file(app)).chain(files).collect();
    steps.add(Phase::Stage, Action::WriteFiles { files }, back);
    plan_epmd(swap, steps);
}

/// After the units that ask for it, so that nobody who removes it meanwhile overlooks them.
fn plan_epmd(swap: &Swap<'_>, steps: &mut Steps) {
    let Some(source) = swap.new.release.epmd.clone() else { return };
    let program = units::epmd_program(&swap.facts.runtime);
    let unit = units::epmd_file(&program);
    let brought = swap.facts.epmd == Epmd::Missing && !swap.lingers;
    let undo =
        brought.then(|| Action::RemoveEpmd { app: swap.new.spec().app.clone(), program: program.clone() });
    let ensure = Action::EnsureEpmd { source, program, unit };
    steps.add(Phase::Stage, ensure, undo.into_iter().collect());
}

/// The socket units of what is live, stopped or not: those of Unix sockets belong to every release that
/// names them.
fn held_files(facts: &Facts) -> Vec<UnitFile> {
    let live = facts.state.live;
    let live = live.and_then(|tag| Some(Activation { tag, release: facts.state.releases.get(&tag.label)? }));
    live.map(|l| l.socket_files()).unwrap_or_default()
}

/// With all that the first process would have, and before anything of the candidate: nobody sees a release whose
/// migration failed. Its undo takes back nothing of what it did. Answers its unit.
fn plan_migrate(migration: &Migration, swap: &Swap<'_>, steps: &mut Steps) -> Option<String> {
    let (new, facts) = (&swap.new, swap.facts);
    let process = new.spec().first_process()?;
    let unit = units::migration(&new.spec().app, new.tag);
    let migrate = Action::Migrate {
        unit: unit.clone(),
        tag: new.tag,
        words: new.one_off(&migration.command),
        command: migration.command.join(" "),
        surroundings: Box::new(new.command_surroundings(process, &facts.host, facts.region.as_deref())),
        timeout: migration.timeout,
    };
    steps.add(Phase::Migrate, migrate, vec![Action::ClearMigration { unit: unit.clone() }]);
    Some(unit)
}

fn plan_rolling(swap: &Swap<'_>, steps: &mut Steps) {
    swap.open(steps);
    stop_workers(swap, false, Phase::Start, steps);
    swap.start(steps);
    swap.check(steps);
    swap.switch(steps);
}

/// Stop, then start: clients wait in the new release's listener meanwhile.
fn plan_immediate(swap: &Swap<'_>, steps: &mut Steps) {
    match swap.old {
        Some(old) => {
            stop_workers(swap, true, Phase::Socket, steps);
            stop_workers(swap, false, Phase::Socket, steps);
            swap.hand_over(old, steps);
        }
        None => swap.open(steps),
    }
    swap.start(steps);
    swap.check(steps);
    if let Some(old) = swap.old {
        swap.hand_on(old, steps);
    }
}

fn plan_live(kind: Kind, swap: &Swap<'_>, warm: Warm, steps: &mut Steps) {
    stop_workers(swap, true, Phase::Live, steps);
    let min_healthy = swap.new.spec().deploy.min_healthy;
    if kind == Kind::Push && min_healthy > Millis(0) {
        let trial = swap.trial(swap.new, deployd_api::spec::Gate::while_watched);
        let watch =
            Action::Watch { trial, duration: min_healthy, restarts: 0, supersedable: false, settle: SETTLE };
        steps.add(Phase::Live, watch, vec![]);
    }
    swap.mark_live(warm == Warm::Yes, steps);
    if swap.facts.state.stopped {
        let stopped = |value| Action::Record { change: Change::Stopped { value } };
        steps.add(Phase::Live, stopped(false), vec![stopped(true)]);
    }
    swap.reload(steps);
}

fn plan_monitor(swap: &Swap<'_>, monitor: Millis, steps: &mut Steps) {
    if monitor == Millis(0) {
        return;
    }
    let trial = swap.trial(swap.new, deployd_api::spec::Gate::while_watched);
    let watch = Action::Watch {
        trial,
        duration: monitor,
        restarts: MONITOR_RESTARTS,
        supersedable: true,
        settle: SETTLE,
    };
    steps.add(Phase::Monitor, watch, vec![]);
}

/// Without memory for two the old one goes at live, before the watch, and can be started again.
fn plan_retire(swap: &Swap<'_>, phase: Phase, back: Return, steps: &mut Steps) {
    let Some(old) = swap.old else { return };
    swap.take_over_shared(phase, back, steps);
    swap.retire(old, phase, back, steps);
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
    let beam = after.releases.values().any(|r| r.beam && !labels.contains(&r.label));
    let app = new.spec().app.clone();
    steps.add(Phase::Prune, Action::Sweep { app: app.clone(), trees, labels }, vec![]);
    if !beam && facts.epmd != Epmd::Missing {
        let program = units::epmd_program(&facts.runtime);
        steps.add(Phase::Prune, Action::RemoveEpmd { app, program }, vec![]);
    }
}
