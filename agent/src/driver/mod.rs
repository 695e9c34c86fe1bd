//! The loop that carries a deployment out: decision → intent → effect → outcome, until a verdict.
//!
//! The only module that sees both the state machine and the effects. It decides nothing: what comes next
//! is [`Progress::next`], what is done is the plan's action, what a failure means is the machine's. A
//! record that cannot be written stops the run; the next start of the agent goes on from the last one.

pub mod clock;
pub mod hold;
pub mod port;
pub mod record;

use std::time::Duration;

use deployd_api::deployment::Verdict;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::spec::Millis;
use deployd_core::action::Action;
use deployd_core::journal::{Record, StepIndex};
use deployd_core::machine::{Decision, Progress};
use deployd_core::plan::{self, Plan};
use deployd_core::state::Change;
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use port::{Done, Port, Run};
pub use record::{Recorder, SharedState};

use crate::store::StoreError;

/// What may be said to a running deployment.
#[derive(Debug)]
pub enum Control {
    /// A newer push ends the watch as if it had passed.
    Supersede,
    /// It is to be undone, for this reason.
    Abort(Box<ErrorBody>),
}

/// One deployment, and everything needed to carry it out.
#[derive(Debug)]
pub struct Driver<P> {
    /// What is to be done.
    pub plan: Plan,
    /// What has happened.
    pub progress: Progress,
    /// Where it is written down.
    pub recorder: Recorder,
    /// Who does it.
    pub port: P,
    /// What is said to it.
    control: mpsc::Receiver<Control>,
    /// A newer push came before the watch: it ends as soon as it begins.
    superseded: bool,
    /// It is to be undone, and that is not written down yet.
    asked: Option<ErrorBody>,
}

/// How a step ended.
enum Outcome {
    Done(Done),
    Failed(ErrorBody),
    Superseded,
    /// A wait, left because the deployment is to be undone.
    Left,
}

impl<P: Port> Driver<P> {
    /// A deployment as it stands.
    pub fn new(
        plan: Plan,
        progress: Progress,
        recorder: Recorder,
        port: P,
        control: mpsc::Receiver<Control>,
    ) -> Self {
        Self { plan, progress, recorder, port, control, superseded: false, asked: None }
    }

    /// Runs to the verdict. After an error it may be run again, from what the journal holds.
    pub async fn run(&mut self) -> Result<Verdict, StoreError> {
        loop {
            match self.progress.next() {
                Decision::Run(step) => self.step(step).await?,
                Decision::Undo(step) => self.undo(step).await?,
                Decision::Finish(verdict) => self.finish(verdict).await?,
                Decision::Ended(verdict) => return Ok(verdict),
            }
        }
    }

    async fn write(&mut self, record: Record) -> Result<(), StoreError> {
        if let Err(e) = self.progress.apply(&record) {
            // Only a defect of ours gets here. Nothing is done that the journal would not explain.
            warn!(error = %e, "illegal record");
            return Err(StoreError::Closed);
        }
        let reported = self.progress.reported();
        self.recorder.append(&self.plan, record, reported.as_ref()).await
    }

    async fn learn(&mut self, change: Option<Change>) -> Result<(), StoreError> {
        match change {
            Some(change) => self.write(Record::Learned { change }).await,
            None => Ok(()),
        }
    }

    async fn step(&mut self, index: StepIndex) -> Result<(), StoreError> {
        // What was asked while nothing could be left, or before we began.
        while let Ok(message) = self.control.try_recv() {
            match message {
                Control::Supersede => self.superseded = true,
                Control::Abort(failure) => self.asked = Some(*failure),
            }
        }
        if self.asked.is_some() {
            return self.abort().await;
        }
        let step = self.plan.steps[index].clone();
        info!(step = index, kind = step.action.kind(), "{}", step.action.text());
        self.write(Record::Started { step: index }).await?;
        let elapsed = self.recorder.elapsed(index).await?;
        let run = Run { elapsed, state: self.recorder.state.clone() };
        let passed = Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let deadline = Duration::from(plan::deadline_after(&step.action, passed)).max(AT_LEAST);
        let outcome = if self.superseded && step.is_supersedable() {
            Outcome::Superseded
        } else {
            self.carry_out(&step.action, &run, deadline).await
        };
        match outcome {
            Outcome::Done(done) => {
                self.learn(done.learned).await?;
                self.write(Record::Done { step: index, note: done.note }).await?;
            }
            Outcome::Failed(failure) if self.asked.is_none() => {
                warn!(step = index, kind = step.action.kind(), code = %failure.code, "{}", failure.message);
                self.write(Record::Failed { step: index, failure }).await?;
            }
            // What was asked while the step could not be left comes first: its undo knows what to do.
            Outcome::Failed(_) | Outcome::Left => {}
            Outcome::Superseded => {
                self.write(Record::Superseded).await?;
                let note = Some("a newer deployment ended the watch".to_owned());
                self.write(Record::Done { step: index, note }).await?;
            }
        }
        self.abort().await
    }

    /// What was asked, if anything was. The commit may have been crossed meanwhile: then it comes too late, and is told.
    async fn abort(&mut self) -> Result<(), StoreError> {
        let Some(failure) = self.asked.clone() else { return Ok(()) };
        let record = if self.progress.can_abort() {
            Record::Abort { failure }
        } else {
            Record::Note { text: format!("too late to undo: {}", failure.message) }
        };
        self.write(record).await?;
        // Only now: a record that cannot be written must not lose it.
        self.asked = None;
        Ok(())
    }

    async fn carry_out(&mut self, action: &Action, run: &Run, deadline: Duration) -> Outcome {
        let supersedable = matches!(action, Action::Watch { supersedable: true, .. });
        let work = limited(&self.port, action, run, deadline);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result.map_or_else(Outcome::Failed, Outcome::Done),
                Some(message) = self.control.recv() => match message {
                    Control::Supersede if supersedable => return Outcome::Superseded,
                    Control::Supersede => self.superseded = true,
                    Control::Abort(failure) => {
                        self.asked = Some(*failure);
                        if is_wait(action) {
                            return Outcome::Left;
                        }
                    }
                },
            }
        }
    }

    async fn undo(&mut self, index: StepIndex) -> Result<(), StoreError> {
        let step = self.plan.steps[index].clone();
        info!(step = index, kind = step.action.kind(), "undo: {}", step.action.text());
        self.write(Record::UndoStarted { step: index }).await?;
        let mut first = None;
        for action in &step.undo {
            let run = Run { elapsed: Duration::ZERO, state: self.recorder.state.clone() };
            if self.progress.rebooted() && !action.outlives_reboot(self.plan.from) {
                continue;
            }
            self.learn(action.change_at_start()).await?;
            let deadline = Duration::from(plan::deadline(action));
            match limited(&self.port, action, &run, deadline).await {
                Ok(done) => {
                    self.learn(done.learned).await?;
                    self.learn(action.change_at_end()).await?;
                }
                Err(e) => {
                    warn!(step = index, kind = action.kind(), code = %e.code, "undo failed: {}", e.message);
                    // The rest of the undo still runs: one thing that is stuck is no reason to leave more.
                    first.get_or_insert(e);
                }
            }
        }
        match first {
            None => self.write(Record::Undone { step: index }).await,
            Some(failure) => self.write(Record::UndoFailed { step: index, failure }).await,
        }
    }

    async fn finish(&mut self, verdict: Verdict) -> Result<(), StoreError> {
        self.write(Record::Finished { verdict }).await?;
        info!(%verdict, "finished");
        Ok(())
    }
}

/// A step that a crash interrupted near its deadline still gets this long.
const AT_LEAST: Duration = Duration::from_secs(5);

/// Actions that only wait: they can be left in the middle without anything half done.
fn is_wait(action: &Action) -> bool {
    matches!(
        action,
        Action::Check { .. }
            | Action::LearnNonblocking { .. }
            | Action::AwaitPort { .. }
            | Action::Watch { .. }
            | Action::AwaitEmptyQueue { .. }
            | Action::StartInstance { .. }
    )
}

/// Carries an action out, and fails when it takes longer than it may.
pub(crate) async fn limited<P: Port>(
    port: &P,
    action: &Action,
    run: &Run,
    deadline: Duration,
) -> Result<Done, ErrorBody> {
    match tokio::time::timeout(deadline, port.apply(action, run)).await {
        Ok(result) => result,
        Err(_) => Err(ErrorBody::new(
            ErrorCode::StepFailed,
            format!("{} did not end within {} s", action.text(), deadline.as_secs()),
            "look at the host: deployd-ctl doctor, journalctl -u deployd",
        )),
    }
}
