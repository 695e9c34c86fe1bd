//! What the agent does first: goes on with, or undoes, what its end interrupted.
//!
//! There is no recovery path of its own. The records are folded, and the same driver runs on from there.
//! Only a reboot adds something: before the commit the old release has booted, so the deployment is
//! undone, with the reason `rebooted`.

use std::sync::Arc;

use deployd_api::deployment::Verdict;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_core::journal::{Entry, Record};
use deployd_core::machine::Progress;
use deployd_core::state::{AppState, Change};
use tracing::{error, info};

use crate::driver::{Port, clock, record};
use crate::store::journal::{Append, DeploymentRow, Finish, RecordRow};
use crate::store::{Store, StoreError};
use crate::supervisor::{Observer, Supervisor};
use crate::view::Story;

/// Takes up every deployment without a verdict.
pub async fn recover<H: Port + Observer>(supervisor: &Arc<Supervisor<H>>) -> Result<(), StoreError> {
    let store = supervisor.store();
    let boot_id = supervisor.host().boot_id();
    if store.get_meta(BOOT.to_owned()).await?.is_some_and(|b| b != boot_id) {
        info!("the host was restarted");
        forget_groups(supervisor).await?;
    }
    store.put_meta(BOOT.to_owned(), boot_id.clone()).await?;
    for row in store.unfinished().await? {
        let rows = store.load(&row.new.id).await?;
        match Story::read(&row, &rows) {
            Ok(story) => take_up(supervisor, &boot_id, &row, story).await?,
            Err(e) => give_up(store, &row, &e).await?,
        }
    }
    Ok(())
}

/// The boot that the agent last ran in.
const BOOT: &str = "boot_id";

/// After a reboot only what is committed has sockets; every program is gone with them.
async fn forget_groups<H: Port + Observer>(supervisor: &Arc<Supervisor<H>>) -> Result<(), StoreError> {
    for (_, state) in supervisor.apps().await {
        let gone: Vec<Change> = {
            let state: &AppState = &*state.lock().await;
            let boots = state.committed.filter(|_| !state.stopped);
            let members = state.groups.iter().flat_map(|(l, tags)| tags.iter().map(move |t| (l, *t)));
            members
                .filter(|(_, t)| Some(*t) != boots)
                .map(|(listener, tag)| Change::Left { listener: listener.clone(), tag })
                .collect()
        };
        record::save(supervisor.store(), &state, &gone, None).await?;
    }
    Ok(())
}

async fn take_up<H: Port + Observer>(
    supervisor: &Arc<Supervisor<H>>,
    boot_id: &str,
    row: &DeploymentRow,
    story: Story,
) -> Result<(), StoreError> {
    let Story { plan, mut progress, .. } = story;
    let mut seq = row.last_seq;
    let id = row.new.id.clone();
    info!(app = %plan.app, id = id.short(), after = seq, "taking up a deployment");
    if row.new.boot_id != boot_id && progress.can_abort() {
        seq += 1;
        note_reboot(supervisor.store(), row, &mut progress, seq).await?;
    }
    if let Err(e) = supervisor.resume(id, plan, progress, seq).await {
        error!(error = %e, "failed to take up a deployment");
    }
    Ok(())
}

async fn note_reboot(
    store: &Store,
    row: &DeploymentRow,
    progress: &mut Progress,
    seq: u64,
) -> Result<(), StoreError> {
    let failure = ErrorBody::new(
        ErrorCode::Rebooted,
        format!("the host was restarted before {} was committed, and booted what was", row.new.app),
        "push again",
    );
    let record = Record::Abort { failure };
    // `can_abort` was asked for: the record is legal.
    drop(progress.apply(&record));
    let at = clock::now();
    let entry = Entry { at, up_ms: clock::up_ms(), record };
    let record = serde_json::to_string(&entry).map_err(|_| StoreError::Closed)?;
    let row = Append {
        deployment: row.new.id.clone(),
        row: RecordRow { seq, at, record },
        app_state: None,
        finish: None,
    };
    store.append(row).await
}

/// A journal that cannot be read is not guessed at: a person looks.
async fn give_up(store: &Store, row: &DeploymentRow, e: &ErrorBody) -> Result<(), StoreError> {
    error!(app = %row.new.app, id = row.new.id.short(), error = %e, "the journal cannot be read");
    let hint = "deployd-ctl --local doctor compares what runs with what should; then push or rollback";
    let failure = ErrorBody::new(ErrorCode::Stuck, e.message.clone(), hint);
    let failure = serde_json::to_string(&failure).ok();
    let finish = Finish { verdict: Verdict::Stuck.to_string(), finished: clock::now(), failure };
    store.finish(&row.new.id, finish).await
}
