//! What every plan must hold, whatever it is for. The tests run it on every plan they make; the agent
//! runs it before the first record of a deployment is written.

use deployd_api::deployment::Kind;

use crate::action::Action;
use crate::plan::{Phase, Plan, Step};
use crate::state::Change;

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {rule}")]
pub struct Broken {
    /// Index of the step.
    pub step: usize,
    /// The rule.
    pub rule: &'static str,
}

/// Every rule that the plan breaks.
pub fn lint(plan: &Plan) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut say = |step, rule| broken.push(Broken { step, rule });
    let returns = plan.steps.iter().filter(|s| s.no_return).count();
    if returns > 1 {
        say(0, "there is one point of no return");
    }
    let committed = plan.steps.iter().position(|s| s.no_return).unwrap_or(usize::MAX);
    for (i, pair) in plan.steps.windows(2).enumerate() {
        if pair[0].phase > pair[1].phase {
            say(i + 1, "phases never go backwards");
        }
    }
    let migrations =
        plan.steps.iter().enumerate().filter(|(_, s)| matches!(s.action, Action::Migrate { .. }));
    for (nth, (i, step)) in migrations.enumerate() {
        if step.phase != Phase::Migrate {
            say(i, "a migration runs before anything of the candidate");
        }
        if nth > 0 || plan.kind != Kind::Push {
            say(i, "only a push migrates, and once");
        }
        let cleared = |s: &Step| s.phase > Phase::Commit && matches!(s.action, Action::ClearMigration { .. });
        if !plan.steps.iter().any(cleared) {
            say(i, "a migration's unit goes after the commit");
        }
    }
    // A candidate that may drain for ever keeps its files until then: `plan_drained` removes them.
    let drains = |a: &Action| matches!(a, Action::Record { change: Change::Draining { .. } });
    let lingers = plan.steps.iter().any(|s| s.undo.iter().any(drains));
    for (i, step) in plan.steps.iter().enumerate() {
        if i > committed && !step.undo.is_empty() {
            say(i, "nothing is undone after the point of no return");
        }
        if step.deadline.0 == 0 {
            say(i, "every step has a deadline");
        }
        if i < committed && must_undo(step, lingers) && step.undo.is_empty() {
            say(i, "what starts, opens or writes before the commit knows its undo");
        }
        if let Action::Record { change: Change::Forget { labels } } = &step.action
            && plan.to.is_some_and(|t| labels.contains(&t.label))
        {
            say(i, "a plan never prunes what it makes live");
        }
    }
    broken
}

fn must_undo(step: &Step, lingers: bool) -> bool {
    match &step.action {
        Action::StartInstance { .. } | Action::Migrate { .. } => true,
        Action::WriteFiles { .. } | Action::Seal { .. } => !lingers,
        Action::Record { change } => {
            matches!(change, Change::Live { .. } | Change::Add { .. } | Change::Candidate { .. })
        }
        _ => false,
    }
}
