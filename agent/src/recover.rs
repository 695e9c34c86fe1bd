//! What the agent does first: goes on with, or undoes, what its end interrupted.
//!
//! There is no recovery path of its own. The records are folded, and the same driver runs on from there.
//! Only a reboot adds something: before the commit the old release has booted, so the deployment is
//! undone, with the reason `rebooted`.

use std::sync::Arc;

use deployd_api::deployment::Verdict;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_core::action::Action;
use deployd_core::journal::Record;
use deployd_core::machine::Progress;
use deployd_core::plan::Plan;
use deployd_core::state::{AppState, Change};
use tracing::{error, info};

use crate::driver::{Port, clock, record};
use crate::store::journal::{DeploymentRow, Finish};
use crate::store::{Store, StoreError};
use crate::supervisor::{Observer, Supervisor, store_failed};
use crate::view::Story;

/// Takes up every deployment without a verdict.
pub async fn recover<H: Port + Observer>(supervisor: &Arc<Supervisor<H>>) -> Result<(), StoreError> {
    let store = supervisor.store();
    let boot_id = supervisor.host().boot_id();
    let mut open = Vec::new();
    for row in store.unfinished().await? {
        let read = store.load(&row.new.id).await;
        if let Err(e) = &read
            && !e.is_damage()
        {
            // What a healthy disk would answer: the next start of the agent tries again.
            return read.map(drop);
        }
        let read = read.map_err(|e| store_failed(&e));
        match read.and_then(|rows| Story::read(&row, &rows)) {
            Ok(story) => open.push((row, story)),
            Err(e) => give_up(store, &row, &e).await,
        }
    }
    if store.get_meta(BOOT.to_owned()).await?.is_some_and(|b| b != boot_id) {
        info!("the host was restarted");
        note_reboot(supervisor, &mut open).await?;
    }
    // Only now: a crash before it notes the reboot once more, which changes nothing.
    store.put_meta(BOOT.to_owned(), boot_id).await?;
    for (row, story) in open {
        let Story { plan, progress, .. } = story;
        info!(app = %plan.app, id = row.new.id.short(), after = row.last_seq, "taking up a deployment");
        if let Err(e) = supervisor.resume(row.new.id, plan, progress, row.last_seq).await {
            error!(error = %e, "failed to take up a deployment");
        }
    }
    Ok(())
}

/// The boot that the agent last ran in.
const BOOT: &str = "boot_id";

/// After a reboot only what is committed has sockets; every program is gone with them. What was being
/// deployed learns it by records of its own: whether it had committed is among them, and comes first.
async fn note_reboot<H: Port + Observer>(
    supervisor: &Arc<Supervisor<H>>,
    open: &mut [(DeploymentRow, Story)],
) -> Result<(), StoreError> {
    for (app, state) in supervisor.apps().await {
        let Some((row, story)) = open.iter_mut().find(|(_, story)| story.plan.app == app) else {
            let changes = booted(&*state.lock().await);
            record::save(supervisor.store(), &state, &changes, None).await?;
            continue;
        };
        let mut recorder = supervisor.recorder(row.new.id.clone(), state, row.last_seq);
        for record in reboot_records(supervisor.host().as_ref(), &story.plan, &story.progress) {
            if let Err(e) = story.progress.apply(&record) {
                error!(app = %app, error = %e, "illegal record");
                continue;
            }
            recorder.append(&story.plan, record, story.progress.reported().as_ref()).await?;
        }
        row.last_seq = recorder.seq;
    }
    Ok(())
}

/// What booted is what serves: a release that was kept live though it was never committed is not there any more.
fn booted(state: &AppState) -> Vec<Change> {
    let mut changes = vec![Change::Rebooted];
    if let Some(tag) = state.live.filter(|live| state.committed != Some(*live) && !state.stopped) {
        let previous = state.previous.filter(|p| state.committed.is_none_or(|c| c.label != *p));
        let since = Some(clock::now());
        changes.push(Change::Unlive { tag, back_to: state.committed, previous, since });
        changes.push(Change::Dismiss { tag });
        changes.push(Change::Draining { tag });
    }
    changes
}

/// What a restart of the host means for a deployment. If its commit was begun, what boots tells whether
/// it happened.
fn reboot_records<H: Observer>(host: &H, plan: &Plan, progress: &Progress) -> Vec<Record> {
    let committed = progress.in_doubt().filter(|step| match &plan.steps[*step].action {
        Action::Commit { target, wanted_by } => host.is_committed(target, wanted_by),
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

/// A journal that cannot be read is not guessed at: a person looks.
async fn give_up(store: &Store, row: &DeploymentRow, e: &ErrorBody) {
    error!(app = %row.new.app, id = row.new.id.short(), error = %e, "the journal cannot be read");
    let hint = "deployd-ctl doctor compares what runs with what should; then push or rollback";
    let failure = ErrorBody::new(ErrorCode::Stuck, e.message.clone(), hint);
    let failure = serde_json::to_string(&failure).ok();
    let finish = Finish { verdict: Verdict::Stuck.to_string(), finished: clock::now(), failure };
    if let Err(e) = store.finish(&row.new.id, finish).await {
        error!(error = %e, "failed to write that down");
    }
}
