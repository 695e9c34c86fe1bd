//! The loop of the agent, with a fault at any point: decision → record → effect → record.

use std::collections::BTreeSet;
use std::sync::Arc;

use deployd_api::deployment::{Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::Timestamp;
use deployd_core::action::Action;
use deployd_core::journal::Record;
use deployd_core::lint::lint;
use deployd_core::machine::{Decision, Progress, StepState};
use deployd_core::plan::{Plan, drained_when, plan_drain, plan_drained};
use deployd_core::state::AppState;
use deployd_core::units::{self, Activation};

use crate::sim::Host;

/// A place in a run where something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Between two steps.
    Between,
    /// The intent is durable; the effect has not begun.
    Before(usize),
    /// The effect happened; nobody wrote it down.
    After(usize),
    /// The same, for an action of an undo.
    BeforeUndo(usize),
    AfterUndo(usize),
    /// An undo is written down.
    BetweenUndos,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Fail,
    Crash { lost: bool },
    Reboot,
    Abort,
    Supersede,
}

/// How strictly clients are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Somebody ready answers at every moment.
    Always,
    /// Clients may wait: `immediate`, a restart of a single instance.
    MayWait,
    /// What came before left the host in disorder.
    Unwatched,
}

pub(crate) const AT: Timestamp = Timestamp(7);

/// One deployment on one host.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) host: Host,
    pub(crate) first: Arc<AppState>,
    pub(crate) state: AppState,
    pub(crate) plan: Arc<Plan>,
    pub(crate) progress: Progress,
    pub(crate) records: Vec<Record>,
    pub(crate) points: Vec<Point>,
    pub(crate) faults: Vec<(usize, Fault)>,
    pub(crate) serving: Serving,
    pub(crate) twice: bool,
    /// Processes of which two activations must never run at once.
    pub(crate) alone: Vec<String>,
    pub(crate) failed_first: Option<String>,
    pub(crate) undone: Vec<usize>,
}

fn body(code: ErrorCode, text: &str) -> ErrorBody {
    ErrorBody::new(code, text, "look")
}

impl Run {
    pub(crate) fn new(host: Host, state: AppState, plan: Plan, serving: Serving) -> Self {
        let broken = lint(&plan);
        assert!(broken.is_empty(), "lint: {broken:?} in {plan:#?}");
        let progress = Progress::new(&plan);
        Self {
            host,
            first: Arc::new(state.clone()),
            state,
            plan: Arc::new(plan),
            progress,
            records: vec![],
            points: vec![],
            faults: vec![],
            serving,
            twice: false,
            alone: vec![],
            failed_first: None,
            undone: vec![],
        }
    }

    fn append(&mut self, record: Record) {
        self.progress.apply(&record).unwrap_or_else(|e| panic!("{e}"));
        if let Some(change) = record.changes(&self.plan) {
            self.state.apply(&change, AT, self.progress.failure());
        }
        self.records.push(record);
    }

    fn point(&mut self, point: Point) -> Option<Fault> {
        let here = self.points.len();
        self.points.push(point);
        self.faults.iter().find(|(at, _)| *at == here).map(|(_, f)| *f)
    }

    /// Runs to the verdict.
    pub(crate) fn run(&mut self) -> Verdict {
        loop {
            assert!(self.records.len() < 5000, "it never ends");
            match self.progress.next() {
                Decision::Run(step) => self.forward(step),
                Decision::Undo(step) => self.backward(step),
                Decision::Finish(verdict) => self.append(Record::Finished { verdict }),
                Decision::Ended(verdict) => {
                    self.check_replay();
                    self.check_records();
                    self.check_migration();
                    return verdict;
                }
            }
        }
    }

    fn forward(&mut self, step: usize) {
        match self.point(Point::Between) {
            Some(Fault::Abort) => {
                self.note_failure("abort");
                return self.append(Record::Abort { failure: body(ErrorCode::Aborted, "abort") });
            }
            Some(fault) => return self.strike(fault, step),
            None => {}
        }
        self.append(Record::Started { step });
        match self.point(Point::Before(step)) {
            Some(Fault::Supersede) => self.append(Record::Superseded),
            Some(Fault::Abort) => {
                self.note_failure("abort");
                return self.append(Record::Abort { failure: body(ErrorCode::Aborted, "abort") });
            }
            Some(fault) => return self.strike(fault, step),
            None => {}
        }
        let plan = Arc::clone(&self.plan);
        match self.effect(&plan.steps[step].action) {
            Ok(changes) => changes.into_iter().for_each(|change| self.append(Record::Learned { change })),
            Err(why) => return self.fail(step, &why),
        }
        if let Some(fault) = self.point(Point::After(step)) {
            return self.strike(fault, step);
        }
        self.append(Record::Done { step, note: None });
        self.watch_clients();
    }

    fn note_failure(&mut self, why: &str) {
        if !self.progress.crossed() && self.failed_first.is_none() {
            self.failed_first = Some(why.to_owned());
        }
    }

    fn fail(&mut self, step: usize, why: &str) {
        self.note_failure(why);
        self.append(Record::Failed { step, failure: body(ErrorCode::StepFailed, why) });
    }

    fn strike(&mut self, fault: Fault, step: usize) {
        match fault {
            Fault::Fail => self.fail(step, "injected"),
            Fault::Crash { lost } => self.crash(lost),
            Fault::Reboot => self.reboot(),
            Fault::Abort | Fault::Supersede => panic!("{fault:?} here"),
        }
    }

    fn crash(&mut self, lost: bool) {
        self.check_replay();
        self.host.restart_agent(lost);
        self.watch_clients();
    }

    fn reboot(&mut self) {
        let target = units::target(&self.plan.app);
        self.host.reboot(&target);
        if let Some(step) = self.progress.in_doubt()
            && let Action::Commit { target, .. } = &self.plan.steps[step].action
            && self.host.file(&target.path).is_some_and(|text| **text == *target.content)
        {
            self.append(Record::Done { step, note: None });
        }
        self.note_failure("rebooted");
        self.append(Record::Rebooted { failure: body(ErrorCode::Rebooted, "rebooted") });
        self.watch_clients();
    }

    fn backward(&mut self, step: usize) {
        self.append(Record::UndoStarted { step });
        self.undone.push(step);
        let plan = Arc::clone(&self.plan);
        for action in &plan.steps[step].undo {
            if self.progress.rebooted() && !action.outlives_reboot(self.plan.from) {
                continue;
            }
            let is_record = matches!(action, Action::Record { .. });
            match self.point(Point::BeforeUndo(step)).filter(|f| !is_record || *f != Fault::Fail) {
                Some(Fault::Fail) => return self.undo_failed(step, "undo injected"),
                Some(Fault::Crash { lost }) => return self.crash(lost),
                Some(Fault::Reboot) => return self.reboot(),
                _ => {}
            }
            if let Some(change) = action.change_at_start() {
                self.append(Record::Learned { change });
            }
            match self.effect(action) {
                Ok(changes) => changes.into_iter().for_each(|change| self.append(Record::Learned { change })),
                Err(why) => return self.undo_failed(step, &why),
            }
            match self.point(Point::AfterUndo(step)).filter(|f| !is_record || *f != Fault::Fail) {
                Some(Fault::Fail) => return self.undo_failed(step, "undo injected"),
                Some(Fault::Crash { lost }) => return self.crash(lost),
                Some(Fault::Reboot) => return self.reboot(),
                _ => {}
            }
            if let Some(change) = action.change_at_end() {
                self.append(Record::Learned { change });
            }
        }
        self.append(Record::Undone { step });
        match self.point(Point::BetweenUndos) {
            Some(Fault::Crash { lost }) => self.crash(lost),
            Some(Fault::Reboot) => self.reboot(),
            _ => {}
        }
    }

    fn undo_failed(&mut self, step: usize, why: &str) {
        self.append(Record::UndoFailed { step, failure: body(ErrorCode::StepFailed, why) });
    }

    fn effect(&mut self, action: &Action) -> Result<Vec<deployd_core::state::Change>, String> {
        let learned = self.host.execute(action, &self.state)?;
        if self.twice {
            let once = self.host.summary();
            // The second time finds the state as the first one left it.
            let mut state = self.state.clone();
            for change in &learned {
                state.apply(change, AT, None);
            }
            self.host.execute(action, &state)?;
            assert_eq!(once, self.host.summary(), "{action:?} is not idempotent");
        }
        self.watch_clients();
        Ok(learned)
    }

    /// After every action: whoever connects is served, or at least waits where that is allowed.
    fn watch_clients(&mut self) {
        // Before its first commit an app does not boot: that is the design.
        let nothing_boots = self.progress.rebooted() && self.plan.from.is_none() && !self.progress.crossed();
        // `immediate` that is undone while the agent dies with its FDSTORE: only it held the queue.
        let lost = self.faults.iter().any(|(_, f)| *f == Fault::Crash { lost: true });
        let nobody_held = lost && self.serving == Serving::MayWait && self.progress.failure().is_some();
        let ends = matches!(self.plan.kind, Kind::Stop | Kind::Remove) && self.progress.crossed();
        // A new release that stays because the old one could not be brought back serves all the same.
        let undo_failed =
            self.progress.steps().contains(&StepState::UndoFailed) && !self.progress.keeps_new();
        let back = self.progress.rebooted() && !self.progress.crossed();
        let live = if back { self.plan.from } else { self.state.live };
        if self.serving == Serving::Unwatched {
            return;
        }
        if !(ends || nothing_boots || nobody_held || undo_failed)
            && let Some(tag) = live.filter(|_| !self.state.stopped)
        {
            let release = &self.state.releases[&tag.label];
            let strict = self.serving == Serving::Always;
            let to = self.plan.to.and_then(|tag| {
                let release = self.state.releases.get(&tag.label)?;
                Some(Activation { tag, release }.sockets())
            });
            for socket in (Activation { tag, release }).sockets() {
                // `immediate` gives up at once what the next release does not have.
                let goes = to.as_ref().is_some_and(|t| !t.iter().any(|s| s.address == socket.address));
                if !strict && goes {
                    continue;
                }
                if let Some(complaint) = self.host.complaint(&socket, strict) {
                    panic!("{complaint}\n{}", self.story());
                }
            }
        }
        self.host.connect_everywhere();
        // What could not be stopped may be left without.
        let clean = self.progress.leftovers().is_empty();
        if let Some(node) = self.host.nameless_node().filter(|_| clean) {
            panic!("{node} runs without epmd\n{}", self.story());
        }
        for prefix in self.alone.iter().filter(|_| !undo_failed) {
            let runs = self.host.runs(prefix);
            assert!(runs.len() <= 1, "{prefix} runs twice: {runs:?}\n{}", self.story());
        }
    }

    /// Replays from the first record, and compares every prefix's end with what the run has now.
    fn check_replay(&self) {
        let progress = Progress::replay(&self.plan, &self.records).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(progress, self.progress, "replay");
        let mut state = AppState::clone(&self.first);
        let mut p = Progress::new(&self.plan);
        for record in &self.records {
            p.apply(record).unwrap_or_else(|e| panic!("{e}"));
            if let Some(change) = record.changes(&self.plan) {
                state.apply(&change, AT, p.failure());
            }
        }
        assert_eq!(state, self.state, "replay of the app's state");
    }

    /// The properties that can be read off the records alone.
    fn check_records(&self) {
        let mut begun = Vec::new();
        let mut crossed = false;
        let mut undo: Vec<usize> = Vec::new();
        for record in &self.records {
            match record {
                Record::Started { step } if !begun.contains(step) => begun.push(*step),
                Record::Done { step, .. } => crossed |= self.plan.steps[*step].no_return,
                Record::UndoStarted { step } => {
                    assert!(!crossed, "undone after the point of no return");
                    assert!(begun.contains(step), "undone without having begun");
                    if undo.last() != Some(step) {
                        undo.push(*step);
                    }
                }
                _ => {}
            }
        }
        let place = |s: &usize| begun.iter().position(|b| b == s);
        assert!(undo.windows(2).all(|w| place(&w[0]) > place(&w[1])), "undo order {undo:?}");
        // What stops or removes and does not come to its end undoes nothing: it may be asked for again.
        let forward = crossed && matches!(self.plan.kind, Kind::Stop | Kind::Remove);
        if self.progress.verdict() != Some(Verdict::Committed) && !forward {
            let expected: Vec<usize> =
                begun.iter().copied().filter(|s| !self.plan.steps[*s].undo.is_empty()).collect();
            let gate = undo.last().filter(|_| self.progress.keeps_new()).and_then(place);
            let expected = expected.into_iter().filter(|s| place(s) >= gate).collect::<BTreeSet<_>>();
            assert_eq!(undo.iter().copied().collect::<BTreeSet<_>>(), expected, "every undo runs");
            let failure = self.progress.failure().map(|f| f.message.clone());
            assert_eq!(failure, self.failed_first, "the first failure is told");
        }
        let undo_failed = self.progress.steps().contains(&StepState::UndoFailed);
        let stuck = self.progress.verdict() == Some(Verdict::Stuck);
        let ended_early = forward && !self.progress.leftovers().is_empty();
        assert_eq!(
            stuck,
            undo_failed || ended_early,
            "stuck exactly when an undo failed, or what was asked for did"
        );
    }

    /// A migration runs once, whatever happens around it, and nothing of it stays but what it did.
    fn check_migration(&self) {
        let twice: Vec<_> = self.host.applied().iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{twice:?}\n{}", self.story());
        let Some(step) = self.plan.steps.iter().position(|s| matches!(s.action, Action::Migrate { .. }))
        else {
            return;
        };
        let Action::Migrate { unit, .. } = &self.plan.steps[step].action else { return };
        let ran = self.host.applied().contains_key(unit);
        let committed = self.progress.verdict() == Some(Verdict::Committed);
        assert!(ran || !committed, "live without its migration\n{}", self.story());
        let done = self.records.iter().any(|r| matches!(r, Record::Done { step: s, .. } if *s == step));
        let failed = self.records.iter().any(|r| matches!(r, Record::Failed { step: s, .. } if *s == step));
        if let Some(told) = self.progress.reported().filter(|_| ran && !failed) {
            let kept = told.causes.iter().any(|(heading, _)| heading == "kept");
            assert!(kept, "{told:?}\n{}", self.story());
            assert_eq!(told.hint.contains("--instance migrate"), !done, "{}", told.hint);
        }
    }

    pub(crate) fn story(&self) -> String {
        let mut out = format!("{:?} {:?}\n", self.plan.kind, self.faults);
        for record in &self.records {
            let text = match record {
                Record::Started { step } | Record::UndoStarted { step } => {
                    self.plan.steps[*step].action.text()
                }
                _ => String::new(),
            };
            out.push_str(&format!("{record:?} {text}\n"));
        }
        out
    }
}

/// What the agent's janitor does later: what was told to end ends, then its leavings go.
pub(crate) fn tidy(host: &mut Host, state: &mut AppState) {
    for tag in state.draining.clone() {
        for action in plan_drain(state, tag) {
            host.execute(&action, state).unwrap_or_else(|e| panic!("tidy: {e}"));
        }
    }
    host.let_end();
    for tag in state.draining.clone() {
        for instance in drained_when(state, tag) {
            assert!(!host.is_active(&instance.unit), "{} drains and was never told to end", instance.unit);
        }
        for action in plan_drained(state, tag) {
            let learned = host.execute(&action, state).unwrap_or_else(|e| panic!("tidy: {e}"));
            let changes = learned.into_iter().chain(action.change_at_end());
            changes.for_each(|c| state.apply(&c, AT, None));
        }
    }
}
