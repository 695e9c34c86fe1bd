//! The state machine of a deployment: what has happened, and what to do next.
//!
//! [`Progress::apply`] is the only transition function; the live run and the replay after a crash both
//! use it. [`Progress::next`] is total: every state that can be reached has a decision.

use deployd_api::deployment::{Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};

use crate::action::Action;
use crate::journal::{Record, StepIndex};
use crate::plan::Plan;

/// How far a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Its intent is durable; whether its effect happened is not known.
    Started,
    /// Done.
    Done,
    /// Failed; its effect may have happened in part.
    Failed,
    /// Its undo has begun.
    Undoing,
    /// Undone.
    Undone,
    /// Its undo failed.
    UndoFailed,
}

/// A record that cannot follow what is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {record:?} cannot follow: {reason}")]
pub struct IllegalRecord {
    /// The record.
    pub record: Box<Record>,
    /// Why not.
    pub reason: &'static str,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Run this step (again, when its record says that it was begun).
    Run(StepIndex),
    /// Undo this step.
    Undo(StepIndex),
    /// Write down this verdict.
    Finish(Verdict),
    /// Nothing: it has ended.
    Ended(Verdict),
}

/// How far the migration of a deployment got. It is never undone, so whoever reads of a failure must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Migrated {
    /// It has not begun, or the plan has none.
    No,
    /// It was begun, and nobody wrote its end down.
    Begun,
    /// It ended well.
    Applied,
    /// It failed; the failure says so.
    Failed,
}

/// What has happened in a deployment: a fold over its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    steps: Vec<StepState>,
    /// In which order steps were begun.
    order: Vec<StepIndex>,
    /// The first failure: it decides the verdict, whatever follows.
    failure: Option<ErrorBody>,
    /// Failures after the point of no return, and of undos: things left for a person or `doctor`.
    leftovers: Vec<ErrorBody>,
    undo_failed: bool,
    /// What the traffic would go back to could not be brought back: what has it now must stay.
    kept: bool,
    crossed: bool,
    superseded: bool,
    rebooted: bool,
    verdict: Option<Verdict>,
    migrated: Migrated,
    /// Where a migration's output can be read.
    migration_logs: String,
    plan: Vec<StepTraits>,
    /// For these kinds a step that fails after the point of no return is no leftover but the failure: what
    /// was asked for has not happened. They stop there, and may be asked for again.
    whole: bool,
}

/// What the machine needs to know of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StepTraits {
    has_undo: bool,
    no_return: bool,
    supersedable: bool,
    /// Its undo brings back what must serve before the rest may be undone.
    gate: bool,
    migrates: bool,
}

impl Progress {
    /// Nothing has happened yet.
    pub fn new(plan: &Plan) -> Self {
        let traits = |(i, s): (usize, &crate::plan::Step)| StepTraits {
            has_undo: !s.undo.is_empty(),
            no_return: s.no_return,
            supersedable: s.is_supersedable(),
            gate: plan.gates_undo(i),
            migrates: matches!(s.action, Action::Migrate { .. }),
        };
        let release = plan.to.map(|t| format!(" --release {}", t.label)).unwrap_or_default();
        Self {
            steps: vec![StepState::Waiting; plan.steps.len()],
            order: Vec::new(),
            failure: None,
            leftovers: Vec::new(),
            undo_failed: false,
            kept: false,
            crossed: false,
            superseded: false,
            rebooted: false,
            verdict: None,
            migrated: Migrated::No,
            migration_logs: format!("deployd-ctl logs -a {} --instance migrate{release}", plan.app),
            plan: plan.steps.iter().enumerate().map(traits).collect(),
            whole: matches!(plan.kind, Kind::Stop | Kind::Remove),
        }
    }

    /// All records in turn.
    pub fn replay<'a>(
        plan: &Plan,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, IllegalRecord> {
        let mut progress = Self::new(plan);
        for record in records {
            progress.apply(record)?;
        }
        Ok(progress)
    }

    /// Takes one record in.
    pub fn apply(&mut self, record: &Record) -> Result<(), IllegalRecord> {
        let illegal = |reason| Err(IllegalRecord { record: Box::new(record.clone()), reason });
        if self.verdict.is_some() && !matches!(record, Record::Note { .. }) {
            return illegal("the deployment has ended");
        }
        match record {
            Record::Note { .. } => {}
            Record::Started { step } => match self.next() {
                Decision::Run(want) if want == *step => {
                    if self.steps[*step] == StepState::Waiting {
                        self.order.push(*step);
                    }
                    self.steps[*step] = StepState::Started;
                    self.note_migration(*step, Migrated::Begun);
                }
                _ => return illegal("it is not this step's turn"),
            },
            Record::Done { step, .. } => match self.state_of(*step) {
                Some(StepState::Started) => {
                    self.steps[*step] = StepState::Done;
                    self.crossed |= self.plan[*step].no_return;
                    self.note_migration(*step, Migrated::Applied);
                }
                _ => return illegal("the step was not begun"),
            },
            Record::Failed { step, failure } => match self.state_of(*step) {
                Some(StepState::Started) => {
                    self.steps[*step] = StepState::Failed;
                    self.note_migration(*step, Migrated::Failed);
                    self.fail(failure);
                }
                _ => return illegal("the step was not begun"),
            },
            Record::Learned { .. } => {
                if !self.steps.iter().any(|s| matches!(s, StepState::Started | StepState::Undoing)) {
                    return illegal("no step runs that could have learned it");
                }
            }
            Record::Rebooted { failure } => {
                self.rebooted = true;
                if !self.crossed && self.failure.is_none() {
                    self.failure = Some(failure.clone());
                }
            }
            Record::Abort { failure } => {
                if self.crossed || self.in_doubt().is_some() {
                    return illegal("the point of no return is passed");
                }
                if self.failure.is_none() {
                    self.failure = Some(failure.clone());
                }
            }
            Record::Superseded => {
                if !self.in_supersedable_watch() {
                    return illegal("there is no watch to end");
                }
                self.superseded = true;
            }
            Record::UndoStarted { step } => match self.next() {
                Decision::Undo(want) if want == *step => self.steps[*step] = StepState::Undoing,
                _ => return illegal("it is not this step's turn to be undone"),
            },
            Record::Undone { step } => match self.state_of(*step) {
                Some(StepState::Undoing) => self.steps[*step] = StepState::Undone,
                _ => return illegal("the step's undo was not begun"),
            },
            Record::UndoFailed { step, failure } => match self.state_of(*step) {
                Some(StepState::Undoing) => {
                    self.steps[*step] = StepState::UndoFailed;
                    self.undo_failed = true;
                    self.kept |= self.plan[*step].gate;
                    self.leftovers.push(failure.clone());
                }
                _ => return illegal("the step's undo was not begun"),
            },
            Record::Finished { verdict } => match self.next() {
                Decision::Finish(want) if want == *verdict => self.verdict = Some(*verdict),
                _ => return illegal("the deployment is not at its end"),
            },
        }
        Ok(())
    }

    fn state_of(&self, step: StepIndex) -> Option<StepState> {
        self.steps.get(step).copied()
    }

    fn note_migration(&mut self, step: StepIndex, migrated: Migrated) {
        if self.plan[step].migrates {
            self.migrated = migrated;
        }
    }

    fn fail(&mut self, failure: &ErrorBody) {
        if self.crossed {
            self.leftovers.push(failure.clone());
        } else if self.failure.is_none() {
            self.failure = Some(failure.clone());
        }
    }

    /// What to do next. Forward until something fails; before the point of no return a failure undoes
    /// everything begun, newest first; after it failures are noted and the rest still runs.
    pub fn next(&self) -> Decision {
        if let Some(verdict) = self.verdict {
            return Decision::Ended(verdict);
        }
        if self.failure.is_some() {
            return self.next_undo();
        }
        if self.whole && !self.leftovers.is_empty() {
            return Decision::Finish(Verdict::Stuck);
        }
        let open = self.steps.iter().position(|s| matches!(s, StepState::Waiting | StepState::Started));
        match open {
            Some(step) => Decision::Run(step),
            None => Decision::Finish(Verdict::Committed),
        }
    }

    fn next_undo(&self) -> Decision {
        if self.kept {
            return Decision::Finish(Verdict::Stuck);
        }
        let pending = self.order.iter().rev().find(|s| {
            let begun = matches!(
                self.steps[**s],
                StepState::Started | StepState::Done | StepState::Failed | StepState::Undoing
            );
            begun && self.plan[**s].has_undo
        });
        match pending {
            Some(step) => Decision::Undo(*step),
            None if self.undo_failed => Decision::Finish(Verdict::Stuck),
            None => Decision::Finish(Verdict::RolledBack),
        }
    }

    /// The first failure, if there was one before the point of no return.
    pub fn failure(&self) -> Option<&ErrorBody> {
        self.failure.as_ref()
    }

    /// What was left undone, for a person or `doctor`.
    pub fn leftovers(&self) -> &[ErrorBody] {
        &self.leftovers
    }

    /// Whether going back is no longer possible.
    pub fn crossed(&self) -> bool {
        self.crossed
    }

    /// Whether the new release was left in place, because what it replaced could not be brought back.
    pub fn keeps_new(&self) -> bool {
        self.kept
    }

    /// Whether a newer push ended the watch.
    pub fn superseded(&self) -> bool {
        self.superseded
    }

    /// How it ended.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The state of every step.
    pub fn steps(&self) -> &[StepState] {
        &self.steps
    }

    /// The step that runs or runs next, going forward.
    pub fn current(&self) -> Option<StepIndex> {
        match self.next() {
            Decision::Run(step) | Decision::Undo(step) => Some(step),
            Decision::Finish(_) | Decision::Ended(_) => None,
        }
    }

    /// Whether the step that runs is a watch that a newer push may end.
    pub fn in_supersedable_watch(&self) -> bool {
        match self.next() {
            Decision::Run(step) => self.plan[step].supersedable,
            Decision::Undo(_) | Decision::Finish(_) | Decision::Ended(_) => false,
        }
    }

    /// The point of no return, when it was begun and nobody wrote down whether it happened. Running it
    /// again settles it, unless the host restarted: then look at what booted, and append [`Record::Done`]
    /// if it is the new release, before [`Record::Rebooted`].
    pub fn in_doubt(&self) -> Option<StepIndex> {
        let begun = |i: &usize| self.plan[*i].no_return && self.steps[*i] == StepState::Started;
        (0..self.steps.len()).find(begun)
    }

    /// Whether the host restarted in the middle: an undo then carries out only what
    /// [`Action::outlives_reboot`](crate::action::Action::outlives_reboot).
    pub fn rebooted(&self) -> bool {
        self.rebooted
    }

    /// Whether an abort can still be taken.
    pub fn can_abort(&self) -> bool {
        !self.crossed && self.in_doubt().is_none() && self.failure.is_none() && self.verdict.is_none()
    }

    /// The failure to report for a verdict that is not as asked.
    pub fn reported(&self) -> Option<ErrorBody> {
        Some(self.with_migration(self.first_reported()?))
    }

    /// What became of the migration, which no undo takes back.
    fn with_migration(&self, mut body: ErrorBody) -> ErrorBody {
        match self.migrated {
            Migrated::No | Migrated::Failed => body,
            Migrated::Applied => body.cause("kept", "its migration ran to its end and stays applied"),
            Migrated::Begun => {
                let next = format!(
                    "look whether its migration was applied before you go on ({}); ",
                    self.migration_logs
                );
                body.hint.insert_str(0, &next);
                let lost =
                    "its migration had begun and its end was not seen: it may be applied, in part, or not";
                body.cause("kept", lost)
            }
        }
    }

    fn first_reported(&self) -> Option<ErrorBody> {
        if self.failure.is_none() && self.whole {
            let mut body = self.leftovers.first().cloned()?;
            body.code = ErrorCode::Stuck;
            return Some(body);
        }
        let first = self.failure.clone()?;
        if !self.undo_failed {
            return Some(first);
        }
        let (what, next) = if self.kept {
            let what = "and what it replaced could not be brought back, so it keeps the traffic".to_owned();
            (what, "mend what the causes name, then push again; deployd-ctl doctor looks at the whole host")
        } else {
            let what = format!("and undoing it did not work in {} place(s)", self.leftovers.len());
            (what, "mend what the causes name, then: deployd-ctl doctor")
        };
        let mut body = ErrorBody::new(ErrorCode::Stuck, format!("{}, {what}", first.message), next);
        body.causes = first.causes;
        for l in &self.leftovers {
            body.causes.push(("left".to_owned(), l.message.clone()));
            body.causes.extend(l.causes.iter().map(|(_, text)| ("left".to_owned(), text.clone())));
            body.causes.push(("mend".to_owned(), l.hint.clone()));
        }
        Some(body)
    }
}
