//! Manifests on disk: written beside what they describe, checked again whenever they are read.
//!
//! It never believes a stored manifest that fails the rules of a received one.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::Manifest;

use super::error::ReleaseError;
use super::{Releases, TreeName};
use crate::store::atomic;

impl Releases {
    /// The manifest of a sealed tree.
    pub fn manifest(&self, app: &AppName, name: &TreeName) -> Result<Manifest, ReleaseError> {
        let path = self.manifest_path(app, name);
        read(&path)?.ok_or_else(|| ReleaseError::NoTree { path: self.tree(app, name) })
    }
}

/// Reads and checks a manifest; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Manifest>, ReleaseError> {
    let damaged = |reason: String| ReleaseError::StoredManifest { path: path.to_owned(), reason };
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(ReleaseError::io("read", path))?,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    manifest.check().map_err(|e| damaged(e.to_string()))?;
    Ok(Some(manifest))
}

/// Writes a manifest durably.
pub(super) fn write(path: &Path, manifest: &Manifest) -> Result<(), ReleaseError> {
    let bytes = serde_json::to_vec(manifest)
        .map_err(|e| ReleaseError::StoredManifest { path: path.to_owned(), reason: e.to_string() })?;
    Ok(atomic::write(path, &bytes, 0o644)?)
}

/// Every content of a manifest and its size. Refuses sizes that contradict each other or overflow.
pub(super) fn contents(manifest: &Manifest) -> Result<HashMap<Digest, u64>, ReleaseError> {
    let mut sizes = HashMap::new();
    let mut total: u64 = 0;
    for (path, size, digest) in manifest.files() {
        // Room for rounding up to blocks, later.
        total = total.checked_add(size).filter(|t| *t < 1 << 62).ok_or(ReleaseError::TooLarge)?;
        if *sizes.entry(digest).or_insert(size) != size {
            return Err(ReleaseError::TwoSizes { digest, path: path.to_owned() });
        }
    }
    Ok(sizes)
}
