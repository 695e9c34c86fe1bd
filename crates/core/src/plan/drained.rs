//! What is done when the last process of something that drained has ended. The agent's janitor asks; it
//! is no deployment: nothing serves from it any more, and every action may be repeated.

use crate::action::{Action, Instance};
use crate::state::{AppState, Change, Release, Tag};
use crate::units::{self, Activation};
use deployd_api::release::ReleaseState;
use deployd_api::spec::Drain;

fn find(state: &AppState, tag: Tag) -> Option<Activation<'_>> {
    Some(Activation { tag, release: state.releases.get(&tag.label)? })
}

/// The processes that must have ended first. Proxies are not among them: they end in
/// [`plan_drained`], when what they lead to has no connection left.
pub fn drained_when(state: &AppState, tag: Tag) -> Vec<Instance> {
    find(state, tag).map(|a| a.instances()).unwrap_or_default()
}

/// A proxy that may still carry what its app said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carrier {
    /// Its unit.
    pub unit: String,
    /// How long it may go on after its app has ended.
    pub drain: Drain,
}

/// The proxies in front of what [`drained_when`] names: each must carry nothing any more, or have had its
/// time, before [`plan_drained`] ends it.
pub fn carriers(state: &AppState, tag: Tag) -> Vec<Carrier> {
    let Some(of) = find(state, tag) else { return vec![] };
    let drain = of.spec().deploy.drain_timeout;
    let proxies = of.processes().into_iter().flat_map(|p| of.proxies_of(&p));
    proxies.map(|p| Carrier { unit: p.unit, drain }).collect()
}

/// Tells what drains to end, again: a step that should have done it may have failed.
pub fn plan_drain(state: &AppState, tag: Tag) -> Vec<Action> {
    let Some(of) = find(state, tag) else { return vec![] };
    let held = held_units(state, tag);
    let own = of.sockets().into_iter().filter(|s| !held.contains(&s.unit));
    let mut actions: Vec<Action> = own.map(|socket| Action::CloseListener { socket }).collect();
    let instances = of.instances().into_iter();
    actions.extend(instances.map(|instance| Action::StopInstance { instance, wait: false }));
    actions
}

/// Everything else of the app that runs, may run again, or still ends.
fn others(state: &AppState, tag: Tag) -> Vec<Tag> {
    let tags = [state.live, state.candidate, state.warm, state.committed];
    tags.into_iter().flatten().chain(state.draining.iter().copied()).filter(|t| *t != tag).collect()
}

/// Socket units that others need too: those of Unix sockets are shared.
fn held_units(state: &AppState, tag: Tag) -> Vec<String> {
    let others = others(state, tag);
    others.iter().filter_map(|t| find(state, *t)).flat_map(|a| a.sockets()).map(|s| s.unit).collect()
}

/// Removes what only this activation needed, and forgets that it drains.
pub fn plan_drained(state: &AppState, tag: Tag) -> Vec<Action> {
    let done = Action::Record { change: Change::Drained { tag } };
    let Some(of) = find(state, tag) else { return vec![done] };
    let app = state.app.clone();
    let rest = others(state, tag);
    let held = held_units(state, tag);
    // A shared unit that nobody names any more went to the last one that did.
    let own = |path: &String| !held.iter().any(|unit| units::path(unit) == *path);
    let mut actions = Vec::new();
    for process in of.processes() {
        for instance in of.proxies_of(&process) {
            actions.push(Action::StopInstance { instance, wait: true });
        }
    }
    let members = state.groups.values().flatten().filter(|s| s.tag == tag);
    actions.extend(members.map(|s| Action::LeaveGroup { socket: s.clone() }));
    let mut paths: Vec<String> = of.file_paths();
    paths.extend(of.drop_ins());
    paths.retain(own);
    let last = rest.is_empty();
    if last {
        paths.push(units::slice_file(&app).path);
    }
    actions.push(Action::RemoveFiles { paths });
    if last {
        actions.push(Action::RemoveDirs { dirs: vec![format!("{}/{app}", units::STATE_DIR)] });
    }
    let reused = rest.iter().any(|t| t.label == tag.label);
    if of.release.state == ReleaseState::RolledBack && !reused {
        actions.push(Action::RemoveTree { app: app.clone(), tree: of.release.tree.clone() });
    }
    let beam = |r: &Release| r.beam && (r.is_kept() || rest.iter().any(|t| t.label == r.label));
    if of.release.beam && !state.releases.values().any(beam) {
        let program = units::epmd_program(&of.release.runtime);
        actions.push(Action::RemoveEpmd { app: app.clone(), program });
    }
    if last {
        actions.push(Action::RemoveUser { app: app.clone(), user: units::user(&app) });
    }
    actions.push(done);
    actions
}
