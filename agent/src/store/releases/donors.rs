//! Files that kept releases of the same app already have, by content.
//!
//! A donor is believed only as we left it: a regular file of ours, with our mode and the right size.
//! [`super::staging`] asks what need not be sent, [`super::seal`] takes from them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::EntryKind;

use super::Releases;
use super::error::ReleaseError;
use crate::store::dirfd::{Dir, split};

/// A file of a kept release.
#[derive(Debug, Clone)]
pub(super) struct Donor {
    tree: Arc<Dir>,
    path: String,
    pub(super) executable: bool,
    size: u64,
}

/// A donor, open and as we left it.
#[derive(Debug)]
pub(super) struct OpenDonor {
    pub(super) file: File,
    pub(super) folder: Dir,
    pub(super) name: String,
    pub(super) executable: bool,
}

/// Donors by content, those of newer releases first.
#[derive(Debug, Default)]
pub(super) struct Donors(HashMap<Digest, Vec<Donor>>);

impl Donors {
    /// Every donor of the wanted contents.
    pub(super) fn find(
        releases: &Releases,
        app: &AppName,
        wanted: &HashMap<Digest, u64>,
    ) -> Result<Self, ReleaseError> {
        let mut donors = Self::default();
        for name in releases.list(app)? {
            // A tree that cannot be read gives nothing; that is `doctor`'s matter, not this push's.
            let Ok(manifest) = releases.manifest(app, &name) else { continue };
            let Ok(tree) = Dir::open(&releases.tree(app, &name)) else { continue };
            let tree = Arc::new(tree);
            for entry in manifest.entries() {
                let EntryKind::File { executable, size, digest } = entry.kind else { continue };
                if wanted.get(&digest) == Some(&size) {
                    let (tree, path) = (Arc::clone(&tree), entry.path.clone());
                    donors.0.entry(digest).or_default().push(Donor { tree, path, executable, size });
                }
            }
        }
        Ok(donors)
    }

    /// The donors of a content.
    pub(super) fn of(&self, digest: Digest) -> &[Donor] {
        self.0.get(&digest).map_or(&[], Vec::as_slice)
    }

    /// Whether some donor of this content is as we left it. No process of an app runs as root, so nobody else
    /// could have changed its bytes.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.of(digest).iter().any(|d| d.open().is_ok())
    }
}

impl Donor {
    /// Opens the file and checks that it is as we left it.
    pub(super) fn open(&self) -> io::Result<OpenDonor> {
        let (parent, name) = split(&self.path);
        let folder = self.tree.descend(parent)?;
        let file = folder.open_file(name)?;
        let meta = file.metadata()?;
        let ours = meta.uid() == nix::unistd::geteuid().as_raw()
            && meta.mode() & 0o7777 == mode(self.executable)
            && meta.len() == self.size;
        if !ours {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not as it was sealed"));
        }
        Ok(OpenDonor { file, folder, name: name.to_owned(), executable: self.executable })
    }
}

/// The mode of a file of a tree.
pub(super) fn mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// The digest of a file, from its first byte; it is left at the first byte.
pub(super) fn hash(file: &mut File) -> io::Result<Digest> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => drop(hasher.update(&buffer[..n])),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    file.rewind()?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}
