//! A deployment as seen from outside, folded from its plan and records: the wire types of
//! `deployd_api::deployment` and `deployd_api::event`.

pub mod story;

use deployd_api::deployment::{Deployment, Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::event::{Event, StepInfo, What};
use deployd_api::ids::{AppName, DeploymentId, Label, Timestamp};
use deployd_api::release::Origin;
use deployd_api::spec::Strategy;
use deployd_core::action::Action;
use deployd_core::journal::{Entry, Record, StepIndex};
use deployd_core::machine::{Decision, Progress};
use deployd_core::plan::{Phase, Plan, Request, Warm};
use deployd_core::state::Change;

use crate::store::journal::{DeploymentRow, RecordRow};

/// A plan and its records, read back and replayed.
#[derive(Debug)]
pub struct Story {
    /// What was to be done.
    pub plan: Plan,
    /// What happened, numbered.
    pub entries: Vec<(u64, Entry)>,
    /// Where that leads.
    pub progress: Progress,
}

fn unreadable(what: &str, e: &dyn std::fmt::Display) -> ErrorBody {
    let message = format!("failed to read {what} of the journal: {e}");
    ErrorBody::new(ErrorCode::Internal, message, "install the deployd that wrote it, or a newer one")
}

impl Story {
    /// Reads a deployment's rows. A record that cannot follow is an error, never skipped.
    pub fn read(row: &DeploymentRow, rows: &[RecordRow]) -> Result<Self, ErrorBody> {
        let plan: Plan = serde_json::from_str(&row.new.plan).map_err(|e| unreadable("a plan", &e))?;
        if plan.format != deployd_core::journal::FORMAT {
            return Err(unreadable("a plan", &format!("its format is {}", plan.format)));
        }
        let entries = rows.iter().map(|r| Ok((r.seq, serde_json::from_str(&r.record)?)));
        let entries: Vec<(u64, Entry)> =
            entries.collect::<Result<_, serde_json::Error>>().map_err(|e| unreadable("a record", &e))?;
        let progress = Progress::replay(&plan, entries.iter().map(|(_, e)| &e.record))
            .map_err(|e| unreadable("a record", &e))?;
        Ok(Self { plan, entries, progress })
    }

    /// When the release had all traffic and had passed `min_healthy`.
    fn live_at(&self) -> Option<Timestamp> {
        self.entries.iter().find_map(|(_, e)| match e.record {
            Record::Done { step, .. } if is_mark_live(&self.plan, step) => Some(e.at),
            _ => None,
        })
    }

    fn watched_until(&self) -> Option<Timestamp> {
        let live = self.live_at()?;
        (self.plan.monitor.0 > 0).then(|| Timestamp(live.0 + self.plan.monitor.0))
    }

    /// The events after a number, each as the row that caused it.
    pub fn events(&self, row: &DeploymentRow, after: Option<u64>) -> Vec<Event> {
        let mut out = Vec::new();
        let accepted = What::Accepted { label: row.new.label, steps: self.plan.steps.len() as u32 };
        out.push(Event { seq: 0, at: row.new.started, what: accepted });
        let mut began = std::collections::HashMap::new();
        for (seq, entry) in &self.entries {
            if let Record::Started { step } | Record::UndoStarted { step } = entry.record {
                began.insert(step, entry.up_ms);
            }
            if let Some(what) = self.event(entry, &began, row) {
                out.push(Event { seq: *seq, at: entry.at, what });
            }
        }
        out.retain(|e| after.is_none_or(|a| e.seq > a));
        out
    }

    /// The step that gives the candidate the traffic has a word of its own.
    fn kind(&self, step: StepIndex) -> &'static str {
        if self.is_switch(step) { "shift" } else { self.plan.steps[step].action.kind() }
    }

    fn is_switch(&self, step: StepIndex) -> bool {
        let step = &self.plan.steps[step];
        let towards = matches!(step.action, Action::Steer { to, .. } if Some(to) == self.plan.to);
        // In later phases the switch is only made sure of, for what a restart of the host took away.
        towards && matches!(step.phase, Phase::Socket | Phase::Weights)
    }

    fn info(&self, step: StepIndex) -> StepInfo {
        let action = &self.plan.steps[step].action;
        StepInfo {
            step: step as u32,
            kind: self.kind(step).to_owned(),
            object: action.object(),
            release: action.release(),
            text: action.text(),
        }
    }

    /// What the undo of a step does.
    fn undo_info(&self, step: StepIndex) -> StepInfo {
        let text = self.plan.steps[step].undo.iter().map(Action::text).collect::<Vec<_>>().join("; ");
        StepInfo { text, ..self.info(step) }
    }

    /// What becomes of the old release once the new one has the traffic.
    fn old_stays(&self) -> Option<String> {
        self.plan.from?;
        let words = match (self.plan.strategy, self.plan.warm) {
            (Strategy::Immediate, _) => "to stop",
            (Strategy::Rolling, Warm::Yes) => "warm",
            (Strategy::Rolling, Warm::None) => "to drain",
            (Strategy::Rolling, Warm::NoMemory) => "to stop, no memory for two",
        };
        Some(words.to_owned())
    }

    /// The same once it is live, with the connections that were counted then.
    fn old_at_live(&self, counted: Option<&String>) -> Option<String> {
        if self.plan.strategy == Strategy::Immediate {
            return self.plan.from.map(|_| "stopped".to_owned());
        }
        let stays = self.old_stays()?;
        Some(counted.map_or_else(|| stays.clone(), |conns| format!("{stays}, {conns}")))
    }

    /// What is done now, in words.
    fn now(&self) -> Option<String> {
        let text = |step: StepIndex| self.plan.steps[step].action.text();
        match self.progress.next() {
            Decision::Run(step) => Some(text(step)),
            Decision::Undo(step) => Some(format!("undo: {}", text(step))),
            Decision::Finish(_) | Decision::Ended(_) => None,
        }
    }

    fn event(
        &self,
        entry: &Entry,
        began: &std::collections::HashMap<StepIndex, u64>,
        row: &DeploymentRow,
    ) -> Option<What> {
        Some(match &entry.record {
            Record::Started { step } => What::StepStarted { info: self.info(*step) },
            Record::Done { step, note } if is_mark_live(&self.plan, *step) => {
                let label = self.plan.to?.label;
                let old = self.old_at_live(note.as_ref());
                What::Live { label, watched_until: self.watched_until(), old }
            }
            Record::Done { step, note } => {
                let took_ms = began.get(step).map_or(0, |b| entry.up_ms.saturating_sub(*b));
                let note = if self.is_switch(*step) { self.old_stays() } else { note.clone() };
                What::StepDone { info: self.info(*step), took_ms, note }
            }
            Record::Failed { step, failure } => {
                What::StepFailed { info: self.info(*step), failure: failure.clone() }
            }
            Record::Undone { step } => What::StepUndone { info: self.undo_info(*step) },
            Record::UndoFailed { step, failure } => {
                What::Note { text: format!("undoing {} failed: {}", self.kind(*step), failure.message) }
            }
            Record::Abort { failure } => What::Note { text: format!("to be undone: {}", failure.message) },
            Record::Rebooted { .. } => What::Note { text: "the host was restarted".to_owned() },
            Record::Superseded => What::Note { text: "a newer deployment ended the watch".to_owned() },
            Record::UndoStarted { .. } | Record::Learned { .. } => return None,
            Record::Finished { verdict } => {
                let failure = row.finish.as_ref().and_then(|f| f.failure.as_ref());
                let failure = failure.and_then(|f| serde_json::from_str(f).ok());
                What::Finished { verdict: *verdict, failure: failure.or_else(|| self.progress.reported()) }
            }
            Record::Note { text } => What::Note { text: text.clone() },
        })
    }
}

fn is_mark_live(plan: &Plan, step: StepIndex) -> bool {
    matches!(plan.steps[step].action, Action::Record { change: Change::Live { .. } })
}

/// A deployment as the API answers it.
pub fn deployment(row: &DeploymentRow, rows: &[RecordRow]) -> Result<Deployment, ErrorBody> {
    let story = Story::read(row, rows)?;
    let origin = serde_json::from_str(&row.new.request).unwrap_or_default();
    let step = story.now();
    Ok(Deployment {
        id: row.new.id.clone(),
        app: row.new.app.clone(),
        kind: story.plan.kind,
        label: row.new.label,
        replaces: story.plan.from.map(|t| t.label),
        origin,
        started: row.new.started,
        step,
        live: story.live_at().is_some() && story.progress.failure().is_none(),
        watched_until: story.watched_until(),
        verdict: story.progress.verdict(),
        failure: story.progress.reported(),
    })
}

/// The answer when it is so already.
pub fn nothing(
    app: &AppName,
    id: DeploymentId,
    request: &Request,
    live: Label,
    origin: Origin,
) -> Deployment {
    let kind = match request {
        Request::Push(_) => Kind::Push,
        Request::Rollback { .. } => Kind::Rollback,
        Request::Start => Kind::Start,
        Request::Stop => Kind::Stop,
        Request::Restart => Kind::Restart,
        Request::Remove => Kind::Remove,
    };
    Deployment {
        id,
        app: app.clone(),
        kind,
        label: Some(live),
        replaces: Some(live),
        origin,
        started: crate::driver::clock::now(),
        step: None,
        live: true,
        watched_until: None,
        verdict: Some(Verdict::Committed),
        failure: None,
    }
}
