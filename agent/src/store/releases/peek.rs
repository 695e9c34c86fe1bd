//! A look into an artifact before it is a tree: the beginnings of a few of its files, enough to see what
//! kind of program each is.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::{EntryKind, Manifest};

use super::Releases;
use super::donors::Donors;
use super::error::ReleaseError;
use super::links::{Followed, Links};
use super::staging::{OBJECTS, has_object, open_if_there};
use crate::store::disk::Need;

/// Enough for the program headers of an ELF file and the first line of a script.
const PEEK_BYTES: u64 = 64 * 1024;

/// An artifact that a push has begun.
#[derive(Debug)]
pub struct Staged {
    /// What it consists of.
    pub manifest: Arc<Manifest>,
    /// Whether all of its contents are here.
    pub complete: bool,
    /// What is still to be written to disk.
    pub need: Need,
    /// The beginnings of the files that were asked for, at their paths.
    pub peek: Peek,
    /// Those of them that the artifact has and whose contents have not arrived yet.
    pub unseen: BTreeSet<String>,
}

/// A folder that goes when it has been looked at. The agent's `/tmp` is its own, and ends with it.
#[derive(Debug)]
pub struct Peek(PathBuf);

impl Peek {
    fn new() -> Result<Self, ReleaseError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("deployd-peek-{}-{count}", std::process::id()));
        // One that somebody else made is not looked into.
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(ReleaseError::io("make", &path))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "a look into an artifact was not cleared");
        }
    }
}

impl Releases {
    /// What is known of an artifact that a push has begun; `None` when none has.
    pub fn peek(
        &self,
        app: &AppName,
        artifact: Digest,
        paths: &[String],
    ) -> Result<Option<Staged>, ReleaseError> {
        let manifest = match self.staged_manifest(app, artifact) {
            Ok(manifest) => manifest,
            Err(ReleaseError::NotBegun { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        self.look(app, Arc::new(manifest), paths).map(Some)
    }

    /// The same of an artifact that a push may begin: what is here of it already. Nothing of it stays.
    pub fn look(
        &self,
        app: &AppName,
        manifest: Arc<Manifest>,
        paths: &[String],
    ) -> Result<Staged, ReleaseError> {
        let missing = self.missing(app, &manifest)?;
        let (artifact, peek) = (missing.artifact, Peek::new()?);
        let mut unseen = BTreeSet::new();
        for path in paths {
            let Some(file) = resolve(&manifest, path) else { continue };
            if !self.peek_at(app, artifact, file, &peek.0.join(path))? {
                unseen.insert(path.clone());
            }
        }
        let complete = missing.digests.is_empty();
        Ok(Staged { complete, need: missing.need, manifest, peek, unseen })
    }

    /// Writes the beginning of a file to `to`; `false` when its contents are not here yet.
    fn peek_at(
        &self,
        app: &AppName,
        artifact: Digest,
        (executable, size, digest): (bool, u64, Digest),
        to: &Path,
    ) -> Result<bool, ReleaseError> {
        let Some(begin) = self.beginning(app, artifact, digest, size)? else { return Ok(false) };
        let io = |e| ReleaseError::io("write", to)(e);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let mode = if executable { 0o700 } else { 0o600 };
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(to);
        file.and_then(|mut f| f.write_all(&begin)).map_err(io)?;
        Ok(true)
    }

    fn beginning(
        &self,
        app: &AppName,
        artifact: Digest,
        digest: Digest,
        size: u64,
    ) -> Result<Option<Vec<u8>>, ReleaseError> {
        let objects_path = self.staging(app, artifact).join(OBJECTS);
        let mut begin = Vec::new();
        let objects = open_if_there(&objects_path)?;
        if objects.is_some_and(|objects| has_object(&objects, digest, size)) {
            let path = objects_path.join(digest.to_string());
            let file = std::fs::File::open(&path).map_err(ReleaseError::io("open", &path))?;
            file.take(PEEK_BYTES).read_to_end(&mut begin).map_err(ReleaseError::io("read", &path))?;
            return Ok(Some(begin));
        }
        let wanted = std::collections::HashMap::from([(digest, size)]);
        let donors = Donors::find(self, app, &wanted)?;
        let Some(donor) = donors.of(digest).iter().find_map(|d| d.open().ok()) else { return Ok(None) };
        donor
            .file
            .take(PEEK_BYTES)
            .read_to_end(&mut begin)
            .map_err(ReleaseError::io("read", &objects_path))?;
        Ok(Some(begin))
    }
}

/// The file that a path leads to, through links of the artifact, of which its folders may be some.
fn resolve(manifest: &Manifest, path: &str) -> Option<(bool, u64, Digest)> {
    let Followed::To(path) = Links::of(manifest).follow(path) else { return None };
    let at = manifest.entries().binary_search_by(|e| e.path.as_str().cmp(&path)).ok()?;
    match &manifest.entries()[at].kind {
        EntryKind::File { executable, size, digest } => Some((*executable, *size, *digest)),
        EntryKind::Dir | EntryKind::Link { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use deployd_api::manifest::Entry;

    use super::*;

    #[test]
    fn a_program_below_a_linked_folder_is_there() {
        let digest = Digest::of(b"app");
        let file = EntryKind::File { executable: true, size: 3, digest };
        let entry = |path: &str, kind| Entry { path: path.to_owned(), kind };
        let link = EntryKind::Link { target: "versions/v2".to_owned() };
        let entries = vec![entry("current", link), entry("versions/v2/bin/app", file)];
        let manifest = Manifest::new(entries).unwrap();
        assert_eq!(resolve(&manifest, "current/bin/app"), Some((true, 3, digest)));
        assert_eq!(resolve(&manifest, "current/bin/other"), None);
        assert_eq!(resolve(&manifest, "current"), None);
    }
}
