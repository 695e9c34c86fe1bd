//! Builds a release tree from what was received and what kept releases have, and gives it its name.
//!
//! Order: build below staging, compare with the manifest, make durable, write the manifest beside the
//! final name, rename, sync the folder. A kill before the rename leaves only staging, which the same call
//! builds again; after it, the same call finds the tree and is done. Called by the driver's stage step.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::{Entry, EntryKind, Manifest};
use nix::fcntl::AtFlags;
use nix::unistd::{linkat, symlinkat};

use super::donors::{Donor, Donors, OpenDonor, mode};
use super::error::ReleaseError;
use super::place::{How, Place, Placer};
use super::staging::{OBJECTS, TREE, has_object, open};
use super::verify::{Depth, verify_tree};
use super::{Releases, TreeName, manifests};
use crate::store::dirfd::{Dir, split};
use crate::store::{atomic, crash, sweep};

/// What sealing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sealed {
    /// Files that were received for this artifact.
    pub received: u64,
    /// Files shared with another tree or path, without their bytes being copied.
    pub shared: u64,
    /// Files copied from another tree or path.
    pub copied: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Releases {
    /// Makes the tree `name` of a received artifact. Again for the same artifact it is a no-op.
    pub fn seal(&self, app: &AppName, artifact: Digest, name: &TreeName) -> Result<Sealed, ReleaseError> {
        let path = self.tree(app, name);
        if path.symlink_metadata().is_ok() {
            let manifest = self.manifest(app, name)?;
            if manifest.digest() != artifact {
                return Err(ReleaseError::TreeExists { path });
            }
            verify_tree(&open(&path)?, &manifest, Depth::Shape)?;
            atomic::fsync_dir(&self.trees(app))?;
            self.discard_quietly(app, artifact);
            return Ok(Sealed { bytes: manifest.total_size(), ..Sealed::default() });
        }
        let manifest = self.staged_manifest(app, artifact)?;
        let sealed = self.build(app, artifact, &manifest)?;
        let staging = self.staging(app, artifact);
        let tree = open(&staging.join(TREE))?;
        verify_tree(&tree, &manifest, Depth::Shape)?;
        crash::point("seal: built");
        make_durable(&tree, &staging)?;
        manifests::write(&self.manifest_path(app, name), &manifest)?;
        crash::point("seal: manifest written");
        std::fs::rename(staging.join(TREE), &path).map_err(ReleaseError::io("name the tree", &path))?;
        crash::point("seal: named");
        atomic::fsync_dir(&self.trees(app))?;
        self.discard_quietly(app, artifact);
        Ok(sealed)
    }

    fn build(&self, app: &AppName, artifact: Digest, manifest: &Manifest) -> Result<Sealed, ReleaseError> {
        let staging_path = self.staging(app, artifact);
        let staging = open(&staging_path)?;
        let shown = staging_path.join(TREE);
        if let Some((path, source)) = sweep::remove_all(&staging, OsStr::new(TREE), &shown).pop() {
            return Err(ReleaseError::Io { doing: "remove", path, source });
        }
        crash::point("seal: swept");
        let io = ReleaseError::io("make", &shown);
        let tree = staging.make(TREE, 0o755).map_err(io)?;
        let wanted = manifests::contents(manifest)?;
        let mut builder = Builder {
            objects: open(&staging_path.join(OBJECTS))?,
            donors: Donors::find(self, app, &wanted)?,
            placer: Placer::new(),
            parent: (String::new(), tree.again().map_err(ReleaseError::io("open", &shown))?),
            tree,
            placed: HashMap::new(),
            missing: Vec::new(),
            sealed: Sealed::default(),
            shown: &shown,
        };
        for entry in manifest.entries() {
            builder.add(entry)?;
            crash::point("seal: entry");
        }
        match builder.missing.first() {
            Some(first) => Err(ReleaseError::Incomplete { count: builder.missing.len(), first: *first }),
            None => Ok(builder.sealed),
        }
    }
}

/// `syncfs` writes every dirty page and inode of the file system and commits its journal, so all folders,
/// links and modes of the tree are durable with one flush, where an fsync of each folder would take one
/// each. It is enough: received files and copies were fsynced one by one before, with their own errors.
fn make_durable(tree: &Dir, shown: &Path) -> Result<(), ReleaseError> {
    nix::unistd::syncfs(tree).map_err(|e| ReleaseError::io("sync", shown)(e.into()))
}

struct Builder<'a> {
    tree: Dir,
    objects: Dir,
    donors: Donors,
    placer: Placer,
    /// The folder of the last entry: entries come sorted, so most share it.
    parent: (String, Dir),
    /// Where in this tree a content already stands.
    placed: HashMap<Digest, (String, bool)>,
    missing: Vec<Digest>,
    sealed: Sealed,
    shown: &'a Path,
}

impl Builder<'_> {
    fn add(&mut self, entry: &Entry) -> Result<(), ReleaseError> {
        let shown = self.shown.join(&entry.path);
        let io = |doing| ReleaseError::io(doing, &shown);
        let (parent, name) = split(&entry.path);
        if self.parent.0 != parent {
            let dir = self.tree.make_path(parent, 0o755).map_err(io("make the folder of"))?;
            self.parent = (parent.to_owned(), dir);
        }
        match &entry.kind {
            EntryKind::Dir => self.parent.1.make(name, 0o755).map(drop).map_err(io("make")),
            EntryKind::Link { target } => {
                symlinkat(target.as_str(), &self.parent.1, name).map_err(|e| io("make the link")(e.into()))
            }
            EntryKind::File { executable, size, digest } => {
                let added = self.add_file(entry, *executable, *size, *digest).map_err(io("make"))?;
                if added {
                    self.placed.entry(*digest).or_insert_with(|| (entry.path.clone(), *executable));
                    self.sealed.bytes += size;
                } else {
                    self.missing.push(*digest);
                }
                Ok(())
            }
        }
    }

    /// False when the content is nowhere.
    fn add_file(&mut self, entry: &Entry, executable: bool, size: u64, digest: Digest) -> io::Result<bool> {
        let (_, name) = split(&entry.path);
        let to = Place { folder: &self.parent.1, name, executable, digest };
        if let Some((path, executable)) = self.placed.get(&digest) {
            let mut from = open_placed(&self.tree, path, *executable)?;
            count(&mut self.sealed, self.placer.place(&mut from, &to)?);
            return Ok(true);
        }
        if has_object(&self.objects, digest, size) {
            take_object(&self.objects, &to)?;
            self.sealed.received += 1;
            return Ok(true);
        }
        // One that can be linked as it is first, then one that has another mode.
        let donors = self.donors.of(digest);
        let same = donors.iter().filter(|d| d.executable == executable);
        let other = donors.iter().filter(|d| d.executable != executable);
        for donor in same.chain(other) {
            match place_from(&mut self.placer, donor, &to) {
                Ok(how) => {
                    count(&mut self.sealed, how);
                    return Ok(true);
                }
                // A donor that is not what it should be gives nothing: the next, or it has to be sent.
                Err(e) if is_donors_fault(&e) => {
                    tracing::warn!(path = entry.path, error = %e, "a kept release's file is not usable");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }
}

fn place_from(placer: &mut Placer, donor: &Donor, to: &Place<'_>) -> io::Result<How> {
    placer.place(&mut donor.open()?, to)
}

/// A full disk, say, would fail for the next donor too.
fn is_donors_fault(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(e.kind(), K::InvalidData | K::NotFound | K::NotADirectory | K::InvalidInput)
        || e.raw_os_error() == Some(nix::libc::ELOOP)
}

fn count(sealed: &mut Sealed, how: How) {
    match how {
        How::Reflink | How::HardLink => sealed.shared += 1,
        How::Copy => sealed.copied += 1,
    }
}

fn open_placed(tree: &Dir, path: &str, executable: bool) -> io::Result<OpenDonor> {
    let (parent, name) = split(path);
    let folder = tree.descend(parent)?;
    let file = folder.open_file(name)?;
    Ok(OpenDonor { file, folder, name: name.to_owned(), executable })
}

/// A received content becomes a file of the tree by a link; the other name goes with staging. So a kill
/// while the tree is built loses nothing that was sent.
fn take_object(objects: &Dir, to: &Place<'_>) -> io::Result<()> {
    let digest = to.digest.to_string();
    let file = objects.open_file(&digest)?;
    nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(mode(to.executable)))?;
    Ok(linkat(objects, digest.as_str(), to.folder, to.name, AtFlags::empty())?)
}
