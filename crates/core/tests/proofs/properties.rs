//! Random lives of an app: pushes, rollbacks, stops, starts, restarts, removes, each with a random fault.
//! What holds after every one of them, whatever came before.

use deployd_api::deployment::Verdict;
use deployd_core::plan::{Plan, Planned, Request, plan};
use deployd_core::retention::prunable;
use deployd_core::state::AppState;
use proptest::prelude::*;

use crate::driver::{Fault, Point, Run, Serving, tidy};
use crate::shapes::{
    ADMIN, ALONE, Ask, CHECK, DEPLOY, HTTP, IMMEDIATE, JOB, MIGRATE, PLENTY, QUIET, UNIX, UNLIMITED, WEB,
    beam, facts, spec, try_planned, two,
};
use crate::sim::Host;

fn any_spec() -> impl Strategy<Value = String> {
    let bodies = prop_oneof![
        Just([WEB, HTTP, CHECK].concat()),
        Just(two(&[WEB, HTTP].concat())),
        Just([WEB, HTTP, ADMIN].concat()),
        Just([WEB, HTTP, JOB, CHECK].concat()),
        Just([WEB, HTTP, ALONE].concat()),
        Just(beam(&[WEB, HTTP].concat())),
        Just([WEB, UNIX].concat()),
        Just(JOB.to_owned()),
        Just([WEB, HTTP, MIGRATE].concat()),
    ];
    let deploys = prop_oneof![Just(DEPLOY), Just(QUIET), Just(IMMEDIATE), Just(UNLIMITED)];
    (bodies, deploys).prop_map(|(body, deploy)| spec(&[&body, deploy]))
}

/// One release, of which the host gets more or less.
fn place(build: u32, all: bool) -> Ask {
    let only: &[&str] = if all { &["web", "job"] } else { &["web"] };
    Ask::Place { spec: spec(&[WEB, HTTP, JOB, DEPLOY]), build, only }
}

fn any_ask() -> impl Strategy<Value = Ask> {
    let memory = prop_oneof![3 => Just(PLENTY), 1 => Just(105_u64 << 20)];
    prop_oneof![
        6 => (any_spec(), 0..6_u32, memory).prop_map(|(spec, build, memory)| Ask::Push { spec, build, memory }),
        2 => (0..6_u32, any::<bool>()).prop_map(|(build, all)| place(build, all)),
        2 => Just(Ask::Rollback(None)),
        1 => (1..9_u32).prop_map(|n| Ask::Rollback(Some(n))),
        1 => Just(Ask::Stop),
        2 => Just(Ask::Start),
        1 => Just(Ask::Restart),
        1 => Just(Ask::Remove),
    ]
}

fn any_fault() -> impl Strategy<Value = Option<(usize, Fault)>> {
    let fault = prop_oneof![
        Just(Fault::Fail),
        Just(Fault::Crash { lost: false }),
        Just(Fault::Crash { lost: true }),
        Just(Fault::Reboot),
    ];
    prop_oneof![1 => Just(None), 2 => (0..90_usize, fault).prop_map(Some)]
}

/// A step whose effect is its record does not fail, and a commit does not after its rename.
fn can_happen(run: &Run, at: usize, fault: Fault) -> bool {
    let mut dry = run.clone();
    dry.run();
    let step = match dry.points.get(at) {
        Some(Point::Before(step) | Point::After(step)) => *step,
        Some(Point::Between) => return fault != Fault::Fail,
        _ => return true,
    };
    let action = &run.plan.steps[step].action;
    fault != Fault::Fail || !matches!(action.kind(), "record" | "mark-live" | "drain" | "commit")
}

/// Labels only grow, retention spares what is needed, plans survive the journal.
fn holds(before: &AppState, after: &AppState, plan: &Plan) {
    assert!(after.releases.is_empty() || after.next_label() >= before.next_label(), "labels grow");
    for keep in 1..4 {
        let gone = prunable(after, keep);
        let needed = [after.live, after.committed, after.warm, after.candidate];
        for tag in needed.into_iter().flatten().chain(after.draining.iter().copied()) {
            assert!(!gone.contains(&tag.label), "{tag} is in use");
        }
        assert!(after.previous.is_none_or(|p| !gone.contains(&p)), "the way back stays");
    }
    let text = serde_json::to_string(plan).unwrap();
    assert_eq!(*plan, serde_json::from_str::<Plan>(&text).unwrap(), "plans round-trip");
    let text = serde_json::to_string(after).unwrap();
    assert_eq!(*after, serde_json::from_str::<AppState>(&text).unwrap(), "states round-trip");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_app_lives(life in proptest::collection::vec((any_ask(), any_fault(), any::<bool>()), 1..12)) {
        let mut host = Host::default();
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        for (ask, fault, rest) in life {
            let Some(plan) = try_planned(&ask, &state, &host) else { continue };
            let before = state.clone();
            let serving = match (&ask, plan.strategy) {

                (Ask::Push { .. } | Ask::Place { .. } | Ask::Rollback(_), deployd_api::spec::Strategy::Rolling) => Serving::Always,
                _ => Serving::MayWait,
            };
            let mut run = Run::new(host.clone(), state.clone(), plan, serving);
            if let Some((at, fault)) = fault && can_happen(&run, at, fault) {
                run.faults = vec![(at, fault)];
            }
            let verdict = run.run();
            let ended = matches!(ask, Ask::Stop | Ask::Remove) && verdict == Verdict::Stuck;
            let settled = verdict == Verdict::Committed || verdict == Verdict::RolledBack;
            prop_assert!(settled || ended, "{}", run.story());
            holds(&before, &run.state, &run.plan);
            let removed = matches!(ask, Ask::Remove) && verdict == Verdict::Committed;
            (host, state) = (run.host, run.state);
            if rest || removed {
                tidy(&mut host, &mut state);
            }
            if removed {
                state = AppState::new("shop".parse().unwrap(), 50_000);
            }
            if state.live.is_some() && !state.stopped {
                let again = plan_again(&state, &host);
                prop_assert!(again, "what is live is a plan's Nothing");
            }
        }
    }
}

/// Going to what is live already does nothing.
fn plan_again(state: &AppState, host: &Host) -> bool {
    let to = state.live.map(|t| t.label);
    matches!(plan(&Request::Rollback { to }, &facts(state, PLENTY, host, false)), Ok(Planned::Nothing { .. }))
}
