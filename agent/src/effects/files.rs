//! Users, trees, folders, unit files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use deployd_core::action::UnitFile;
use deployd_core::units;

use super::RealHost;
use super::failure::{release_failed, step_failed};
use crate::driver::{Done, Run};
use crate::host::{fdstore, users};
use crate::store::Store;
use crate::store::atomic::{self, AtomicError};
use crate::store::ballast::BallastState;
use crate::store::releases::TreeName;
use crate::store::releases::mounts::{Folders, Owner};

/// Unit files are public: `systemctl cat` shows them to everyone.
const UNIT_MODE: u32 = 0o644;

/// A file that could not be written, and whether that was for want of room.
#[derive(Debug)]
pub(super) struct Unwritten {
    full: bool,
    pub(super) failure: ErrorBody,
}

impl From<AtomicError> for Unwritten {
    fn from(e: AtomicError) -> Self {
        Self { full: e.is_disk_full(), failure: step_failed(&e) }
    }
}

/// Writes files, each by rename.
pub(super) fn write(files: &[UnitFile]) -> Result<(), Unwritten> {
    for file in files {
        let path = Path::new(&file.path);
        if std::fs::read(path).is_ok_and(|now| now == file.content.as_bytes()) {
            continue;
        }
        make_parent(path)?;
        atomic::write(path, file.content.as_bytes(), UNIT_MODE)?;
    }
    Ok(())
}

pub(super) fn make_parent(path: &Path) -> Result<(), Unwritten> {
    let Some(parent) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|e| Unwritten {
        full: e.kind() == std::io::ErrorKind::StorageFull,
        failure: io_failed("make", parent, &e),
    })
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

/// Makes a target the one that boots: linked into the boot once, and before it counts, because the rename of
/// the target is what decides. Answers what went wrong after that.
fn commit(target: &UnitFile, wanted_by: &Path) -> Result<Option<String>, Unwritten> {
    if !is_linked(target, wanted_by) {
        make_parent(wanted_by)?;
        atomic::link(Path::new(&target.path), wanted_by)?;
    }
    match write(std::slice::from_ref(target)) {
        Err(late) if is_committed(target, wanted_by) => Ok(Some(late.failure.message)),
        other => other.map(|()| None),
    }
}

fn is_linked(target: &UnitFile, wanted_by: &Path) -> bool {
    std::fs::read_link(wanted_by).is_ok_and(|to| to == Path::new(&target.path))
}

/// Whether a target is the one that boots.
pub fn is_committed(target: &UnitFile, wanted_by: &Path) -> bool {
    let stands = std::fs::read(&target.path).is_ok_and(|now| now == target.content.as_bytes());
    stands && is_linked(target, wanted_by)
}

pub(super) fn io_failed(doing: &str, path: &Path, e: &std::io::Error) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::StepFailed,
        format!("failed to {doing} {}: {e}", path.display()),
        "mend it and try again: the file system's room and rights are the usual causes",
    )
}

impl RealHost {
    pub(super) async fn write_files(&self, files: &[UnitFile]) -> Result<Done, ErrorBody> {
        let files = files.to_vec();
        with_room(&self.store, move || write(&files)).await?;
        Ok(Done::default())
    }

    pub(super) async fn commit(&self, target: &UnitFile, wanted_by: &str) -> Result<Done, ErrorBody> {
        let (target, link) = (target.clone(), PathBuf::from(wanted_by));
        let note = with_room(&self.store, move || commit(&target, &link)).await?;
        Ok(Done { note, learned: None })
    }

    pub(super) async fn ensure_user(&self, app: &AppName, uid: u32) -> Result<Done, ErrorBody> {
        let user = users::ensure(&self.systemd, app, uid).await.map_err(|e| step_failed(&e))?;
        // The app reads its releases, nobody else: a BEAM release has its cookie in there.
        let folder = self.apps_dir().join(app.as_str());
        let work = move || {
            std::fs::create_dir_all(&folder).map_err(|e| io_failed("make", &folder, &e))?;
            let mode = std::fs::Permissions::from_mode(0o750);
            std::os::unix::fs::chown(&folder, Some(0), Some(user.gid))
                .and_then(|()| std::fs::set_permissions(&folder, mode))
                .map_err(|e| io_failed("give the app's user", &folder, &e))
        };
        blocking(work).await??;
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
        let work = move || releases.seal(&app, artifact, &name);
        let sealed = blocking(work).await?.map_err(|e| release_failed(&e))?;
        let files = if sealed.received == 1 { "file" } else { "files" };
        let note =
            format!("{} {files} sent, {} shared, {} copied", sealed.received, sealed.shared, sealed.copied);
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
        // What its fleet did is no news to an app that comes back; the epoch of its lease goes on.
        let key = crate::supervisor::rollouts_key(app);
        self.store.delete_meta(key).await.map_err(|e| crate::supervisor::store_failed(&e))?;
        let (releases, of) = (self.releases.clone(), app.clone());
        let remove =
            async move { blocking(move || releases.remove_app(&of)).await?.map_err(|e| release_failed(&e)) };
        let removed = self.secrets.forget(app, remove).await?;
        let note = removed.leftovers.first().map(|(path, why)| format!("{} stays: {why}", path.display()));
        Ok(Done { note, learned: None })
    }
}

/// A full disk must not keep an undo from its end: the ballast is given up for what has to be written, and
/// made again after the verdict, when there is room.
async fn with_room<T: Send + 'static>(
    store: &Store,
    work: impl Fn() -> Result<T, Unwritten> + Clone + Send + 'static,
) -> Result<T, ErrorBody> {
    let full = match blocking(work.clone()).await? {
        Ok(done) => return Ok(done),
        Err(e) if e.full => e.failure,
        Err(e) => return Err(e.failure),
    };
    match store.release_ballast().await {
        Ok(BallastState::Held) => blocking(work).await?.map_err(|e| e.failure),
        Ok(BallastState::Released) | Err(_) => Err(full),
    }
}

/// Runs disk work on a thread that may block.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ErrorBody> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ErrorBody::new(ErrorCode::StepFailed, "the agent is ending", "it goes on by itself after its restart")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::crash::{Child, child_dir, run_child};

    fn target(dir: &Path, text: &str) -> UnitFile {
        let path = dir.join("deployd-shop.target").to_string_lossy().into_owned();
        UnitFile { path, content: text.to_owned() }
    }

    fn link(dir: &Path) -> PathBuf {
        dir.join("multi-user.target.wants/deployd-shop.target")
    }

    #[test]
    #[ignore = "a child of the test below"]
    fn child_that_commits() {
        let dir = child_dir();
        commit(&target(&dir, "new"), &link(&dir)).unwrap();
    }

    /// What is committed boots: a kill at any instant leaves a target that is linked, or the one before.
    #[test]
    fn a_target_is_linked_before_it_counts() {
        for at in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let child = run_child("effects::files::tests::child_that_commits", dir.path(), at);
            let (target, link) = (target(dir.path(), "new"), link(dir.path()));
            let stands = std::fs::read_to_string(&target.path).is_ok_and(|now| now == "new");
            assert_eq!(stands, is_committed(&target, &link), "after instant {at}");
            assert_eq!(commit(&target, &link).unwrap(), None);
            assert!(is_committed(&target, &link));
            if child == Child::Finished {
                break;
            }
        }
    }

    /// An undo that has to write a unit's text on a full disk gets the room of the ballast.
    #[tokio::test]
    async fn a_full_disk_has_room_for_what_must_be_written() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can mount a small file system");
            return;
        }
        let disk = crate::store::db::tests::Tmpfs::mount("32m").expect("root can mount a tmpfs");
        let store = Store::open(disk.0.path()).unwrap();
        disk.fill();
        let files = [target(disk.0.path(), &"x".repeat(100_000))];
        assert!(write(&files).is_err_and(|e| e.full), "the disk has room: nothing is proven");
        let again = files.clone();
        with_room(&store, move || write(&again)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&files[0].path).unwrap(), files[0].content);
        assert_eq!(store.release_ballast().await.unwrap(), BallastState::Released);
    }

    #[test]
    fn what_stands_without_its_link_is_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (target(dir.path(), "new"), link(dir.path()));
        commit(&target, &link).unwrap();
        std::fs::remove_file(&link).unwrap();
        assert!(!is_committed(&target, &link));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/elsewhere", &link).unwrap();
        assert!(!is_committed(&target, &link));
        commit(&target, &link).unwrap();
        assert!(is_committed(&target, &link));
    }
}
