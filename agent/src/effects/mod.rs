//! Carries actions out on the real host: one short arm an action, no decisions.
//!
//! Called by the driver and the janitor only. What an arm needs to know stands in the action; the app's
//! state is looked at for one thing, the order in which sockets joined their group.

mod asked;
pub mod command;
mod counted;
mod epmd;
mod facts;
mod failure;
mod files;
mod held;
mod instances;
mod live;
mod migrate;
mod sockets;
mod trial;

use std::path::PathBuf;

use deployd_api::error::ErrorBody;
use deployd_core::action::Action;
use deployd_core::steering::MarkPrefix;

use self::sockets::Patience;
use crate::driver::{Done, Port, Run};
use crate::host::lender::Lender;
use crate::host::systemd::Systemd;
use crate::secrets::Vault;
use crate::store::Store;
use crate::store::disk::Reservations;
use crate::store::releases::Releases;

pub use failure::{release_failed, step_failed, with_chain};
pub use files::{blocking as on_disk, is_committed};
pub use held::Held;
pub use instances::Carrying;
pub use live::{Live, Tunable};
pub use sockets::bound;

/// The host that the agent runs on.
#[derive(Debug)]
pub struct RealHost {
    /// PID 1.
    pub systemd: Systemd,
    /// Where borrowed descriptors come from.
    pub lender: Lender,
    /// The descriptors that are borrowed.
    pub held: Held,
    /// Since when proxies without an app carry something.
    pub carrying: Carrying,
    /// Release trees.
    pub releases: Releases,
    /// Room on their file system.
    pub disk: Reservations,
    /// Uids.
    pub store: Store,
    /// Secrets of apps.
    pub secrets: Vault,
    /// Held while the host's epmd is made or removed: apps share it.
    pub epmd: tokio::sync::Mutex<()>,
    /// What the config says and the host is.
    pub settings: HostSettings,
}

/// What the config says and the host is.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// What may change while the agent runs.
    pub live: Live,
    /// The id of this boot.
    pub boot_id: String,
    /// Where releases stand.
    pub apps_dir: String,
    /// The folder with trampoline and shim for new releases.
    pub runtime: String,
    /// What probes are marked with.
    pub mark_prefix: MarkPrefix,
    /// Uids for apps.
    pub uids: std::ops::RangeInclusive<u32>,
}

impl Port for RealHost {
    async fn apply(&self, action: &Action, run: &Run) -> Result<Done, ErrorBody> {
        let done = self.carry_out(action, run).await;
        if done.is_err() && self.systemd.is_stopping().await.unwrap_or(false) {
            // A reboot stops candidates like everything else: that is no failure of theirs, and nothing can be
            // undone now. We are stopped, too; after the boot the journal tells where this deployment stood.
            tracing::info!(kind = action.kind(), "the host is going down: standing still");
            std::future::pending::<()>().await;
        }
        done
    }
}

impl RealHost {
    async fn carry_out(&self, action: &Action, run: &Run) -> Result<Done, ErrorBody> {
        match action {
            Action::EnsureUser { app, uid, .. } => self.ensure_user(app, *uid).await,
            Action::RemoveUser { app, .. } => self.remove_user(app).await,
            Action::Seal { app, artifact, tree } => self.seal(app, *artifact, tree).await,
            Action::RemoveTree { app, tree } => self.remove_tree(app, tree).await,
            Action::PrepareDirs { app, tree, uid, writable, shared } => {
                self.prepare_dirs(app, tree, *uid, writable, shared).await
            }
            Action::RemoveDirs { dirs } => self.remove_dirs(dirs).await,
            Action::WriteFiles { files } => self.write_files(files).await,
            Action::RemoveFiles { paths } => {
                let paths = paths.clone();
                files::blocking(move || files::remove(&paths)).await?
            }
            Action::EnsureEpmd { source, program, unit } => self.ensure_epmd(source, program, unit).await,
            Action::RemoveEpmd { app, program } => self.remove_epmd(app, program).await,
            Action::Migrate { unit, tag, words, command, surroundings: around, timeout } => {
                let (tag, timeout) = (*tag, *timeout);
                self.migrate(migrate::Migration { unit, tag, words, command, around, timeout }, run).await
            }
            Action::ClearMigration { unit } => self.clear_migration(unit).await,
            Action::Steer { sockets, to, .. } => self.steer(sockets, *to, run).await,
            Action::OpenListener { socket, nonblocking } => self.open(socket, *nonblocking).await,
            Action::CloseListener { socket } => self.close(socket, run).await,
            Action::AwaitEmptyQueue { socket, quiet, cap } => self.await_empty(socket, *quiet, *cap).await,
            Action::Relay { socket, unit, quiet, cap, carry } => {
                self.relay(socket, unit, [*quiet, *cap], *carry).await
            }
            Action::LeaveGroup { socket } => self.leave(socket, run).await,
            Action::StartInstance { instance, timeout } => self.start(instance, *timeout, run).await,
            Action::StopInstance { instance, wait } => self.stop(instance, *wait).await,
            Action::RestartInstance { instance, timeout } => self.restart(instance, *timeout, run).await,
            Action::AwaitPort { instance, port, timeout, restarts } => {
                let patience = Patience { timeout: *timeout, restarts: *restarts };
                self.await_port(instance, *port, patience, run).await
            }
            Action::AwaitCarried { proxy, cap } => self.await_carried(proxy, *cap, run).await,
            Action::LearnNonblocking {
                first,
                socket,
                drop_in,
                unit_says,
                reload,
                timeout,
                restarts,
                advice,
            } => {
                let patience = Patience { timeout: *timeout, restarts: *restarts };
                let found = self.learn(first, socket, patience, run).await;
                let found = found.map_err(|e| advised(e, advice.as_ref()))?;
                self.note_nonblocking(&first.process, found, drop_in, *unit_says, *reload).await
            }
            Action::ReloadIfNeeded { units } => self.reload_if_needed(units).await,
            Action::Check { trial, timeout, restarts } => {
                let checked = self.check(trial, *timeout, *restarts, run).await;
                checked.map_err(|e| advised(e, trial.advice.as_ref()))
            }
            Action::Watch { trial, duration, restarts, settle, .. } => {
                self.watch(trial, *duration, *restarts, *settle, run).await
            }
            Action::Record { change } => Ok(self.note_change(change, run).await),
            Action::Commit { target, wanted_by } => self.commit(target, wanted_by).await,
            Action::Sweep { app, trees, .. } => self.sweep(app, trees).await,
            Action::ForgetApp { app } => self.forget_app(app, run).await,
        }
    }
}

/// Where the output of a transient unit goes until it is read back.
fn output_of(unit: &str) -> PathBuf {
    PathBuf::from("/run/deployd").join(unit).with_extension("out")
}

impl RealHost {
    /// The folder of trees, as a path.
    fn apps_dir(&self) -> PathBuf {
        PathBuf::from(&self.settings.apps_dir)
    }
}

/// What the plan knew of the release that a failure may come from.
fn advised(failure: ErrorBody, advice: Option<&String>) -> ErrorBody {
    match advice {
        Some(advice) => failure.cause("hint", advice.clone()),
        None => failure,
    }
}
