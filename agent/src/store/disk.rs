//! Free space: what a file system has, what must stay free, what running pushes were promised.
//!
//! It never writes. The push handler reserves before the first byte; the ledger counts concurrent
//! pushes, so that two of them cannot both be promised the same last gigabyte.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::{FsFlags, statvfs};

/// What must stay free unless the config says otherwise, in bytes: logs and databases of apps share
/// the disk, and a host at 100 % loses more than one deploy.
pub const DEFAULT_RESERVE_BYTES: u64 = 1 << 30;

/// A file system whose free space is below this, in bytes, is full for SQLite's small files.
const FULL_BYTES: u64 = 64 << 10;

/// The room a file system has for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an unprivileged writer may still take.
    pub free_bytes: u64,
    /// Files that may still be made; `u64::MAX` where there is no such limit.
    pub free_inodes: u64,
    /// All bytes.
    pub total_bytes: u64,
}

/// What a push takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Bytes, rounded up to blocks.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

/// Not enough room, or it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system could not be asked.
    #[error("failed to read the free space of {path}")]
    Observe {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Too few bytes: need, promised to others and reserve together are more than is free.
    #[error(
        "{path} has {free} bytes free: {need} needed, {promised} promised to other pushes, {reserve} kept"
    )]
    Bytes {
        /// Where.
        path: PathBuf,
        /// Free now.
        free: u64,
        /// What this push takes.
        need: u64,
        /// What other pushes were promised and have not used yet.
        promised: u64,
        /// What must stay free.
        reserve: u64,
    },
    /// Too few inodes.
    #[error("{path} has {free} inodes free: {need} needed, {promised} promised to other pushes")]
    Inodes {
        /// Where.
        path: PathBuf,
        /// Free now.
        free: u64,
        /// What this push takes.
        need: u64,
        /// What other pushes were promised.
        promised: u64,
    },
}

/// The room at this path.
pub fn observe(path: &Path) -> io::Result<Space> {
    let s = statvfs(path)?;
    let block = s.fragment_size();
    // Btrfs and others have no table of inodes and say 0.
    let free_inodes = if s.files() == 0 { u64::MAX } else { s.files_available() };
    Ok(Space {
        free_bytes: s.blocks_available().saturating_mul(block),
        free_inodes,
        total_bytes: s.blocks().saturating_mul(block),
    })
}

/// The mount point of this path, when programs may not run from there.
pub fn noexec(path: &Path) -> io::Result<Option<String>> {
    let is_off = |path: &Path| Ok::<_, io::Error>(statvfs(path)?.flags().contains(FsFlags::ST_NOEXEC));
    if !is_off(path)? {
        return Ok(None);
    }
    let device = path.metadata()?.dev();
    let same = |at: &&Path| at.metadata().is_ok_and(|m| m.dev() == device);
    let mount = path.ancestors().take_while(same).last().unwrap_or(path);
    Ok(Some(mount.display().to_string()))
}

/// Whether the file system of this path has no room for even a small file.
pub(crate) fn is_full(path: &Path) -> bool {
    observe(path).is_ok_and(|s| s.free_bytes < FULL_BYTES || s.free_inodes == 0)
}

/// The ledger of what running pushes were promised. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reservations {
    path: PathBuf,
    reserve: Arc<AtomicU64>,
    promised: Arc<Mutex<Need>>,
}

impl Reservations {
    /// A ledger for the file system of `path`, of which `reserve` bytes stay free.
    pub fn new(path: PathBuf, reserve: u64) -> Self {
        Self { path, reserve: Arc::new(AtomicU64::new(reserve)), promised: Arc::default() }
    }

    /// From now on so many bytes stay free.
    pub fn set_reserve(&self, bytes: u64) {
        self.reserve.store(bytes, Ordering::Relaxed);
    }

    /// The bytes that stay free.
    pub fn reserve_bytes(&self) -> u64 {
        self.reserve.load(Ordering::Relaxed)
    }

    /// Promises room, until the reservation is dropped.
    pub fn reserve(&self, need: Need) -> Result<Reservation, DiskError> {
        let mut promised = lock(&self.promised);
        let space =
            observe(&self.path).map_err(|source| DiskError::Observe { path: self.path.clone(), source })?;
        let bytes = promised.bytes.saturating_add(need.bytes);
        if bytes.saturating_add(self.reserve_bytes()) > space.free_bytes {
            return Err(DiskError::Bytes {
                path: self.path.clone(),
                free: space.free_bytes,
                need: need.bytes,
                promised: promised.bytes,
                reserve: self.reserve_bytes(),
            });
        }
        let inodes = promised.inodes.saturating_add(need.inodes);
        if inodes > space.free_inodes {
            return Err(DiskError::Inodes {
                path: self.path.clone(),
                free: space.free_inodes,
                need: need.inodes,
                promised: promised.inodes,
            });
        }
        *promised = Need { bytes, inodes };
        Ok(Reservation { left: need, promised: Arc::clone(&self.promised) })
    }

    /// What is promised now, over all pushes.
    pub fn promised(&self) -> Need {
        *lock(&self.promised)
    }
}

/// Room promised to one push; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    left: Need,
    promised: Arc<Mutex<Need>>,
}

impl Reservation {
    /// Tells that a part is now on disk, so that it is not counted twice.
    pub fn used(&mut self, part: Need) {
        let part = Need { bytes: part.bytes.min(self.left.bytes), inodes: part.inodes.min(self.left.inodes) };
        self.give_back(part);
    }

    fn give_back(&mut self, part: Need) {
        let mut promised = lock(&self.promised);
        promised.bytes -= part.bytes;
        promised.inodes -= part.inodes;
        self.left.bytes -= part.bytes;
        self.left.inodes -= part.inodes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.left);
    }
}

/// No code panics while it holds the lock, and the numbers are whole at every instant.
fn lock(promised: &Mutex<Need>) -> MutexGuard<'_, Need> {
    promised.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pushes_are_not_promised_the_same_room() {
        let dir = tempfile::tempdir().unwrap();
        let free = observe(dir.path()).unwrap().free_bytes;
        let ledger = Reservations::new(dir.path().to_owned(), 0);
        let most = Need { bytes: free / 5 * 3, inodes: 1 };
        let mut first = ledger.reserve(most).unwrap();
        assert!(matches!(ledger.reserve(most), Err(DiskError::Bytes { .. })));
        first.used(Need { bytes: most.bytes, inodes: 0 });
        assert_eq!(ledger.promised(), Need { bytes: 0, inodes: 1 });
        let second = ledger.reserve(most).unwrap();
        drop(first);
        drop(second);
        assert_eq!(ledger.promised(), Need::default());
    }

    #[test]
    fn the_reserve_and_the_inodes_count() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Reservations::new(dir.path().to_owned(), u64::MAX);
        assert!(matches!(ledger.reserve(Need { bytes: 1, inodes: 0 }), Err(DiskError::Bytes { .. })));
        let ledger = Reservations::new(dir.path().to_owned(), 0);
        let need = Need { bytes: 0, inodes: u64::MAX - 1 };
        let out = ledger.reserve(need);
        if observe(dir.path()).unwrap().free_inodes < u64::MAX - 1 {
            assert!(matches!(out, Err(DiskError::Inodes { .. })));
        }
    }
}
