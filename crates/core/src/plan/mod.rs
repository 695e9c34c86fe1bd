//! From a request, a spec and observed facts to a complete plan, or a refusal.
//!
//! Everything is decided here: every path, unit name, timeout and threshold. The order of a deployment is
//! [`Phase`]; the phases that exist now are the functions `plan_*` of `push`, in that order.

mod drained;
mod operate;
mod platform;
mod push;
mod refuse;
mod request;
mod swap;
mod token;

use deployd_api::deployment::Kind;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label};
use deployd_api::spec::{Check, Millis, Strategy};
use serde::{Deserialize, Serialize};

use crate::action::{Action, Trial};
use crate::facts::Facts;
use crate::journal::StepIndex;
use crate::state::{Tag, Unended};

pub use drained::{Carrier, carriers, drained_when, plan_drain, plan_drained};
pub use refuse::{bytes, overlap};
pub use request::{Push, Request};
pub use swap::private_ports;
pub use token::{fingerprint, refuse_stale};

/// The whole order of a deployment. Each step belongs to one phase, and phases never go backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The app's deploy lock is held.
    Lease,
    /// Everything that could refuse has been looked at.
    Preflight,
    /// The release stands on disk, with its user and units.
    Stage,
    /// A backup is taken.
    Backup,
    /// Migrations run.
    Migrate,
    /// The candidate's listeners are open, at 0 %.
    Socket,
    /// The candidate starts.
    Start,
    /// The candidate passes its checks.
    Check,
    /// The candidate gets the traffic.
    Weights,
    /// It keeps it for `min_healthy`: push exits 0.
    Live,
    /// It is watched, the old one ready to take over again.
    Monitor,
    /// It boots from now on: the point of no return.
    Commit,
    /// The old one ends.
    Retire,
    /// What nobody needs is removed.
    Prune,
}

/// One unit of work: what is done, how it is undone, how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which part of the order it belongs to.
    pub phase: Phase,
    /// What is done.
    pub action: Action,
    /// How it is undone, in order; empty when there is nothing to undo. Running the step again after a
    /// crash and undoing it without knowing whether it happened are both safe: see [`Action`].
    pub undo: Vec<Action>,
    /// After this long the step has failed.
    pub deadline: Millis,
    /// Once begun, the deployment only goes forward.
    pub no_return: bool,
}

impl Step {
    /// Whether it is a watch that a newer push may end.
    pub fn is_supersedable(&self) -> bool {
        matches!(self.action, Action::Watch { supersedable: true, .. })
    }
}

/// A complete plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Format of the plan and of its journal.
    pub format: u32,
    /// The app.
    pub app: AppName,
    /// What it is for.
    pub kind: Kind,
    /// The activation it moves to.
    pub to: Option<Tag>,
    /// The activation that has the traffic before.
    pub from: Option<Tag>,
    /// Which way.
    pub strategy: Strategy,
    /// How long it is watched after live.
    pub monitor: Millis,
    /// Whether the old one stays ready while the new one is watched; if not, why.
    pub warm: Warm,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Whether a step's undo must succeed before an earlier step may be undone: it brings back a release
    /// that had ended, while the one that replaced it still runs and has the traffic. Undoing more after
    /// it failed would leave nobody to serve.
    pub fn gates_undo(&self, step: StepIndex) -> bool {
        let proves = self.steps[step].undo.iter().any(|a| matches!(a, Action::Check { .. }));
        let starts = |s: &Step| matches!(&s.action, Action::StartInstance { instance, .. } if Some(instance.tag) == self.to);
        proves && self.steps[..step].iter().any(starts)
    }
}

/// Whether the old release stays ready during the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warm {
    /// It runs at 0 %.
    Yes,
    /// There is none, or the strategy ends it first.
    None,
    /// Not enough memory for two.
    NoMemory,
}

/// The answer to a request that is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// It is so already.
    Nothing {
        /// What is live.
        live: Label,
    },
    /// These steps.
    Plan(Box<Plan>),
}

/// Plans a request.
pub fn plan(request: &Request, facts: &Facts) -> Result<Planned, Box<ErrorBody>> {
    if facts.state.unended == Some(Unended::Remove) && *request != Request::Remove {
        let app = &facts.state.app;
        return Err(Box::new(ErrorBody::new(
            ErrorCode::WrongState,
            format!("the removal of {app} has not come to its end"),
            format!("deployd-ctl remove -a {app} goes on with it"),
        )));
    }
    match request {
        Request::Push(push) => push::plan_push(push, facts),
        Request::Rollback { to } => push::plan_rollback(*to, facts),
        Request::Start => operate::plan_start(facts),
        Request::Stop => operate::plan_stop(facts),
        Request::Restart => operate::plan_restart(facts),
        Request::Remove => operate::plan_remove(facts),
    }
}

/// Collects steps.
#[derive(Debug)]
struct Steps {
    steps: Vec<Step>,
}

/// What a step of bookkeeping or one D-Bus call may take before the host is considered broken.
const SHORT: Millis = Millis::from_secs(60);
/// What is added to an action's own longest wait, so that the action can report why it ended.
const SLACK: Millis = Millis::from_secs(30);
/// How long a migration that had its time may take to be ended, and to be told of.
const ENDING: Millis = Millis::from_secs(90);
/// What stands for "without limit" inside a deployment: a day.
const FOR_EVER: Millis = Millis::from_secs(24 * 3600);

impl Steps {
    fn new() -> Self {
        Self { steps: Vec::new() }
    }

    fn add(&mut self, phase: Phase, action: Action, undo: Vec<Action>) -> &mut Self {
        let deadline = deadline(&action);
        self.steps.push(Step { phase, action, undo, deadline, no_return: false });
        self
    }

    fn add_no_return(&mut self, phase: Phase, action: Action) -> &mut Self {
        self.add(phase, action, Vec::new());
        if let Some(step) = self.steps.last_mut() {
            step.no_return = true;
        }
        self
    }
}

/// How long an action may take, as a step or in an undo.
pub fn deadline(action: &Action) -> Millis {
    Millis(own_wait(action).0.saturating_add(SLACK.0))
}

/// How much of that is left after so long: of a wait only the wait itself may have passed while nobody was there to
/// judge, so that a judgement has its time.
pub fn deadline_after(action: &Action, elapsed: Millis) -> Millis {
    let passed = match action {
        Action::Watch { duration: wait, .. } | Action::Check { timeout: wait, .. } => elapsed.min(*wait),
        _ => elapsed,
    };
    Millis(deadline(action).0.saturating_sub(passed.0))
}

/// After its first failure a check of the trial is judged within this.
fn judged_within(trial: &Trial) -> Millis {
    let one = |c: &Check| (c.timeout.0 + c.interval.0).saturating_mul(u64::from(c.failures)) + c.grace.0;
    Millis(trial.checks.values().map(one).max().unwrap_or(0))
}

/// A try that begins just before the end may take its own time.
fn with_last_try(wait: Millis, trial: &Trial) -> Millis {
    let longest = trial.checks.values().map(|c| c.timeout.0).max().unwrap_or(0);
    Millis(wait.0.saturating_add(longest))
}

/// How long an action may wait by itself.
fn own_wait(action: &Action) -> Millis {
    match action {
        Action::StartInstance { timeout, .. }
        | Action::RestartInstance { timeout, .. }
        | Action::AwaitPort { timeout, .. }
        | Action::LearnNonblocking { timeout, .. } => *timeout,
        Action::Check { trial, timeout, .. } => with_last_try(*timeout, trial),
        Action::Watch { trial, duration, settle, .. } => {
            Millis(duration.0.saturating_add(judged_within(trial).0).saturating_add(settle.0))
        }
        Action::AwaitEmptyQueue { cap, .. }
        | Action::Relay { cap, .. }
        | Action::AwaitCarried { cap, .. } => *cap,
        // Bounded by the unit's own TimeoutStopSec, which may be infinity.
        Action::StopInstance { wait: true, .. } => FOR_EVER,
        Action::Migrate { timeout, .. } => Millis(timeout.0.saturating_add(ENDING.0)),
        Action::Seal { .. } => Millis::from_secs(1800),
        _ => SHORT,
    }
}
