//! Files that are written whole or not at all: temporary file, fsync, rename, fsync of the folder.
//!
//! The only code that writes config-like files; unit files, targets and manifests go through here. A
//! reader sees the old bytes or the new ones, also after power loss. It never follows a link at the
//! final name: it replaces it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::crash;

/// How every temporary name ends; it begins with a dot, so systemd and shells pass over it.
const TEMPORARY_SUFFIX: &str = ".deployd-new";

/// A file operation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    /// The new bytes could not be made durable; the old file stands.
    #[error("failed to write {path}")]
    Write {
        /// The final name.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The new file could not take its name; the old file stands.
    #[error("failed to rename {from} to {path}")]
    Rename {
        /// The prepared file.
        from: PathBuf,
        /// The final name.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file could not be removed.
    #[error("failed to remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder's entries may not be durable.
    #[error("failed to sync the folder {path}")]
    SyncDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl AtomicError {
    /// Whether it failed for want of disk space.
    pub fn is_disk_full(&self) -> bool {
        let (Self::Write { source, .. }
        | Self::Rename { source, .. }
        | Self::Remove { source, .. }
        | Self::SyncDir { source, .. }) = self;
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Writes a file with exactly this mode; durable when it returns.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AtomicError> {
    let temporary = stage(path, bytes, mode)?;
    crash::point("atomic: staged");
    replace(&temporary, path)
}

/// Makes `path` a link to `to`, by one rename; durable when it returns.
pub fn link(to: &Path, path: &Path) -> Result<(), AtomicError> {
    let temporary = temporary(path)?;
    std::os::unix::fs::symlink(to, &temporary)
        .map_err(|source| AtomicError::Write { path: path.to_owned(), source })?;
    crash::point("atomic: link staged");
    replace(&temporary, path)
}

/// A name beside `path` that nothing reads and nobody else has.
fn temporary(path: &Path) -> Result<PathBuf, AtomicError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let fail = |source| AtomicError::Write { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
    let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    Ok(path.with_file_name(format!(".{}.{pid}.{count}{TEMPORARY_SUFFIX}", name.to_string_lossy())))
}

/// Writes the bytes durably beside `path`, under a name that nothing reads. [`replace`] makes it count.
pub fn stage(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, AtomicError> {
    let fail = |source| AtomicError::Write { path: path.to_owned(), source };
    let temporary = temporary(path)?;
    let out = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()
    })();
    match out {
        Ok(()) => Ok(temporary),
        Err(source) => {
            // Best effort: a leftover is swept at the next start, the error says what matters.
            drop(std::fs::remove_file(&temporary));
            Err(fail(source))
        }
    }
}

/// Gives a prepared file its final name by one rename: this is how a `.target` changes at commit.
pub fn replace(from: &Path, path: &Path) -> Result<(), AtomicError> {
    std::fs::rename(from, path).map_err(|source| {
        drop(std::fs::remove_file(from));
        AtomicError::Rename { from: from.to_owned(), path: path.to_owned(), source }
    })?;
    crash::point("atomic: renamed");
    fsync_dir(parent(path))
}

/// Removes a file or link, durably. That it is gone already is no error.
pub fn remove(path: &Path) -> Result<(), AtomicError> {
    match std::fs::remove_file(path) {
        Ok(()) => fsync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AtomicError::Remove { path: path.to_owned(), source }),
    }
}

/// Makes the entries of a folder durable.
pub fn fsync_dir(path: &Path) -> Result<(), AtomicError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(|source| AtomicError::SyncDir { path: path.to_owned(), source })
}

/// Removes what a crash between writing and renaming left in a folder; returns how many. Call it at the
/// start, before anything writes there.
pub fn sweep(folder: &Path) -> Result<usize, AtomicError> {
    let fail = |source| AtomicError::Remove { path: folder.to_owned(), source };
    let mut swept = 0;
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX) {
            std::fs::remove_file(entry.path())
                .map_err(|source| AtomicError::Remove { path: entry.path(), source })?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;
    use crate::store::crash::{Child, child_dir, run_child};

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.service");
        write(&path, b"one", 0o644).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path()), ["a.service"]);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_link_at_the_final_name_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("precious"), dir.path().join("link"));
        std::fs::write(&target, "keep").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"keep");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(write(&path, b"x", 0o644), Err(AtomicError::Rename { .. })));
        assert_eq!(names(dir.path()), ["folder"]);
        assert!(matches!(write(&dir.path().join("no/x"), b"x", 0o644), Err(AtomicError::Write { .. })));
    }

    #[test]
    #[ignore = "a child of the test below"]
    fn child_that_writes() {
        write(&child_dir().join("unit"), b"new", 0o644).unwrap();
    }

    #[test]
    fn a_crash_leaves_the_old_file_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for at in 1.. {
            write(&dir.path().join("unit"), b"old", 0o644).unwrap();
            let child = run_child("store::atomic::tests::child_that_writes", dir.path(), at);
            seen.push(std::fs::read_to_string(dir.path().join("unit")).unwrap());
            sweep(dir.path()).unwrap();
            assert_eq!(names(dir.path()), ["unit"]);
            if child == Child::Finished {
                break;
            }
        }
        assert_eq!(seen, ["old", "new", "new"]);
    }
}
