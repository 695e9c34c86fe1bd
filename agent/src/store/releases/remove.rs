//! Letting go of trees and staging, and of what a crash left half done.
//!
//! What cannot be removed is reported, never fatal: a deployment that is live stays live.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use deployd_api::ids::{AppName, Digest};

use super::error::ReleaseError;
use super::staging::{INCOMING, open};
use super::{MANIFEST_SUFFIX, Releases, TreeName, entry_names};
use crate::store::{atomic, crash, sweep};

/// A tree that is being removed is called this first, so that half of one is never taken for a release.
const REMOVING: &str = ".removing-";

/// What a removal left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Removed {
    /// Paths that could not be removed, and why.
    pub leftovers: Vec<(PathBuf, String)>,
}

impl Removed {
    fn add(&mut self, left: sweep::Leftovers) {
        self.leftovers.extend(left.into_iter().map(|(path, e)| (path, e.to_string())));
    }
}

impl Releases {
    /// Removes a release's tree, its manifest and its private folders. That it is gone is no error.
    pub fn remove(&self, app: &AppName, name: &TreeName) -> Result<Removed, ReleaseError> {
        let mut removed = Removed::default();
        let path = self.tree(app, name);
        if path.symlink_metadata().is_ok() {
            let hidden = free_name(&self.trees(app), &format!("{REMOVING}{name}"));
            std::fs::rename(&path, self.trees(app).join(&hidden))
                .map_err(ReleaseError::io("remove", &path))?;
            crash::point("remove: hidden");
            atomic::remove(&self.manifest_path(app, name))?;
            removed.add(remove_in(&self.trees(app), &hidden)?);
        } else {
            atomic::remove(&self.manifest_path(app, name))?;
        }
        let writable = self.writable_root(app);
        if writable.symlink_metadata().is_ok() {
            removed.add(remove_in(&writable, &name.to_string())?);
        }
        Ok(removed)
    }

    /// Forgets a push that was begun: what was received is gone.
    pub fn discard(&self, app: &AppName, artifact: Digest) -> Result<Removed, ReleaseError> {
        let root = self.staging_root(app);
        let mut removed = Removed::default();
        if root.symlink_metadata().is_ok() {
            removed.add(remove_in(&root, &artifact.to_string())?);
        }
        Ok(removed)
    }

    /// The apps that have a folder, known to the host or not.
    pub fn apps(&self) -> Result<Vec<AppName>, ReleaseError> {
        Ok(entry_names(&self.apps)?.iter().filter_map(|n| n.parse().ok()).collect())
    }

    /// Forgets the pushes of an app that were begun and did not change since `before`: refused, or
    /// interrupted. Answers how many.
    pub fn collect_staging(&self, app: &AppName, before: SystemTime) -> Result<usize, ReleaseError> {
        let mut collected = 0;
        for (artifact, _) in self.staged(app)?.into_iter().filter(|(_, changed)| *changed < before) {
            self.discard_quietly(app, artifact);
            collected += 1;
        }
        Ok(collected)
    }

    /// Removes the folders of an app that never came to a release, if nothing is in them.
    pub fn forget_empty(&self, app: &AppName) {
        for folder in [self.staging_root(app), self.trees(app), self.apps.join(app.as_str())] {
            // Only when empty: whatever stands there is somebody's.
            drop(std::fs::remove_dir(folder));
        }
    }

    /// Removes every tree, staging and private folder of an app; its own state is not touched.
    pub fn remove_app(&self, app: &AppName) -> Result<Removed, ReleaseError> {
        let mut removed = Removed::default();
        removed.add(remove_in(&self.apps, app.as_str())?);
        Ok(removed)
    }

    /// Staging is of no more use, and no reason to fail: a leftover is removed at the next push.
    pub(super) fn discard_quietly(&self, app: &AppName, artifact: Digest) {
        match self.discard(app, artifact) {
            Ok(removed) if removed.leftovers.is_empty() => {}
            Ok(removed) => tracing::warn!(?removed.leftovers, "staging was not wholly removed"),
            Err(error) => tracing::warn!(%error, "staging was not removed"),
        }
    }

    /// Clears what a crash left: half-removed trees, manifests without a tree, contents on their way.
    pub(super) fn sweep(&self) -> Result<(), ReleaseError> {
        for app in entry_names(&self.apps)? {
            let Ok(app) = app.parse::<AppName>() else { continue };
            self.sweep_trees(&app)?;
            let root = self.staging_root(&app);
            for artifact in entry_names(&root)? {
                let staging = root.join(&artifact);
                if staging.join(INCOMING).symlink_metadata().is_ok() {
                    warn_left(remove_in(&staging, INCOMING)?);
                    super::make_folder(&staging.join(INCOMING), 0o700)?;
                    atomic::sweep(&staging)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_trees(&self, app: &AppName) -> Result<(), ReleaseError> {
        let trees = self.trees(app);
        if trees.symlink_metadata().is_err() {
            return Ok(());
        }
        atomic::sweep(&trees)?;
        for name in entry_names(&trees)? {
            let tree = name.strip_suffix(MANIFEST_SUFFIX).and_then(|n| n.parse::<TreeName>().ok());
            if name.starts_with(REMOVING) {
                warn_left(remove_in(&trees, &name)?);
            } else if tree.is_some_and(|t| self.tree(app, &t).symlink_metadata().is_err()) {
                atomic::remove(&trees.join(&name))?;
            }
        }
        let writable = self.writable_root(app);
        for name in entry_names(&writable)? {
            let known = name.parse::<TreeName>().is_ok_and(|t| self.tree(app, &t).symlink_metadata().is_ok());
            if !known {
                warn_left(remove_in(&writable, &name)?);
            }
        }
        Ok(())
    }
}

fn remove_in(folder: &Path, name: &str) -> Result<sweep::Leftovers, ReleaseError> {
    Ok(sweep::remove_all(&open(folder)?, OsStr::new(name), &folder.join(name)))
}

fn warn_left(left: sweep::Leftovers) {
    for (path, error) in left {
        tracing::warn!(path = %path.display(), %error, "a leftover cannot be removed");
    }
}

/// This name, or with a number when a leftover has it.
fn free_name(folder: &Path, name: &str) -> String {
    let mut free = name.to_owned();
    let mut n = 1;
    while folder.join(&free).symlink_metadata().is_ok() {
        free = format!("{name}.{n}");
        n += 1;
    }
    free
}
