//! Writing a deployment down: each record with the change of the app's state that it causes, in one
//! transaction.

use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_api::ids::DeploymentId;
use deployd_core::action::Action;
use deployd_core::journal::{Entry, Record, StepIndex};
use deployd_core::state::{AppState, Change};
use tokio::sync::{Mutex, watch};

use super::clock;
use super::hold::Hold;
use super::port::Done;
use crate::store::journal::{Append, Finish, RecordRow};
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
    /// Appends a record; `action` is what began or ended with it.
    pub async fn append(
        &mut self,
        record: Record,
        action: Option<(&Action, &Done)>,
        reported: Option<&ErrorBody>,
    ) -> Result<(), StoreError> {
        let (seq, at) = (self.seq + 1, clock::now());
        if let Some(hold) = self.hold {
            hold.here(Hold::Before(seq)).await;
        }
        let mut state = self.state.lock().await;
        let mut next = state.clone();
        let changes = match (&record, action) {
            (Record::Started { .. }, Some((action, _))) => action.change_at_start().into_iter().collect(),
            (Record::Done { .. }, Some((action, done))) => changes_at_end(action, done),
            _ => Vec::new(),
        };
        for change in &changes {
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
        let entry = Entry { at, up_ms: clock::up_ms(), record };
        let app_state = if changes.is_empty() { None } else { Some((next.app.clone(), to_json(&next)?)) };
        let row = RecordRow { seq, at, record: to_json(&entry)? };
        self.store.append(Append { deployment: self.id.clone(), row, app_state, finish }).await?;
        *state = next;
        drop(state);
        self.seq = seq;
        self.news.send_modify(|n| *n += 1);
        if let Some(hold) = self.hold {
            hold.here(Hold::After(seq)).await;
        }
        if matches!(action, Some((Action::ForgetApp { .. }, _)))
            && matches!(entry.record, Record::Done { .. })
        {
            let app = self.state.lock().await.app.clone();
            self.store.delete_app(&app).await?;
        }
        Ok(())
    }

    /// Changes the app's state outside of a record: within an undo, whose record comes at its end.
    pub async fn change(&mut self, change: &Change, failure: Option<&ErrorBody>) -> Result<(), StoreError> {
        save(&self.store, &self.state, std::slice::from_ref(change), failure).await
    }

    /// The changes of an undo's action that is done.
    pub async fn changes(
        &mut self,
        action: &Action,
        done: &Done,
        failure: Option<&ErrorBody>,
    ) -> Result<(), StoreError> {
        save(&self.store, &self.state, &changes_at_end(action, done), failure).await
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

fn changes_at_end(action: &Action, done: &Done) -> Vec<Change> {
    action.change_at_end().into_iter().chain(done.learned.clone()).collect()
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
