//! The beginning of a push: what the artifact is, what of it is here, what has to be sent.
//!
//! Nothing of a manifest is believed before it is checked. Called by the API's push handler.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::SystemTime;

use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::Manifest;

use super::donors::Donors;
use super::error::ReleaseError;
use super::links::check_links;
use super::{Releases, entry_names, make_folder, manifests};
use crate::store::crash;
use crate::store::dirfd::{Dir, Kind};
use crate::store::disk::Need;

/// The manifest's name within a staging folder.
pub(super) const MANIFEST: &str = "manifest.json";
/// Contents received.
pub(super) const OBJECTS: &str = "objects";
/// Contents on their way.
pub(super) const INCOMING: &str = ".incoming";
/// The tree while it is built.
pub(super) const TREE: &str = "tree";

/// Bytes a small file takes on most file systems.
const BLOCK_BYTES: u64 = 4096;

/// What has to be sent before an artifact can be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The artifact.
    pub artifact: Digest,
    /// Contents to send, each once, in the order of the manifest.
    pub digests: Vec<Digest>,
    /// Their bytes.
    pub bytes: u64,
    /// What receiving and sealing will take of the disk.
    pub need: Need,
}

impl Releases {
    /// Begins a push, or takes one up again: records the manifest and says which contents are missing.
    pub fn begin(&self, app: &AppName, manifest: &Manifest) -> Result<Missing, ReleaseError> {
        let wanted = checked(manifest)?;
        let staging = self.staging(app, manifest.digest());
        make_folder(&self.trees(app), 0o755)?;
        make_folder(&self.staging_root(app), 0o700)?;
        make_folder(&staging.join(OBJECTS), 0o700)?;
        make_folder(&staging.join(INCOMING), 0o700)?;
        crash::point("begin: folders");
        manifests::write(&staging.join(MANIFEST), manifest)?;
        self.lacking(app, manifest, &wanted)
    }

    /// The same without beginning anything: nothing is written.
    pub fn missing(&self, app: &AppName, manifest: &Manifest) -> Result<Missing, ReleaseError> {
        self.lacking(app, manifest, &checked(manifest)?)
    }

    fn lacking(
        &self,
        app: &AppName,
        manifest: &Manifest,
        wanted: &HashMap<Digest, u64>,
    ) -> Result<Missing, ReleaseError> {
        let donors = Donors::find(self, app, wanted)?;
        let artifact = manifest.digest();
        let objects = open_if_there(&self.staging(app, artifact).join(OBJECTS))?;
        let mut missing = Missing { artifact, digests: Vec::new(), bytes: 0, need: Need::default() };
        let mut seen = HashSet::new();
        for (_, size, digest) in manifest.files() {
            let first = seen.insert(digest);
            let here = first && objects.as_ref().is_some_and(|o| has_object(o, digest, size));
            let absent = first && !here && !donors.has(digest);
            if absent {
                missing.digests.push(digest);
                missing.bytes += size;
                // A second path with the same content, or one that another release has, may be a link.
                missing.need.bytes += on_blocks(size);
            }
        }
        // The tree's entries, the objects, and the folders that the manifest only implies.
        missing.need.inodes = 2 * manifest.entries().len() as u64 + missing.digests.len() as u64;
        Ok(missing)
    }

    /// Every artifact that was begun and neither sealed nor discarded, and when it last changed.
    pub fn staged(&self, app: &AppName) -> Result<Vec<(Digest, SystemTime)>, ReleaseError> {
        let root = self.staging_root(app);
        let mut out = Vec::new();
        for name in entry_names(&root)? {
            let Ok(artifact) = name.parse::<Digest>() else { continue };
            let staging = root.join(name);
            let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
            // A push that is taken up again writes its manifest, one that sends puts files into the others.
            let folders = [staging.join(OBJECTS), staging.join(INCOMING), staging];
            let last = folders.iter().filter_map(|f| changed(f)).max();
            out.push((artifact, last.unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        Ok(out)
    }

    /// The manifest that a push was begun with.
    pub(super) fn staged_manifest(&self, app: &AppName, artifact: Digest) -> Result<Manifest, ReleaseError> {
        let path = self.staging(app, artifact).join(MANIFEST);
        let manifest = manifests::read(&path)?.ok_or(ReleaseError::NotBegun { artifact })?;
        if manifest.digest() == artifact {
            Ok(manifest)
        } else {
            let reason = "it is another artifact's".to_owned();
            Err(ReleaseError::StoredManifest { path, reason })
        }
    }
}

/// What a file takes of the disk.
pub(super) fn on_blocks(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// The contents of a manifest of which nothing is wrong.
fn checked(manifest: &Manifest) -> Result<HashMap<Digest, u64>, ReleaseError> {
    manifest.check()?;
    check_links(manifest)?;
    manifests::contents(manifest)
}

/// Opens a folder of ours; `None` when there is none.
pub(super) fn open_if_there(path: &Path) -> Result<Option<Dir>, ReleaseError> {
    match Dir::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(ReleaseError::io("open", path)),
    }
}

/// Opens a folder of ours.
pub(super) fn open(path: &Path) -> Result<Dir, ReleaseError> {
    Dir::open(path).map_err(ReleaseError::io("open", path))
}

/// Whether a content was received: it got its name only once it was verified and durable.
pub(super) fn has_object(objects: &Dir, digest: Digest, size: u64) -> bool {
    let stat = objects.stat(digest.to_string().as_str());
    stat.ok().flatten().is_some_and(|s| Kind::of(&s) == Kind::File && s.st_size as u64 == size)
}
