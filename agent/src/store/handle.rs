//! The store as async code sees it: one thread owns the database, calls are sent to it in order.
//!
//! A call that returned is durable; a call that failed did nothing. Dropping a call's future does not
//! undo it. Cheap to clone; the database is closed when the last clone is gone.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use deployd_api::ids::{AppName, DeploymentId, Timestamp};
use tokio::sync::oneshot;

use super::apps::AppRow;
use super::ballast::BallastState;
use super::db::{Access, Db};
use super::error::StoreError;
use super::journal::{Append, Begun, DeploymentRow, Finish, NewDeployment, RecordRow};

type Job = Box<dyn FnOnce(&mut Db) + Send>;

/// A handle to the open store.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the store in `state_dir` for writing, making and migrating it as needed. Blocks: call it at
    /// the start.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::spawn(state_dir.to_owned(), Access::Write)
    }

    /// Opens the store only for reading; an agent may have it open at the same time.
    pub fn open_read_only(state_dir: &Path) -> Result<Self, StoreError> {
        Self::spawn(state_dir.to_owned(), Access::Read)
    }

    fn spawn(state_dir: PathBuf, access: Access) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let mut db = Db::open(&state_dir, access)?;
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Ok(job) = queue.recv() {
                    job(&mut db);
                }
            })
            .map_err(|source| StoreError::Prepare { path: state_dir, source })?;
        Ok(Self { jobs })
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        // A caller that went away does not want the answer; the call itself is done all the same.
        let job: Job = Box::new(move |db| drop(reply.send(f(db))));
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Makes a deployment durable, or finds the one with this id.
    pub async fn begin(&self, new: NewDeployment) -> Result<Begun, StoreError> {
        self.call(move |db| {
            // It may have been used up since the last one ended.
            db.restore_ballast();
            db.begin(&new)
        })
        .await
    }

    /// Appends a record; its app state and verdict, if any, in the same transaction.
    pub async fn append(&self, append: Append) -> Result<(), StoreError> {
        self.call(move |db| {
            db.append(&append)?;
            if append.finish.is_some() {
                db.restore_ballast();
            }
            Ok(())
        })
        .await
    }

    /// Writes the verdict; makes the ballast again when there is room.
    pub async fn finish(&self, id: &DeploymentId, finish: Finish) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |db| {
            db.finish(&id, &finish)?;
            db.restore_ballast();
            Ok(())
        })
        .await
    }

    /// Every record of a deployment, verified.
    pub async fn load(&self, id: &DeploymentId) -> Result<Vec<RecordRow>, StoreError> {
        let id = id.clone();
        self.call(move |db| db.load(&id)).await
    }

    /// Every deployment without a verdict, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<DeploymentRow>, StoreError> {
        self.call(Db::unfinished).await
    }

    /// The deployment with this id.
    pub async fn get(&self, id: &DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        let id = id.clone();
        self.call(move |db| db.deployment(&id)).await
    }

    /// The last `n` deployments of an app, newest first.
    pub async fn recent(&self, app: &AppName, n: u32) -> Result<Vec<DeploymentRow>, StoreError> {
        let app = app.clone();
        self.call(move |db| db.recent(&app, n)).await
    }

    /// Every app's state, by name.
    pub async fn load_apps(&self) -> Result<Vec<AppRow>, StoreError> {
        self.call(Db::load_apps).await
    }

    /// One app's state.
    pub async fn get_app(&self, app: &AppName) -> Result<Option<AppRow>, StoreError> {
        let app = app.clone();
        self.call(move |db| db.get_app(&app)).await
    }

    /// Writes an app's state.
    pub async fn put_app(&self, app: &AppName, state: String, at: Timestamp) -> Result<(), StoreError> {
        let app = app.clone();
        self.call(move |db| db.put_app(&app, &state, at)).await
    }

    /// Forgets an app's state.
    pub async fn delete_app(&self, app: &AppName) -> Result<(), StoreError> {
        let app = app.clone();
        self.call(move |db| db.delete_app(&app)).await
    }

    /// A fact by its key.
    pub async fn get_meta(&self, key: String) -> Result<Option<String>, StoreError> {
        self.call(move |db| db.get_meta(&key)).await
    }

    /// Writes a fact.
    pub async fn put_meta(&self, key: String, value: String) -> Result<(), StoreError> {
        self.call(move |db| db.put_meta(&key, &value)).await
    }

    /// Writes a fact that may be refused when the disk is full: the ballast stays for deployments.
    pub async fn put_note(&self, key: String, value: String) -> Result<(), StoreError> {
        self.call(move |db| db.put_note(&key, &value)).await
    }

    /// Forgets a fact.
    pub async fn delete_meta(&self, key: String) -> Result<(), StoreError> {
        self.call(move |db| db.delete_meta(&key)).await
    }

    /// Forgets which deployment a call was answered with, when that one ended before this; answers how many.
    /// A client repeats a call within minutes, if at all.
    pub async fn collect_aliases(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.call(move |db| db.collect_aliases(before)).await
    }

    /// The user id that [`Self::allocate_uid`] would give out now.
    pub async fn next_uid(&self, range: RangeInclusive<u32>) -> Result<u32, StoreError> {
        self.call(move |db| db.next_uid(&range)).await
    }

    /// A user id of this range that no app ever had. When the host knows it already, call again.
    pub async fn allocate_uid(
        &self,
        app: &AppName,
        range: RangeInclusive<u32>,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        let app = app.clone();
        self.call(move |db| db.allocate_uid(&app, &range, at)).await
    }

    /// Gives the ballast up for a write outside the database that met a full disk. `Released` says that
    /// it had been given up before.
    pub async fn release_ballast(&self) -> Result<BallastState, StoreError> {
        self.call(|db| db.release_ballast()).await
    }
}

#[cfg(test)]
mod tests;
