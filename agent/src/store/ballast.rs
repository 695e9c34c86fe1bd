//! A file of real blocks beside the database, given up when an append meets a full disk.
//!
//! A full disk must not keep a deployment from reaching its verdict: the records of an undo need room.
//! The database calls this on a failed write; it is made again once there is room. It must never cost
//! the last free space itself, so it is only made when twice its size is free.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::disk;

/// The ballast's size in bytes: some thousand journal records, or two checkpoints of the log.
pub const BALLAST_BYTES: u64 = 8 << 20;

/// The ballast's state after an operation on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BallastState {
    /// It holds its space.
    Held,
    /// It was given up, or could not be made yet.
    Released,
}

/// The ballast file of one store.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    size: u64,
}

impl Ballast {
    /// The ballast at this path; nothing is made yet.
    pub fn new(path: PathBuf, size: u64) -> Self {
        Self { path, size }
    }

    /// Whether the file holds its blocks: a sparse file of the right length would be no ballast.
    pub fn observe(&self) -> BallastState {
        match std::fs::symlink_metadata(&self.path) {
            Ok(m) if m.is_file() && m.len() == self.size && m.blocks() * 512 >= self.size => {
                BallastState::Held
            }
            Ok(_) | Err(_) => BallastState::Released,
        }
    }

    /// Makes the file when it is not there and there is room for it twice over.
    pub fn restore(&self) -> io::Result<BallastState> {
        if self.observe() == BallastState::Held {
            return Ok(BallastState::Held);
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if disk::observe(folder)?.free_bytes < 2 * self.size {
            return Ok(BallastState::Released);
        }
        let file = self.open()?;
        file.set_len(0)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.size as i64) {
            Ok(()) => {}
            Err(Errno::EOPNOTSUPP) => write_blocks(&file, self.size)?,
            Err(e) => {
                file.set_len(0)?;
                return if e == Errno::ENOSPC { Ok(BallastState::Released) } else { Err(e.into()) };
            }
        }
        file.sync_all()?;
        Ok(self.observe())
    }

    /// Gives the blocks back. Returns what the state was before: `Released` means that nothing was won.
    pub fn release(&self) -> io::Result<BallastState> {
        let before = self.observe();
        if before == BallastState::Held {
            let file = self.open()?;
            file.set_len(0)?;
            // Some file systems free the blocks only when the change is on disk.
            file.sync_all()?;
        }
        Ok(before)
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
            .open(&self.path)
    }
}

/// For file systems without `fallocate`: bytes that do not compress, so that they take their space.
fn write_blocks(mut file: &File, size: u64) -> io::Result<()> {
    let mut block = vec![0u8; 1 << 16];
    let mut fill = blake3::Hasher::new().finalize_xof();
    let mut left = size;
    while left > 0 {
        fill.fill(&mut block);
        let n = left.min(block.len() as u64);
        file.write_all(&block[..n as usize])?;
        left -= n;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;

    #[test]
    fn it_takes_real_blocks_and_gives_them_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path().join("ballast"), 1 << 20);
        assert_eq!(ballast.observe(), BallastState::Released);
        assert_eq!(ballast.restore().unwrap(), BallastState::Held);
        assert_eq!(ballast.release().unwrap(), BallastState::Held);
        assert_eq!(ballast.observe(), BallastState::Released);
        assert_eq!(ballast.release().unwrap(), BallastState::Released, "nothing more to win");
        assert_eq!(ballast.restore().unwrap(), BallastState::Held);
    }

    #[test]
    fn a_sparse_file_is_no_ballast() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let ballast = Ballast::new(path, 1 << 20);
        assert_eq!(ballast.observe(), BallastState::Released);
        assert_eq!(ballast.restore().unwrap(), BallastState::Held);
    }

    #[test]
    fn written_blocks_take_their_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ballast");
        let file = File::create(&path).unwrap();
        write_blocks(&file, (1 << 20) + 5).unwrap();
        file.sync_all().unwrap();
        assert_eq!(Ballast::new(path, (1 << 20) + 5).observe(), BallastState::Held);
    }
}
