//! Writing a deployment down: each record with the change of the app's state that it causes, in one
//! transaction.

use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_api::ids::DeploymentId;
use deployd_core::action::Action;
use deployd_core::journal::{Entry, Record, StepIndex};
use deployd_core::plan::Plan;
use deployd_core::state::{AppState, Change};
use tokio::sync::{Mutex, watch};

use super::clock;
use super::hold::Hold;
use crate::store::journal::{AppChange, Append, Finish, RecordRow};
use crate::store::{Store, StoreError};

/// What the host knows of an app, shared by its deployment, the janitor and whoever asks for its status.
pub type SharedState = Arc<Mutex<AppState>>;

/// Writes the records of one deployment.
#[derive(Debug)]
pub struct Recorder {
    /// Which.
    pub id: DeploymentId,
    /// Where.
    pub store: Store,
    /// The app's state.
    pub state: SharedState,
    /// The number of the last record.
    pub seq: u64,
    /// Tells readers of events that there is more.
    pub news: watch::Sender<u64>,
    /// Where tests want the agent to stand still.
    pub hold: Option<Hold>,
}

impl Recorder {
    /// Appends a record, with the change of state that it causes.
    pub async fn append(
        &mut self,
        plan: &Plan,
        record: Record,
        reported: Option<&ErrorBody>,
    ) -> Result<(), StoreError> {
        let (seq, at) = (self.seq + 1, clock::now());
        self.stand(Hold::Before(seq)).await;
        let mut state = self.state.lock().await;
        let mut next = state.clone();
        let change = record.changes(plan);
        if let Some(change) = &change {
            next.apply(change, at, reported);
        }
        let finish = match &record {
            Record::Finished { verdict } => Some(Finish {
                verdict: verdict.to_string(),
                finished: at,
                failure: reported.map(to_json).transpose()?,
            }),
            _ => None,
        };
        let app = match change.filter(|_| next.is_taken_in()) {
            _ if is_forgotten(plan, &record) => {
                let app = next.app.clone();
                // Whoever still has it at hand finds an app that nobody has taken in.
                next = AppState::new(app.clone(), AppState::NOT_TAKEN_IN);
                Some(AppChange::Gone(app))
            }
            Some(_) => Some(AppChange::Is(next.app.clone(), to_json(&next)?)),
            None => None,
        };
        let entry = Entry { at, up_ms: clock::up_ms(), record };
        let row = RecordRow { seq, at, record: to_json(&entry)? };
        self.store.append(Append { deployment: self.id.clone(), row, app, finish }).await?;
        *state = next;
        drop(state);
        self.seq = seq;
        self.news.send_modify(|n| *n += 1);
        self.stand(Hold::After(seq)).await;
        Ok(())
    }

    async fn stand(&self, place: Hold) {
        if let Some(hold) = self.hold {
            hold.here(place).await;
        }
    }

    /// When a step was first begun, on the boot's clock.
    pub async fn began(&self, step: StepIndex) -> Result<Option<u64>, StoreError> {
        let rows = self.store.load(&self.id).await?;
        let begun = rows.iter().filter_map(|r| serde_json::from_str::<Entry>(&r.record).ok());
        Ok(begun
            .filter(|e| matches!(&e.record, Record::Started { step: s } if *s == step))
            .map(|e| e.up_ms)
            .next())
    }

    /// How long ago a step was first begun.
    pub async fn elapsed(&self, step: StepIndex) -> Result<Duration, StoreError> {
        let began = self.began(step).await?;
        Ok(began.map_or(Duration::ZERO, |b| Duration::from_millis(clock::up_ms().saturating_sub(b))))
    }
}

/// Whether the record says that the app is gone.
fn is_forgotten(plan: &Plan, record: &Record) -> bool {
    let action = match record {
        Record::Done { step, .. } => plan.steps.get(*step).map(|s| &s.action),
        _ => None,
    };
    matches!(action, Some(Action::ForgetApp { .. }))
}

/// Applies changes and makes the result durable, or neither.
pub async fn save(
    store: &Store,
    state: &SharedState,
    changes: &[Change],
    failure: Option<&ErrorBody>,
) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let at = clock::now();
    let mut state = state.lock().await;
    let mut next = state.clone();
    for change in changes {
        next.apply(change, at, failure);
    }
    store.put_app(&next.app, to_json(&next)?, at).await?;
    *state = next;
    Ok(())
}

/// Our own types always serialise; if one ever did not, the record is refused like any other failure.
fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Closed)
}
