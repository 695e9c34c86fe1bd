//! Pushes of a fleet: labels that hosts agree on, parts of a release, secrets, migrations.

use std::collections::BTreeMap;

use deployd_api::deployment::{Migrate, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::Label;
use deployd_core::action::Action;
use deployd_core::plan::{Planned, Push, Request, plan};
use deployd_core::state::AppState;

use crate::driver::{Fault, Point, Run, Serving, tidy};
use crate::shapes::{
    Ask, CHECK, DEPLOY, HTTP, JOB, MIGRATE, PLENTY, WEB, document, facts, planned, push as ask, spec,
};
use crate::sim::Host;

/// A host on which these were pushed in turn.
fn host(asks: &[Ask]) -> (Host, AppState) {
    let (mut host, mut state) = (Host::default(), AppState::new("shop".parse().unwrap(), 50_000));
    for ask in asks {
        let plan = planned(ask, &state, &host).unwrap();
        let mut run = Run::new(host, state, plan, Serving::MayWait);
        assert_eq!(run.run(), Verdict::Committed, "{}", run.story());
        (host, state) = (run.host, run.state);
        tidy(&mut host, &mut state);
    }
    (host, state)
}

fn label(n: u32) -> Label {
    Label::new(n).unwrap()
}

fn web() -> String {
    spec(&[WEB, HTTP, JOB, CHECK, DEPLOY, MIGRATE])
}

fn push_of(build: u32, wanted: Option<u32>) -> Push {
    Push { label: wanted.map(label), ..Push::new(document(&web(), build), None) }
}

fn answer(push: Push, on: &(Host, AppState)) -> Result<Planned, Box<ErrorBody>> {
    plan(&Request::Push(Box::new(push)), &facts(&on.1, PLENTY, &on.0, false))
}

/// `Ok` with the activation, `None` for nothing to do.
fn tag_of(answer: Result<Planned, Box<ErrorBody>>) -> Option<String> {
    match answer.unwrap() {
        Planned::Nothing { .. } => None,
        Planned::Plan(plan) => plan.to.map(|t| t.to_string()),
    }
}

#[test]
fn a_label_names_one_release() {
    let on = host(&[ask(&web(), 1), ask(&web(), 2)]);
    let taken = answer(push_of(3, Some(2)), &on).unwrap_err();
    assert_eq!(taken.code, ErrorCode::NumberTaken);
    assert!(taken.hint.contains("v3"), "{}", taken.hint);
    for (build, wanted, want) in [
        // Live, and under that label: nothing to do; under another one it gets that.
        (2, None, None),
        (2, Some(2), None),
        (2, Some(7), Some("v7")),
        // Kept: once more, or under the label that the fleet gives it.
        (1, None, Some("v1.2")),
        (1, Some(1), Some("v1.2")),
        (1, Some(9), Some("v9")),
        (3, None, Some("v3")),
        (3, Some(8), Some("v8")),
    ] {
        let tag = tag_of(answer(push_of(build, wanted), &on));
        assert_eq!(tag.as_deref(), want, "build {build} as {wanted:?}");
    }
}

#[test]
fn one_that_undid_itself_comes_back_under_its_label_as_another_activation() {
    let mut on = host(&[ask(&web(), 1)]);
    let Planned::Plan(plan) = answer(push_of(2, Some(4)), &on).unwrap() else { panic!() };
    let mut run = Run::new(on.0, on.1, *plan, Serving::MayWait);
    let mut dry = run.clone();
    dry.run();
    let seals = |p: &Point| matches!(p, Point::Before(s) if run.plan.steps[*s].action.kind() == "seal");
    run.faults = vec![(dry.points.iter().position(seals).unwrap(), Fault::Fail)];
    assert_eq!(run.run(), Verdict::RolledBack, "{}", run.story());
    on = (run.host, run.state);
    tidy(&mut on.0, &mut on.1);
    assert_eq!(tag_of(answer(push_of(2, Some(4)), &on)).as_deref(), Some("v4.2"));
    assert_eq!(tag_of(answer(push_of(2, None), &on)).as_deref(), Some("v5"));
}

#[test]
fn identity_is_that_of_the_whole_release() {
    let only = ["web".parse().unwrap()];
    let (full, part) = (Push::new(document(&web(), 1), None), Push::new(document(&web(), 1), Some(&only)));
    assert_eq!(full.digest, part.digest);
    assert_eq!(part.document.spec.processes.len(), 1);
    let on = host(&[Ask::Place { spec: web(), build: 1, only: &["web"] }]);
    assert_eq!(on.1.releases[&label(1)].digest, full.digest);
    assert_eq!(tag_of(answer(part, &on)), None);
    assert_eq!(tag_of(answer(full, &on)).as_deref(), Some("v1.2"));
    // Secrets are part of it, too.
    let mut other = document(&web(), 1);
    other.secrets.insert("KEY".parse().unwrap(), 2);
    assert_eq!(tag_of(answer(Push::new(other, Some(&only)), &on)).as_deref(), Some("v2"));
}

fn migrates(answer: Result<Planned, Box<ErrorBody>>) -> bool {
    let Planned::Plan(plan) = answer.unwrap() else { return false };
    plan.steps.iter().any(|s| matches!(s.action, Action::Migrate { .. }))
}

#[test]
fn only_the_host_that_is_asked_to_migrates() {
    let on = host(&[ask(&web(), 1)]);
    assert!(migrates(answer(push_of(2, None), &on)));
    assert!(!migrates(answer(Push { migrate: Migrate::Elsewhere, ..push_of(2, None) }, &on)));
    // More of what is live is no new release.
    let part = host(&[Ask::Place { spec: web(), build: 1, only: &["web"] }]);
    assert!(!migrates(answer(push_of(1, None), &part)));
    let two = host(&[ask(&web(), 1), ask(&web(), 2)]);
    assert!(migrates(answer(push_of(1, None), &two)));
    let back = plan(&Request::Rollback { to: None }, &facts(&two.1, PLENTY, &two.0, false));
    assert!(!migrates(back));
}

#[test]
fn a_migration_runs_as_the_first_process() {
    let on = host(&[]);
    let Planned::Plan(plan) = answer(push_of(1, None), &on).unwrap() else { panic!() };
    let found = plan.steps.iter().find_map(|s| match &s.action {
        Action::Migrate { unit, words, surroundings, .. } => Some((unit, words, surroundings)),
        _ => None,
    });
    let (unit, words, around) = found.unwrap();
    assert_eq!(unit, "deployd-shop-migrate-v1.service");
    assert_eq!(words[..3], ["/var/lib/deployd/runtime/0/deployd-exec", "run", "--"].map(str::to_owned));
    assert!(words[3].ends_with("/bin/web") && words[4] == "migrate", "{words:?}");
    assert_eq!((around.user.as_str(), around.env["PORT"].as_str()), ("dpl-shop", "8080"));
    assert_eq!((around.env["DEPLOYD_PROCESS"].as_str(), around.memory), ("web", Some(100 << 20)));
}

#[test]
fn secrets_must_be_there() {
    let text = format!("{}[secrets]\nrequired = [\"KEY\"]\nfiles = [\"CERT\"]\n", web());
    let on = host(&[]);
    let refused = answer(Push::new(document(&text, 1), None), &on).unwrap_err();
    assert_eq!(refused.code, ErrorCode::SecretMissing);
    assert!(refused.message.ends_with("CERT, KEY"), "{}", refused.message);
    assert!(answer(Push::new(document(&text, 1), None).unobstructed(), &on).is_ok());
    let mut named = document(&text, 1);
    named.secrets = ["KEY", "CERT"].map(|name| (name.parse().unwrap(), 3)).into();
    let push = Push::new(named, None);
    assert!(answer(push.clone(), &on).is_ok());
    let mut facts = facts(&on.1, PLENTY, &on.0, false);
    facts.unsealed = BTreeMap::from([("KEY".parse().unwrap(), 3)]);
    let refused = plan(&Request::Push(Box::new(push)), &facts).unwrap_err();
    assert!(refused.message.contains("version 3 of the secret KEY"), "{}", refused.message);
}
