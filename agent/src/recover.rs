//! What the agent does first: goes on with, or undoes, what its end interrupted.
//!
//! There is no recovery path of its own. The records are folded, and the same driver runs on from there.
//! Only a reboot adds something: before the commit the old release has booted, so the deployment is
//! undone, with the reason `rebooted`.

use std::sync::Arc;

use deployd_api::deployment::Verdict;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_core::action::Action;
use deployd_core::journal::{Entry, Record};
use deployd_core::machine::Progress;
use deployd_core::plan::Plan;
use deployd_core::state::Change;
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
        note_reboot(supervisor).await?;
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
async fn note_reboot<H: Port + Observer>(supervisor: &Arc<Supervisor<H>>) -> Result<(), StoreError> {
    for (_, state) in supervisor.apps().await {
        record::save(supervisor.store(), &state, &[Change::Rebooted], None).await?;
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
    let id = row.new.id.clone();
    info!(app = %plan.app, id = id.short(), after = row.last_seq, "taking up a deployment");
    let mut seq = row.last_seq;
    if row.new.boot_id != boot_id && !progress.rebooted() {
        for record in reboot_records(&plan, &progress) {
            // The machine says itself which of them are legal here: these are.
            drop(progress.apply(&record));
            seq += 1;
            append(supervisor.store(), row, seq, record).await?;
        }
    }
    if let Err(e) = supervisor.resume(id, plan, progress, seq).await {
        error!(error = %e, "failed to take up a deployment");
    }
    Ok(())
}

/// What a restart of the host means for a deployment. If its commit was begun, what boots tells whether
/// it happened.
fn reboot_records(plan: &Plan, progress: &Progress) -> Vec<Record> {
    let committed = progress.in_doubt().filter(|step| match &plan.steps[*step].action {
        Action::Commit { target, .. } => {
            std::fs::read_to_string(&target.path).is_ok_and(|now| now == target.content)
        }
        _ => false,
    });
    let note = Some("found in place after the restart".to_owned());
    let done = committed.map(|step| Record::Done { step, note });
    let failure = ErrorBody::new(
        ErrorCode::Rebooted,
        format!("the host was restarted before this {} of {} was committed", plan.kind, plan.app),
        "what was committed before has booted; push again",
    );
    done.into_iter().chain([Record::Rebooted { failure }]).collect()
}

async fn append(store: &Store, of: &DeploymentRow, seq: u64, record: Record) -> Result<(), StoreError> {
    let at = clock::now();
    let entry = Entry { at, up_ms: clock::up_ms(), record };
    let record = serde_json::to_string(&entry).map_err(|_| StoreError::Closed)?;
    let row = RecordRow { seq, at, record };
    store.append(Append { deployment: of.new.id.clone(), row, app_state: None, finish: None }).await
}

/// A journal that cannot be read is not guessed at: a person looks.
async fn give_up(store: &Store, row: &DeploymentRow, e: &ErrorBody) -> Result<(), StoreError> {
    error!(app = %row.new.app, id = row.new.id.short(), error = %e, "the journal cannot be read");
    let hint = "deployd-ctl doctor compares what runs with what should; then push or rollback";
    let failure = ErrorBody::new(ErrorCode::Stuck, e.message.clone(), hint);
    let failure = serde_json::to_string(&failure).ok();
    let finish = Finish { verdict: Verdict::Stuck.to_string(), finished: clock::now(), failure };
    store.finish(&row.new.id, finish).await
}
