//! `handoff = "port"`: a proxy takes connections whether or not its app does, so plans wait for the app first
//! and end the proxy last. And how long checks may take.

use deployd_api::spec::Millis;
use deployd_core::action::Action;
use deployd_core::plan::{self, Plan, plan_drained};
use deployd_core::state::Tag;

use crate::driver::Serving;
use crate::shapes::{Ask, CHECK, DEPLOY, HTTP, PORT, Shape, WEB, push, spec, tight, two};

fn planned(text: &str, ask: impl Fn(&str) -> Ask) -> Plan {
    let before = vec![push(text, 1)];
    let shape = Shape { name: "port".to_owned(), before, ask: ask(text), serving: Serving::Always };
    (*shape.run().plan).clone()
}

fn actions(plan: &Plan) -> Vec<&Action> {
    plan.steps.iter().map(|s| &s.action).collect()
}

fn first(actions: &[&Action], what: impl Fn(&Action) -> bool) -> usize {
    actions.iter().position(|a| what(a)).unwrap_or_else(|| panic!("none in {actions:#?}"))
}

fn accepts(action: &Action, wanted: u32) -> bool {
    matches!(action, Action::AwaitPort { instance, port, .. }
        if instance.number == wanted && u32::from(*port) == 20_000 + wanted)
}

#[test]
fn every_private_port_accepts_before_it_gets_traffic() {
    let text = &two(&spec(&[WEB, PORT, DEPLOY]));
    let plan = planned(text, |text| push(text, 2));
    let actions = actions(&plan);
    let to = plan.to.unwrap();
    let switch = actions.iter().rposition(|a| matches!(a, Action::Steer { to: t, .. } if *t == to)).unwrap();
    let live = first(&actions, |a| a.kind() == "mark-live");
    for number in [1, 2] {
        let accepts = first(&actions, |a| accepts(a, number));
        let unit = format!("deployd-shop-web-v2@{number}.service");
        let started =
            first(&actions, |a| matches!(a, Action::StartInstance { instance, .. } if instance.unit == unit));
        let check = first(&actions, |a| matches!(a, Action::Check { .. }));
        assert!(started < accepts && accepts < check && check < switch.min(live), "{actions:#?}");
    }
}

#[test]
fn a_check_of_a_proxied_listener_knows_its_private_ports() {
    let plan = planned(&two(&spec(&[WEB, PORT, CHECK, DEPLOY])), |text| push(text, 2));
    let trials = plan.steps.iter().filter_map(|s| match &s.action {
        Action::Check { trial, .. } | Action::Watch { trial, .. } => Some(trial),
        _ => None,
    });
    for trial in trials {
        assert_eq!(trial.ports[&"http".parse().unwrap()], [20_001, 20_002]);
    }
    let plan = planned(&spec(&[WEB, HTTP, CHECK, DEPLOY]), |text| push(text, 2));
    let none = |s: &plan::Step| !matches!(&s.action, Action::Check { trial, .. } if !trial.ports.is_empty());
    assert!(plan.steps.iter().all(none));
}

#[test]
fn a_restart_waits_for_each_port_before_the_next_instance() {
    let plan = planned(&two(&spec(&[WEB, PORT, DEPLOY])), |_| Ask::Restart);
    let actions = actions(&plan);
    let restarts = |n: u32| move |a: &Action| matches!(a, Action::RestartInstance { instance, .. } if instance.number == n);
    assert!(first(&actions, restarts(1)) < first(&actions, |a| accepts(a, 1)));
    assert!(first(&actions, |a| accepts(a, 1)) < first(&actions, restarts(2)));
}

/// What revives the old release waits for its ports too, before the traffic goes back to it.
#[test]
fn a_proxy_carries_to_the_end_and_a_revival_waits() {
    let plan = planned(&spec(&[WEB, PORT, DEPLOY]), |text| tight(text, 2));
    let actions = actions(&plan);
    let ends = |unit: &'static str| move |a: &Action| matches!(a, Action::StopInstance { instance, .. } if instance.unit == unit);
    let app = first(&actions, ends("deployd-shop-web-v1@1.service"));
    let carried = first(&actions, |a| matches!(a, Action::AwaitCarried { cap: Millis(30_000), .. }));
    let proxy = first(&actions, ends("deployd-shop-http_proxy_-v1@1.service"));
    assert!(app < carried && carried < proxy, "{actions:#?}");
    let revival = plan.steps.iter().map(|s| &s.undo).find(|u| u.iter().any(|a| accepts(a, 1)));
    let revival: Vec<&Action> = revival.unwrap().iter().collect();
    let accepted = first(&revival, |a| accepts(a, 1));
    assert!(accepted < first(&revival, |a| matches!(a, Action::Check { .. })), "{revival:#?}");
}

/// Each proxy of what drains is asked about, with its own limit, and ends after that.
#[test]
fn what_drains_names_its_carriers() {
    let text = &two(&spec(&[WEB, PORT, "[deploy]\ndrain_timeout = \"7s\"\n"]));
    let shape = Shape {
        name: "port".to_owned(),
        before: vec![push(text, 1)],
        ask: push(text, 2),
        serving: Serving::Always,
    };
    let mut run = shape.run();
    run.run();
    let tag: Tag = "v1".parse().unwrap();
    assert_eq!(run.state.draining, [tag]);
    let carriers = plan::carriers(&run.state, tag);
    let units: Vec<&str> = carriers.iter().map(|c| c.unit.as_str()).collect();
    assert_eq!(units, ["deployd-shop-http_proxy_-v1@1.service", "deployd-shop-http_proxy_-v1@2.service"]);
    assert!(carriers.iter().all(|c| c.drain == deployd_api::spec::Drain::Limited(Millis(7000))));
    let ended = plan_drained(&run.state, tag);
    let stopped = |c: &plan::Carrier| {
        ended.iter().any(|a| matches!(a, Action::StopInstance { instance, .. } if instance.unit == c.unit))
    };
    assert!(carriers.iter().all(stopped));
}

/// One try of a check may begin just before the end of its step.
#[test]
fn a_try_may_take_its_own_time() {
    let slow = "[checks.smoke]\ncommand = \"bin/smoke\"\ntimeout = \"5m\"\n";
    let plan = planned(&spec(&[WEB, HTTP, slow, DEPLOY]), |text| push(text, 2));
    for step in &plan.steps {
        let wait = match &step.action {
            Action::Check { timeout, .. } => *timeout,
            Action::Watch { duration, .. } => *duration,
            _ => continue,
        };
        assert!(step.deadline.0 > wait.0 + 300_000, "{} within {:?}", step.action.text(), step.deadline);
    }
}

#[test]
fn two_processes_with_private_ports_do_not_meet() {
    let api = "[processes.api]\nexec = \"bin/api\"\ninstances = 2\n[listen.api]\naddress = \":8081\"\n\
               process = \"api\"\nhandoff = \"port\"\n";
    let plan = planned(&two(&spec(&[WEB, PORT, api, DEPLOY])), |text| push(text, 2));
    let ports: Vec<(String, u16)> = plan
        .steps
        .iter()
        .filter_map(|s| match &s.action {
            Action::AwaitPort { instance, port, .. } => Some((instance.process.to_string(), *port)),
            _ => None,
        })
        .collect();
    let expected = [("api", 20_001), ("api", 20_002), ("web", 20_003), ("web", 20_004)];
    let expected: Vec<(String, u16)> = expected.map(|(p, n)| (p.to_owned(), n)).to_vec();
    assert_eq!(ports, expected);
}
