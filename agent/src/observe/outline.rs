//! A plan in a few words: `stage, start 2, check health, switch, watch 5m, commit, drain 30s`.
//!
//! Made from the steps of the plan itself, so that it cannot tell anything else than will happen.

use std::collections::BTreeSet;

use deployd_api::spec::{Drain, Spec};
use deployd_core::action::Action;
use deployd_core::plan::{Phase, Plan, Step};
use deployd_core::state::Change;

/// The words, in order; `old` is the spec of what is live.
pub(super) fn of(plan: &Plan, old: Option<&Spec>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut started = BTreeSet::new();
    for step in &plan.steps {
        if let Action::StartInstance { instance, .. } = &step.action {
            // The proxy of an instance goes by the same name.
            started.insert((instance.process.clone(), instance.number));
            if words.last().is_none_or(|w| !w.starts_with("start ")) {
                words.push(String::new());
            }
            if let Some(last) = words.last_mut() {
                *last = format!("start {}", started.len());
            }
            continue;
        }
        if let Some(word) = word(plan, step, old)
            && words.last() != Some(&word)
        {
            words.push(word);
        }
    }
    words
}

fn word(plan: &Plan, step: &Step, old: Option<&Spec>) -> Option<String> {
    if step.phase == Phase::Preflight {
        return Some("clear what was left".to_owned());
    }
    Some(match &step.action {
        Action::Seal { .. } => "stage".to_owned(),
        Action::Migrate { .. } => "migrate".to_owned(),
        Action::Check { trial, .. } if trial.checks.is_empty() => "wait until it is up".to_owned(),
        Action::Check { .. } => format!("check {}", step.action.object()),
        Action::Steer { to, .. }
            if Some(*to) == plan.to && matches!(step.phase, Phase::Socket | Phase::Weights) =>
        {
            "switch".to_owned()
        }
        // What is only told to end, after the commit, drains.
        Action::StopInstance { instance, wait: true } => {
            format!("stop {} of {}", instance.process, instance.tag.label)
        }
        Action::Watch { duration, .. } => format!("watch {duration}"),
        Action::Record { change: Change::Live { .. } } => "live".to_owned(),
        Action::Commit { .. } => "commit".to_owned(),
        Action::Record { change: Change::Draining { tag } } if Some(*tag) == plan.from => {
            match old?.deploy.drain_timeout {
                Drain::Limited(limit) => format!("drain {limit}"),
                Drain::Unlimited => "drain without limit".to_owned(),
            }
        }
        Action::Sweep { .. } => step.action.text(),
        _ => return None,
    })
}
