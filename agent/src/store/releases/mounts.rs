//! The folders of a release that its app may write: `writable` ones, private to the release, and
//! `shared` ones, kept over releases.
//!
//! The tree itself stays root's: what the app writes lives elsewhere and is mounted over the folder of
//! that name, which this makes exist. How a unit mounts it is decided where units are written. An app owns
//! the folder its shared ones are in, so nothing there is reached through a link.

use std::io;
use std::path::PathBuf;

use deployd_api::ids::AppName;
use deployd_api::manifest::{Entry, EntryKind, Manifest};
use deployd_core::units::folder_name;
use nix::fcntl::{AtFlags, renameat};
use nix::unistd::{fchownat, symlinkat};

use super::donors::mode;
use super::error::ReleaseError;
use super::staging::open;
use super::{Releases, TreeName, make_folder};
use crate::store::dirfd::{Dir, Kind, split};
use crate::store::{crash, sweep};

/// Mode of a folder that is the app's own.
const PRIVATE_MODE: u32 = 0o750;

/// The folders that a spec asks for.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    /// Private to the release; they begin with what the artifact has there.
    pub writable: &'a [String],
    /// Kept over releases; they begin empty, and hide what the artifact has there.
    pub shared: &'a [String],
}

/// Who owns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The app's user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A folder to mount: `BindPaths=source:target`. Neither path holds a character that needs quoting,
/// unless the spec's own path does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where the files are.
    pub source: PathBuf,
    /// Where the app sees them, in the release's tree.
    pub target: PathBuf,
}

impl Releases {
    /// Makes every folder and its mount point exist, and returns the mounts, outer ones first. Again with
    /// the same arguments it changes nothing.
    pub fn prepare_dirs(
        &self,
        app: &AppName,
        name: &TreeName,
        folders: Folders<'_>,
        owner: Owner,
    ) -> Result<Vec<Mount>, ReleaseError> {
        let manifest = self.manifest(app, name)?;
        let tree_path = self.tree(app, name);
        let tree = open(&tree_path)?;
        let mut mounts: Vec<(String, Mount, Dir)> = Vec::new();
        for (path, sort) in sorted(folders)? {
            let fail = |reason| ReleaseError::Mount { path: path.to_owned(), reason };
            tree.make_path(path, 0o755).map_err(|_| fail("the artifact has a file or link on the way"))?;
            let (source, dir) = match sort {
                Sort::Writable => self.writable(app, name, path, &manifest, owner)?,
                Sort::Shared => self.shared(app, path, owner)?,
            };
            // What is mounted inside another mount needs its mount point there too.
            for (outer, _, outer_dir) in &mounts {
                if let Some(inner) = path.strip_prefix(outer.as_str()).and_then(|p| p.strip_prefix('/')) {
                    make_owned(outer_dir, inner, owner)
                        .map_err(|_| fail("a file or link is on the way in the folder around it"))?;
                }
            }
            mounts.push((path.to_owned(), Mount { source, target: tree_path.join(path) }, dir));
        }
        nix::unistd::syncfs(&tree).map_err(|e| ReleaseError::io("sync", &tree_path)(e.into()))?;
        Ok(mounts.into_iter().map(|(_, mount, _)| mount).collect())
    }

    fn writable(
        &self,
        app: &AppName,
        name: &TreeName,
        path: &str,
        manifest: &Manifest,
        owner: Owner,
    ) -> Result<(PathBuf, Dir), ReleaseError> {
        let root_path = self.writable_root(app).join(name.to_string());
        make_folder(&root_path, 0o755)?;
        let root = open(&root_path)?;
        let leaf = folder_name(path);
        let source = root_path.join(&leaf);
        let io = |doing| ReleaseError::io(doing, &source);
        if root.stat(leaf.as_str()).map_err(io("look at"))?.is_none() {
            // Filled under another name first: a crash must not leave a folder with half its files.
            let filling = format!(".{leaf}.new");
            if let Some((path, source)) = sweep::remove_all(&root, filling.as_ref(), &source).pop() {
                return Err(ReleaseError::Io { doing: "remove", path, source });
            }
            let dir = root.make(&filling, PRIVATE_MODE).map_err(io("make"))?;
            crash::point("writable: made");
            let tree = open(&self.tree(app, name))?;
            fill(&tree, path, manifest, &dir, owner).map_err(io("fill"))?;
            dir.chown(owner.uid, owner.gid).map_err(io("give away"))?;
            crash::point("writable: filled");
            renameat(&root, filling.as_str(), &root, leaf.as_str()).map_err(|e| io("name")(e.into()))?;
        }
        let dir = root.child(leaf.as_str()).map_err(io("open"))?;
        Ok((source, dir))
    }

    fn shared(&self, app: &AppName, path: &str, owner: Owner) -> Result<(PathBuf, Dir), ReleaseError> {
        let fail = |reason| ReleaseError::Mount { path: path.to_owned(), reason };
        let root = open(&self.app_states)?;
        let below = format!("{app}/shared/{path}");
        let source = self.app_states.join(&below);
        let dir = make_owned(&root, &below, owner)
            .map_err(|_| fail("a link or file of the app is on the way, or the disk refuses"))?;
        Ok((source, dir))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Writable,
    Shared,
}

/// Outer folders first; a folder cannot be both, and a plain relative path is all it may be.
fn sorted(folders: Folders<'_>) -> Result<Vec<(&str, Sort)>, ReleaseError> {
    let all = folders.writable.iter().map(|p| (p.as_str(), Sort::Writable));
    let mut all: Vec<_> = all.chain(folders.shared.iter().map(|p| (p.as_str(), Sort::Shared))).collect();
    all.sort_by_key(|(path, _)| *path);
    all.dedup();
    let fail = |path: &str, reason| Err(ReleaseError::Mount { path: path.to_owned(), reason });
    for (path, _) in &all {
        // A path that a manifest may have is one that stays inside the tree.
        let entry = Entry { path: (*path).to_owned(), kind: EntryKind::Dir };
        if Manifest::new(vec![entry]).is_err() {
            return fail(path, "it must be a path below the release's root, without `.` or `..`");
        }
    }
    match all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => fail(pair[0].0, "it cannot be both writable and shared"),
        None => Ok(all),
    }
}

/// Makes every folder of a path that is not there, the app's own. Those that exist are given to it when
/// they have another owner: an app that comes back has a new user.
fn make_owned(root: &Dir, path: &str, owner: Owner) -> io::Result<Dir> {
    let mut at = root.again()?;
    for name in path.split('/') {
        let stat = at.stat(name)?;
        at = if stat.is_none() { at.make(name, PRIVATE_MODE)? } else { at.child(name)? };
        if stat.is_none_or(|s| s.st_uid != owner.uid || s.st_gid != owner.gid) {
            at.chown(owner.uid, owner.gid)?;
        }
    }
    Ok(at)
}

/// Copies what the artifact has at `path` into the app's folder, the app's own. By the manifest, so it is
/// as large as that and no more.
fn fill(tree: &Dir, path: &str, manifest: &Manifest, into: &Dir, owner: Owner) -> io::Result<()> {
    for entry in manifest.entries() {
        let Some(inner) = entry.path.strip_prefix(path).and_then(|p| p.strip_prefix('/')) else { continue };
        let (parent, name) = split(inner);
        let folder = if parent.is_empty() { into.again()? } else { make_owned(into, parent, owner)? };
        match &entry.kind {
            EntryKind::Dir => drop(make_owned(into, inner, owner)?),
            EntryKind::Link { target } => symlinkat(target.as_str(), &folder, name)?,
            EntryKind::File { executable, .. } => {
                let (from_parent, from_name) = split(&entry.path);
                let mut from = tree.descend(from_parent)?.open_file(from_name)?;
                let mut file = folder.create_file(name, mode(*executable))?;
                io::copy(&mut from, &mut file)?;
            }
        }
        if folder.stat(name)?.is_some_and(|s| Kind::of(&s) != Kind::Folder) {
            let (uid, gid) = (Some(owner.uid.into()), Some(owner.gid.into()));
            fchownat(&folder, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
