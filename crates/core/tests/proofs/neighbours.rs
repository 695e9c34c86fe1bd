//! The host's epmd belongs to every app that has BEAM releases: it stays as long as one of them may need it,
//! and what one app does never takes it from another.

use deployd_api::deployment::Verdict;
use deployd_core::plan::Plan;
use deployd_core::state::AppState;
use deployd_core::units::EPMD;

use crate::driver::{Fault, Point, Run, Serving, tidy};
use crate::shapes::{Ask, DEPLOY, HTTP, UNLIMITED, WEB, beam, planned, push, spec};
use crate::sim::Host;

fn fresh() -> AppState {
    AppState::new("shop".parse().unwrap(), 50_000)
}

fn node() -> String {
    spec(&[&beam(WEB), HTTP, DEPLOY])
}

fn neighbour() -> Host {
    let mut host = Host::default();
    host.add_neighbour();
    host
}

/// One after the other, all of them well.
fn live(mut host: Host, asks: &[Ask]) -> Host {
    let mut state = fresh();
    for ask in asks {
        let plan = planned(ask, &state, &host).unwrap();
        let mut run = Run::new(host, state, plan, Serving::MayWait);
        assert_eq!(run.run(), Verdict::Committed, "{}", run.story());
        (host, state) = (run.host, run.state);
        tidy(&mut host, &mut state);
    }
    host
}

/// A first push that fails its check.
fn fail(host: Host, plan: Plan) -> Host {
    let mut run = Run::new(host, fresh(), plan, Serving::MayWait);
    let mut dry = run.clone();
    dry.run();
    let check = |p: &Point| matches!(p, Point::Before(s) if dry.plan.steps[*s].action.kind() == "check");
    run.faults = vec![(dry.points.iter().position(check).unwrap(), Fault::Fail)];
    assert_eq!(run.run(), Verdict::RolledBack, "{}", run.story());
    let (mut host, mut state) = (run.host, run.state);
    tidy(&mut host, &mut state);
    host
}

#[test]
fn the_last_one_takes_epmd_along() {
    let host = live(Host::default(), &[push(&node(), 1)]);
    assert!(host.is_active(EPMD));
    let host = live(Host::default(), &[push(&node(), 1), Ask::Remove]);
    assert_eq!(host.summary(), Host::default().summary());
}

#[test]
fn no_other_app_loses_it() {
    let alone = neighbour().summary();
    let after = live(neighbour(), &[push(&node(), 1), push(&node(), 2), Ask::Remove]);
    assert_eq!(after.summary(), alone);
    for deploy in [DEPLOY, UNLIMITED] {
        let ask = push(&spec(&[&beam(WEB), HTTP, deploy]), 1);
        let plan = planned(&ask, &fresh(), &neighbour()).unwrap();
        assert_eq!(fail(neighbour(), plan).summary(), alone);
    }
}

/// The other app came after this plan was made.
#[test]
fn an_old_plan_takes_it_from_nobody() {
    let plan = planned(&push(&node(), 1), &fresh(), &Host::default()).unwrap();
    let brings = |p: &Plan| p.steps.iter().any(|s| s.undo.iter().any(|a| a.kind() == "remove-epmd"));
    assert!(brings(&plan));
    assert_eq!(fail(neighbour(), plan).summary(), neighbour().summary());
}

/// A release that can be gone back to needs it; one that is pruned does not.
#[test]
fn it_goes_with_the_last_release_that_is_kept() {
    let plain = spec(&[WEB, HTTP, DEPLOY]);
    let mut asks = vec![push(&node(), 1), push(&plain, 2)];
    assert!(live(Host::default(), &asks).is_active(EPMD));
    asks.extend((3..9).map(|build| push(&plain, build)));
    let host = live(Host::default(), &asks);
    assert!(!host.is_active(EPMD));
    assert!(!host.summary().files.keys().any(|path| path.contains("epmd")));
}
