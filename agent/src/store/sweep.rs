//! Removing a whole tree, also one that an app could write: no links followed, no depth too deep,
//! nothing that cannot be removed stops the rest.
//!
//! Used by [`super::releases`] for trees, staging and private folders.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::dir::Type;
use nix::fcntl::renameat;

use super::dirfd::{Dir, Kind};

/// Folders open at once. Deeper ones are first moved up: an app can nest deeper than we have
/// descriptors.
const DEPTH_MAX: usize = 64;

/// What could not be removed, and why.
pub(crate) type Leftovers = Vec<(PathBuf, io::Error)>;

/// Removes `name` in `parent` and all below. `shown` is how leftovers are named.
pub(crate) fn remove_all(parent: &Dir, name: &OsStr, shown: &Path) -> Leftovers {
    let mut sweep = Sweep { top: None, hoisted: VecDeque::new(), count: 0, left: Vec::new() };
    match parent.stat(name) {
        Ok(None) => return Vec::new(),
        Ok(Some(stat)) if Kind::of(&stat) == Kind::Folder => {}
        Ok(Some(_)) => {
            sweep.note(parent.unlink(name), shown);
            return sweep.left;
        }
        Err(e) => return vec![(shown.to_owned(), e)],
    }
    match parent.child(name) {
        Ok(top) => {
            sweep.top = top.again().ok();
            sweep.empty(&top, shown, 0);
            while let Some(deep) = sweep.hoisted.pop_front() {
                let path = shown.join(&deep);
                match top.child(deep.as_os_str()) {
                    Ok(dir) => sweep.empty(&dir, &path, 0),
                    Err(e) => sweep.note(Err(e), &path),
                }
                let gone = top.remove_folder(deep.as_os_str());
                sweep.note_folder(gone, &path);
            }
        }
        Err(e) => sweep.note(Err(e), shown),
    }
    let gone = parent.remove_folder(name);
    sweep.note_folder(gone, shown);
    sweep.left
}

struct Sweep {
    /// Where folders that are too deep are moved.
    top: Option<Dir>,
    hoisted: VecDeque<OsString>,
    count: u64,
    left: Leftovers,
}

impl Sweep {
    fn empty(&mut self, dir: &Dir, shown: &Path, depth: usize) {
        let entries = match dir.entries() {
            Ok(entries) => entries,
            Err(e) => return self.note(Err(e), shown),
        };
        for (name, kind) in entries {
            let path = shown.join(&name);
            let folder = match kind {
                Some(kind) => kind == Type::Directory,
                None => {
                    dir.stat(name.as_os_str()).ok().flatten().is_some_and(|s| Kind::of(&s) == Kind::Folder)
                }
            };
            if folder {
                self.remove_folder(dir, &name, &path, depth);
            } else {
                self.note(dir.unlink(name.as_os_str()), &path);
            }
        }
    }

    fn remove_folder(&mut self, dir: &Dir, name: &OsStr, path: &Path, depth: usize) {
        if depth >= DEPTH_MAX && self.hoist(dir, name) {
            return;
        }
        match dir.child(name) {
            Ok(child) => self.empty(&child, path, depth + 1),
            Err(e) => return self.note(Err(e), path),
        }
        self.note_folder(dir.remove_folder(name), path);
    }

    /// Moves a folder to the top, to be emptied later. False when it cannot be moved.
    fn hoist(&mut self, dir: &Dir, name: &OsStr) -> bool {
        let Some(top) = &self.top else { return false };
        // A hoisted folder is named so that it is not met again while the top itself is being read.
        let moved = OsString::from(format!(".deployd-deep-{}", self.count));
        self.count += 1;
        let done = renameat(dir, name, top, moved.as_os_str()).is_ok();
        if done {
            self.hoisted.push_back(moved);
        }
        done
    }

    fn note(&mut self, result: io::Result<()>, path: &Path) {
        match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => self.left.push((path.to_owned(), e)),
            Ok(()) | Err(_) => {}
        }
    }

    /// A folder that is not empty is explained by what is left in it.
    fn note_folder(&mut self, result: io::Result<()>, path: &Path) {
        match result {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && !self.left.is_empty() => {}
            other => self.note(other, path),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_point_at_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/a/b")).unwrap();
        std::fs::create_dir(dir.path().join("precious")).unwrap();
        std::fs::write(dir.path().join("precious/x"), "x").unwrap();
        std::fs::write(dir.path().join("tree/a/f"), "x").unwrap();
        std::os::unix::fs::symlink("../../precious", dir.path().join("tree/a/link")).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert!(remove_all(&root, OsStr::new("tree"), Path::new("tree")).is_empty());
        assert!(!dir.path().join("tree").exists());
        assert!(dir.path().join("precious/x").exists());
        assert!(remove_all(&root, OsStr::new("tree"), Path::new("tree")).is_empty(), "gone is fine");
        std::os::unix::fs::symlink("precious", dir.path().join("tree")).unwrap();
        assert!(remove_all(&root, OsStr::new("tree"), Path::new("tree")).is_empty());
        assert!(dir.path().join("precious/x").exists());
    }

    #[test]
    fn nesting_deeper_than_our_descriptors_is_no_shelter() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = Dir::open(dir.path()).unwrap().make("tree", 0o755).unwrap();
        for _ in 0..3000 {
            at = at.make("d", 0o755).unwrap();
        }
        at.create_file("f", 0o644).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert!(remove_all(&root, OsStr::new("tree"), Path::new("tree")).is_empty());
        assert!(!dir.path().join("tree").exists());
    }

    #[test]
    fn what_cannot_be_removed_is_named_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tree/held")).unwrap();
        std::fs::write(dir.path().join("tree/held/f"), "x").unwrap();
        std::fs::write(dir.path().join("tree/other"), "x").unwrap();
        let held = dir.path().join("tree/held/f");
        let chattr =
            |flag: &str| Command::new("chattr").arg(flag).arg(&held).status().is_ok_and(|s| s.success());
        if !chattr("+i") {
            eprintln!("skipped: this file system has no immutable files");
            return;
        }
        let root = Dir::open(dir.path()).unwrap();
        let left = remove_all(&root, OsStr::new("tree"), Path::new("tree"));
        assert!(chattr("-i"));
        let paths: Vec<_> = left.iter().map(|(p, _)| p.clone()).collect();
        assert_eq!(paths, [Path::new("tree/held/f")]);
        assert!(!dir.path().join("tree/other").exists());
    }
}
