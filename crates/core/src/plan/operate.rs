//! Start, stop, restart, remove: the same blocks as a push, in other orders.

use std::collections::BTreeSet;

use deployd_api::deployment::Kind;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::Label;
use deployd_api::spec::{Millis, Strategy};

use super::push::running;
use super::refuse::refuse_ports;
use super::swap::{Swap, await_ports, take_down};
use super::{Phase, Plan, Planned, Steps, Warm};
use crate::action::Action;
use crate::facts::{Epmd, Facts};
use crate::journal;
use crate::state::{Change, Tag};
use crate::units::{self, Activation};

fn wrong_state(message: String, hint: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::WrongState, message, hint)
}

fn live(facts: &Facts) -> Result<Activation<'_>, Box<ErrorBody>> {
    let state = &facts.state;
    let found = state.live.and_then(|tag| Some(Activation { tag, release: state.releases.get(&tag.label)? }));
    found.ok_or_else(|| {
        Box::new(wrong_state(format!("{} has no live release", state.app), "deployd-ctl push DIR makes one"))
    })
}

/// What a deployment that got stuck left behind: neither live nor ending.
pub(super) fn leftovers(facts: &Facts) -> Vec<Activation<'_>> {
    let state = &facts.state;
    let tags: BTreeSet<Tag> = [state.candidate, state.warm, state.committed].into_iter().flatten().collect();
    let left = |t: &Tag| state.live != Some(*t) && !state.draining.contains(t);
    let find = |tag: Tag| Some(Activation { tag, release: state.releases.get(&tag.label)? });
    tags.into_iter().filter(left).filter_map(find).collect()
}

fn finish(kind: Kind, facts: &Facts, to: Option<Tag>, steps: Steps) -> Planned {
    Planned::Plan(Box::new(Plan {
        format: journal::FORMAT,
        app: facts.state.app.clone(),
        kind,
        to,
        from: running(facts).map(|r| r.tag),
        strategy: Strategy::Immediate,
        monitor: Millis(0),
        warm: Warm::None,
        steps: steps.steps,
    }))
}

/// Starts what was stopped: open, start, check, and boot it again.
pub(super) fn plan_start(facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let new = live(facts)?;
    if !facts.state.stopped {
        return Ok(Planned::Nothing { live: new.tag.label });
    }
    refuse_ports(new.spec(), facts)?;
    let swap = Swap { facts, new, old: None, lingers: false };
    let mut steps = Steps::new();
    if facts.state.unended.is_some() {
        swap.put_down(new, &mut steps);
    }
    swap.open(&mut steps);
    swap.start(&mut steps);
    swap.check(&mut steps);
    swap.switch(&mut steps);
    let stopped = |value| Action::Record { change: Change::Stopped { value } };
    steps.add(Phase::Live, stopped(false), vec![stopped(true)]);
    swap.commit(&mut steps);
    Ok(finish(Kind::Start, facts, Some(new.tag), steps))
}

/// Stops serving: listeners first, so that nothing starts again by itself. It stays stopped over a reboot.
pub(super) fn plan_stop(facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let old = live(facts)?;
    if facts.state.stopped && facts.state.unended.is_none() {
        return Ok(Planned::Nothing { live: old.tag.label });
    }
    let mut steps = Steps::new();
    let app = facts.state.app.clone();
    let target = units::stopped_target(&app);
    steps.add_no_return(Phase::Commit, Action::Commit { target, wanted_by: units::wanted_by(&app) });
    let stopped = Action::Record { change: Change::Stopped { value: true } };
    steps.add(Phase::Commit, stopped, vec![]);
    let left = leftovers(facts);
    for of in left.iter().copied().chain([old]) {
        take_down(of, of.sockets(), Phase::Retire, &mut steps);
    }
    for of in left {
        let drains = Change::Draining { tag: of.tag };
        steps.add(Phase::Retire, Action::Record { change: drains }, vec![]);
    }
    Ok(finish(Kind::Stop, facts, Some(old.tag), steps))
}

/// Restarts one instance after the other; the listener stays, so clients wait and nobody is refused.
pub(super) fn plan_restart(facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let Some(of) = running(facts) else {
        live(facts)?;
        let message = format!("{} is stopped", facts.state.app);
        return Err(Box::new(wrong_state(
            message,
            &format!("deployd-ctl start -a {} starts it", facts.state.app),
        )));
    };
    let swap = Swap { facts, new: of, old: None, lingers: false };
    let mut steps = Steps::new();
    for process in of.processes() {
        for instance in of.instances_of(&process) {
            let timeout = of.spec().deploy.wait_timeout;
            let restart = Action::RestartInstance { instance: instance.clone(), timeout };
            steps.add(Phase::Start, restart, vec![]);
            let accepts = await_ports(of, &process).into_iter();
            let own = |a: &Action| matches!(a, Action::AwaitPort { instance: i, .. } if *i == instance);
            for action in accepts.filter(own) {
                steps.add(Phase::Start, action, vec![]);
            }
            swap.check(&mut steps);
        }
    }
    // Phases never go backwards: each restart with its check is one of the phase Start.
    for step in &mut steps.steps {
        step.phase = Phase::Start;
    }
    Ok(finish(Kind::Restart, facts, Some(of.tag), steps))
}

/// Takes the app off the host: forward only, whatever of it is there.
pub(super) fn plan_remove(facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    let state = &facts.state;
    let app = state.app.clone();
    let mut steps = Steps::new();
    let stopped = Action::Record { change: Change::Stopped { value: true } };
    steps.add_no_return(Phase::Commit, stopped);
    let target = units::path(&units::target(&app));
    let boot = vec![units::wanted_by(&app), target];
    steps.add(Phase::Commit, Action::RemoveFiles { paths: boot }, vec![]);
    let all = [state.live, state.candidate, state.warm, state.committed];
    let tags: BTreeSet<Tag> = state.draining.iter().copied().chain(all.into_iter().flatten()).collect();
    let mut paths = Vec::new();
    for tag in tags {
        let Some(release) = state.releases.get(&tag.label) else { continue };
        let of = Activation { tag, release };
        take_down(of, of.sockets(), Phase::Retire, &mut steps);
        paths.extend(of.file_paths());
        paths.extend(of.drop_ins());
    }
    paths.push(units::slice_file(&app).path);
    paths.sort();
    paths.dedup();
    steps.add(Phase::Retire, Action::RemoveFiles { paths }, vec![]);
    // Two apps may go at once: whether another still asks for it is asked again by then.
    if facts.epmd != Epmd::Missing {
        let program = units::epmd_program(&facts.runtime);
        steps.add(Phase::Retire, Action::RemoveEpmd { app: app.clone(), program }, vec![]);
    }
    let labels: Vec<Label> = state.releases.keys().copied().collect();
    let trees = state.releases.values().map(|r| r.tree.clone()).collect();
    steps.add(Phase::Prune, Action::Sweep { app: app.clone(), trees, labels }, vec![]);
    let dirs = vec![format!("{}/{app}", units::STATE_DIR)];
    steps.add(Phase::Prune, Action::RemoveDirs { dirs }, vec![]);
    steps.add(Phase::Prune, Action::RemoveUser { app: app.clone(), user: units::user(&app) }, vec![]);
    steps.add(Phase::Prune, Action::ForgetApp { app }, vec![]);
    Ok(finish(Kind::Remove, facts, None, steps))
}
