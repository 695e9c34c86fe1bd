//! One file into a tree: a reflink, else a hard link where allowed, else a verified copy.
//!
//! The source was opened and checked before; a link is compared with that open file afterwards, so that
//! nothing can be slipped in between. Called by [`super::seal`] only.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use deployd_api::ids::Digest;
use nix::fcntl::AtFlags;
use nix::unistd::linkat;

use super::donors::{OpenDonor, mode};
use crate::store::dirfd::Dir;

/// How a file came into a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Reflink,
    HardLink,
    Copy,
}

/// Where a file goes.
pub(super) struct Place<'a> {
    pub(super) folder: &'a Dir,
    pub(super) name: &'a str,
    pub(super) executable: bool,
    pub(super) digest: Digest,
}

/// Whether reflinks work between the two places; found out at the first try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reflinks {
    Perhaps,
    No,
}

/// Puts files into one tree.
#[derive(Debug)]
pub(super) struct Placer {
    reflinks: Reflinks,
}

impl Placer {
    pub(super) fn new() -> Self {
        Self { reflinks: Reflinks::Perhaps }
    }

    /// Puts a file of a sealed tree, or of this one, to another place.
    pub(super) fn place(&mut self, from: &mut OpenDonor, to: &Place<'_>) -> io::Result<How> {
        if self.reflinks == Reflinks::Perhaps {
            if reflink(from, to)? {
                return Ok(How::Reflink);
            }
            self.reflinks = Reflinks::No;
        }
        if from.executable == to.executable && hard_link(from, to)? {
            return Ok(How::HardLink);
        }
        copy(&mut from.file, to)?;
        Ok(How::Copy)
    }
}

/// False when the file system cannot share extents.
fn reflink(from: &OpenDonor, to: &Place<'_>) -> io::Result<bool> {
    let file = to.folder.create_file(to.name, mode(to.executable))?;
    // Whatever the reason, a copy may still work, and says why when it does not.
    if rustix::fs::ioctl_ficlone(&file, &from.file).is_err() {
        to.folder.unlink(to.name)?;
        return Ok(false);
    }
    if let Err(e) = file.sync_all() {
        // The next donor needs the place.
        to.folder.unlink(to.name)?;
        return Err(e);
    }
    Ok(true)
}

/// False when the file system will not have it: too many links, another file system, not allowed.
fn hard_link(from: &OpenDonor, to: &Place<'_>) -> io::Result<bool> {
    if linkat(&from.folder, from.name.as_str(), to.folder, to.name, AtFlags::empty()).is_err() {
        return Ok(false);
    }
    let checked = from.file.metadata()?;
    let same =
        to.folder.stat(to.name)?.is_some_and(|s| s.st_ino == checked.ino() && s.st_dev == checked.dev());
    if !same {
        to.folder.unlink(to.name)?;
    }
    Ok(same)
}

/// Copies and verifies in one pass; durable when it returns. Nothing is left at the place on failure.
fn copy(from: &mut File, to: &Place<'_>) -> io::Result<()> {
    let mut file = to.folder.create_file(to.name, mode(to.executable))?;
    let out = (|| {
        from.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    file.write_all(&buffer[..n])?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        expect_digest(Digest::from_bytes(*hasher.finalize().as_bytes()), to)?;
        file.sync_all()
    })();
    if out.is_err() {
        to.folder.unlink(to.name)?;
    }
    out
}

fn expect_digest(found: Digest, to: &Place<'_>) -> io::Result<()> {
    if found == to.digest {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "its content is not what its manifest says"))
    }
}
