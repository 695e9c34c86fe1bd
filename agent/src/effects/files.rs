//! Users, trees, folders, unit files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use deployd_core::action::UnitFile;
use deployd_core::units;

use super::RealHost;
use super::failure::{step_failed, with_chain};
use crate::driver::{Done, Run};
use crate::host::{fdstore, users};
use crate::store::atomic;
use crate::store::releases::mounts::{Folders, Owner};
use crate::store::releases::{LinkPolicy, ReleaseError, TreeName};

/// Unit files are public: `systemctl cat` shows them to everyone.
const UNIT_MODE: u32 = 0o644;

/// Writes files, each by rename.
pub(super) fn write(files: &[UnitFile]) -> Result<Done, ErrorBody> {
    for file in files {
        let path = Path::new(&file.path);
        if std::fs::read(path).is_ok_and(|now| now == file.content.as_bytes()) {
            continue;
        }
        make_parent(path)?;
        atomic::write(path, file.content.as_bytes(), UNIT_MODE).map_err(|e| step_failed(&e))?;
    }
    Ok(Done::default())
}

fn make_parent(path: &Path) -> Result<(), ErrorBody> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| io_failed("make", parent, &e))
}

/// Removes files, and drop-in folders that are empty then.
pub(super) fn remove(paths: &[String]) -> Result<Done, ErrorBody> {
    for path in paths.iter().map(Path::new) {
        if path.symlink_metadata().is_ok() {
            atomic::remove(path).map_err(|e| step_failed(&e))?;
        }
        if let Some(folder) = path.parent().filter(|f| f.extension().is_some_and(|e| e == "d")) {
            // Only when empty: what an operator put there stays.
            drop(std::fs::remove_dir(folder));
        }
    }
    Ok(Done::default())
}

/// Makes a target the one that boots: by one rename, linked into the boot once.
pub(super) fn commit(target: &UnitFile, wanted_by: &str) -> Result<Done, ErrorBody> {
    write(std::slice::from_ref(target))?;
    let link = Path::new(wanted_by);
    if std::fs::read_link(link).is_ok_and(|to| to == Path::new(&target.path)) {
        return Ok(Done::default());
    }
    make_parent(link)?;
    if link.symlink_metadata().is_ok() {
        atomic::remove(link).map_err(|e| step_failed(&e))?;
    }
    std::os::unix::fs::symlink(&target.path, link).map_err(|e| io_failed("link", link, &e))?;
    if let Some(parent) = link.parent() {
        atomic::fsync_dir(parent).map_err(|e| step_failed(&e))?;
    }
    Ok(Done::default())
}

pub(super) fn io_failed(doing: &str, path: &Path, e: &std::io::Error) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::StepFailed,
        format!("failed to {doing} {}: {e}", path.display()),
        "mend it and try again: the file system's room and rights are the usual causes",
    )
}

fn release_failed(e: &ReleaseError) -> ErrorBody {
    let hint = "push again; if it stays, deployd-ctl doctor looks at the host";
    with_chain(ErrorBody::new(e.code(), e.to_string(), hint), e)
}

impl RealHost {
    pub(super) async fn ensure_user(&self, app: &AppName, uid: u32) -> Result<Done, ErrorBody> {
        let user = users::ensure(&self.systemd, app, uid).await.map_err(|e| step_failed(&e))?;
        // The app reads its releases, nobody else: a BEAM release has its cookie in there.
        let folder = self.apps_dir().join(app.as_str());
        std::fs::create_dir_all(&folder).map_err(|e| io_failed("make", &folder, &e))?;
        let mode = std::fs::Permissions::from_mode(0o750);
        std::os::unix::fs::chown(&folder, Some(0), Some(user.gid))
            .and_then(|()| std::fs::set_permissions(&folder, mode))
            .map_err(|e| io_failed("give the app's user", &folder, &e))?;
        Ok(Done::default())
    }

    pub(super) async fn remove_user(&self, app: &AppName) -> Result<Done, ErrorBody> {
        users::remove(&self.systemd, app).await.map_err(|e| step_failed(&e))?;
        Ok(Done::default())
    }

    /// The name of a tree, from its folder: plans speak of folders, the store of names.
    fn tree_name(tree: &str) -> Result<TreeName, ErrorBody> {
        let name = Path::new(tree).file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.parse().map_err(|e: deployd_api::ids::InvalidId| step_failed(&e))
    }

    pub(super) async fn seal(&self, app: &AppName, artifact: Digest, tree: &str) -> Result<Done, ErrorBody> {
        let (releases, app, name) = (self.releases.clone(), app.clone(), Self::tree_name(tree)?);
        let work = move || releases.seal(&app, artifact, &name, LinkPolicy::Share);
        let sealed = blocking(work).await?.map_err(|e| release_failed(&e))?;
        let note =
            format!("{} files sent, {} shared, {} copied", sealed.received, sealed.shared, sealed.copied);
        Ok(Done::note(note))
    }

    pub(super) async fn remove_tree(&self, app: &AppName, tree: &str) -> Result<Done, ErrorBody> {
        let (releases, app, name) = (self.releases.clone(), app.clone(), Self::tree_name(tree)?);
        let removed =
            blocking(move || releases.remove(&app, &name)).await?.map_err(|e| release_failed(&e))?;
        match removed.leftovers.first() {
            None => Ok(Done::default()),
            // Reported, never fatal: a file that cannot go must not turn a rollback into a failure.
            Some((path, why)) => Ok(Done::note(format!("{} stays: {why}", path.display()))),
        }
    }

    pub(super) async fn prepare_dirs(
        &self,
        app: &AppName,
        tree: &str,
        uid: u32,
        writable: &[String],
        shared: &[String],
    ) -> Result<Done, ErrorBody> {
        if writable.is_empty() && shared.is_empty() {
            return Ok(Done::default());
        }
        let (releases, app, name) = (self.releases.clone(), app.clone(), Self::tree_name(tree)?);
        let (writable, shared) = (writable.to_vec(), shared.to_vec());
        let work = move || {
            let folders = Folders { writable: &writable, shared: &shared };
            releases.prepare_dirs(&app, &name, folders, Owner { uid, gid: uid })
        };
        blocking(work).await?.map_err(|e| release_failed(&e))?;
        Ok(Done::default())
    }

    /// Removes state folders of apps, and nothing else on this host.
    pub(super) async fn remove_dirs(&self, dirs: &[String]) -> Result<Done, ErrorBody> {
        for dir in dirs.iter().map(PathBuf::from) {
            let inside = dir.parent() == Some(Path::new(units::STATE_DIR)) && !dir.ends_with("..");
            if !inside {
                let message = format!("{} is not a folder of an app", dir.display());
                return Err(ErrorBody::new(
                    ErrorCode::Internal,
                    message,
                    "please report this defect of deployd",
                ));
            }
            let path = dir.clone();
            let removed = blocking(move || std::fs::remove_dir_all(&path)).await?;
            match removed {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_failed("remove", &dir, &e)),
            }
        }
        Ok(Done::default())
    }

    pub(super) async fn sweep(&self, app: &AppName, trees: &[String]) -> Result<Done, ErrorBody> {
        let mut notes = Vec::new();
        for tree in trees {
            notes.extend(self.remove_tree(app, tree).await?.note);
        }
        Ok(Done { note: (!notes.is_empty()).then(|| notes.join("; ")), learned: None })
    }

    pub(super) async fn forget_app(&self, app: &AppName, run: &Run) -> Result<Done, ErrorBody> {
        for socket in run.state.lock().await.groups.values().flatten() {
            self.held.remove(&socket.unit);
            fdstore::forget(&socket.unit).map_err(|e| step_failed(&e))?;
        }
        // Their files are gone, but PID 1 keeps what is active, what booted with multi-user.target, and every
        // unit that those name. An app that comes back would start with their old text.
        for unit in [units::target(app), units::slice(app)] {
            if self.systemd.unit(&unit).await.map_err(|e| step_failed(&e))?.is_some() {
                self.systemd.stop(&unit).await.map_err(|e| step_failed(&e))?;
            }
        }
        self.systemd.daemon_reload().await.map_err(|e| step_failed(&e))?;
        let (releases, app) = (self.releases.clone(), app.clone());
        let removed = blocking(move || releases.remove_app(&app)).await?.map_err(|e| release_failed(&e))?;
        let note = removed.leftovers.first().map(|(path, why)| format!("{} stays: {why}", path.display()));
        Ok(Done { note, learned: None })
    }
}

/// Runs disk work on a thread that may block.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ErrorBody> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ErrorBody::new(ErrorCode::StepFailed, "the agent is ending", "it goes on by itself after its restart")
    })
}
