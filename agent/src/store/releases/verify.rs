//! Compares a tree with its manifest: nothing missing, nothing more, nothing changed.
//!
//! It reads, never writes. Sealing calls it before a tree gets its name; `doctor` calls it for the
//! tree of the live release, by content.

use std::collections::HashMap;
use std::io;

use deployd_api::ids::AppName;
use deployd_api::manifest::{Entry, EntryKind, Manifest};

use super::donors::{hash, mode};
use super::error::ReleaseError;
use super::staging::open;
use super::{Releases, TreeName};
use crate::store::dirfd::{Dir, Kind, split};

/// How closely files are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Kind, owner, mode, size, link targets.
    Shape,
    /// Also every byte.
    Content,
}

impl Releases {
    /// Compares a sealed tree with the manifest that was sealed with it.
    pub fn verify(&self, app: &AppName, name: &TreeName, depth: Depth) -> Result<(), ReleaseError> {
        let manifest = self.manifest(app, name)?;
        let path = self.tree(app, name);
        if path.symlink_metadata().is_err() {
            return Err(ReleaseError::NoTree { path });
        }
        verify_tree(&open(&path)?, &manifest, depth)
    }
}

/// Empty folders that the manifest does not have are no difference: mount points are made in the tree.
pub(super) fn verify_tree(tree: &Dir, manifest: &Manifest, depth: Depth) -> Result<(), ReleaseError> {
    let fail = |path: &str, reason| Err(ReleaseError::NotAsSealed { path: path.to_owned(), reason });
    for entry in manifest.entries() {
        match verify_entry(tree, entry, depth) {
            Ok(None) => {}
            Ok(Some(reason)) => return fail(&entry.path, reason),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return fail(&entry.path, "its folder is missing");
            }
            Err(_) => return fail(&entry.path, "it cannot be read"),
        }
    }
    let known = known_paths(manifest);
    for folder in known.iter().filter(|(_, is_folder)| **is_folder).map(|(path, _)| path) {
        let Ok(dir) = tree.descend(folder) else { return fail(folder, "it is no folder") };
        let Ok(entries) = dir.entries() else { return fail(folder, "it cannot be read") };
        for (name, _) in entries {
            let path = match name.to_str() {
                Some(name) if folder.is_empty() => name.to_owned(),
                Some(name) => format!("{folder}/{name}"),
                None => return fail(folder, "it holds a name that is not UTF-8"),
            };
            if !known.contains_key(path.as_str()) && !holds_only_folders(tree, &path) {
                return fail(&path, "it is not part of the artifact");
            }
        }
    }
    Ok(())
}

/// What is wrong with an entry, if anything.
fn verify_entry(tree: &Dir, entry: &Entry, depth: Depth) -> io::Result<Option<&'static str>> {
    let (parent, name) = split(&entry.path);
    let folder = tree.descend(parent)?;
    let Some(stat) = folder.stat(name)? else { return Ok(Some("it is missing")) };
    if stat.st_uid != nix::unistd::geteuid().as_raw() {
        return Ok(Some("it has another owner"));
    }
    let kind = Kind::of(&stat);
    Ok(match &entry.kind {
        EntryKind::Dir if kind != Kind::Folder => Some("it is no folder"),
        EntryKind::Dir if stat.st_mode & 0o7777 != 0o755 => Some("it has another mode"),
        EntryKind::Dir => None,
        EntryKind::Link { target } if kind == Kind::Link => {
            (folder.read_link(name)? != target.as_str()).then_some("it points elsewhere")
        }
        EntryKind::Link { .. } => Some("it is no link"),
        EntryKind::File { .. } if kind != Kind::File => Some("it is no regular file"),
        EntryKind::File { executable, .. } if stat.st_mode & 0o7777 != mode(*executable) => {
            Some("it has another mode")
        }
        EntryKind::File { size, .. } if stat.st_size as u64 != *size => Some("it has another size"),
        EntryKind::File { digest, .. } => match depth {
            Depth::Shape => None,
            Depth::Content if hash(&mut folder.open_file(name)?)? == *digest => None,
            Depth::Content => Some("it has another content"),
        },
    })
}

/// Every path of the tree, implied folders and the root included; true for folders.
fn known_paths(manifest: &Manifest) -> HashMap<&str, bool> {
    let mut known = HashMap::from([("", true)]);
    for entry in manifest.entries() {
        known.insert(entry.path.as_str(), entry.kind == EntryKind::Dir);
        for (at, _) in entry.path.match_indices('/') {
            known.insert(&entry.path[..at], true);
        }
    }
    known
}

/// A mount point that was made in the tree, with the folders it needed.
fn holds_only_folders(tree: &Dir, path: &str) -> bool {
    let Ok(dir) = tree.descend(path) else { return false };
    let Ok(entries) = dir.entries() else { return false };
    entries
        .iter()
        .all(|(name, _)| name.to_str().is_some_and(|n| holds_only_folders(tree, &format!("{path}/{n}"))))
}
