//! The files of an artifact. The manifest decides identity and what has to be sent.
//!
//! Invariant: a [`Manifest`] made by [`Manifest::new`] is sorted, has no duplicate, and every path in
//! it stays inside the tree. The agent checks again what it receives.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Longest path in an artifact, in bytes.
pub const PATH_MAX: usize = 1024;
/// Most entries in an artifact.
pub const ENTRIES_MAX: usize = 500_000;

/// One path of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Relative path, `/` between parts, UTF-8, no `.` or `..` part.
    pub path: String,
    /// What stands there.
    pub kind: EntryKind,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Whether any execute bit was set: files are stored 0755 or 0644, never setuid or group-writable.
        executable: bool,
        /// Bytes.
        size: u64,
        /// BLAKE3 of the content.
        digest: Digest,
    },
    /// A folder (needed for empty ones; parents of files are implied).
    Dir,
    /// A symbolic link whose target stays inside the tree.
    Link {
        /// The target as stored, relative to the link's folder.
        target: String,
    },
}

/// The sorted entries of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the artifact's path {path:?} is refused: {reason}")]
pub struct InvalidManifest {
    /// The path, as given.
    pub path: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl Manifest {
    /// Sorts and checks the entries.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidManifest> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let manifest = Self { entries };
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks a manifest that came over the wire: sorted, unique, inside the tree.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        let fail = |path: &str, reason| Err(InvalidManifest { path: path.to_owned(), reason });
        if self.entries.len() > ENTRIES_MAX {
            return fail("", "more than 500,000 entries");
        }
        for pair in self.entries.windows(2) {
            if pair[0].path >= pair[1].path {
                return fail(&pair[1].path, "entries are not sorted or a path stands twice");
            }
        }
        let by_path: std::collections::HashMap<&str, &EntryKind> =
            self.entries.iter().map(|e| (e.path.as_str(), &e.kind)).collect();
        for entry in &self.entries {
            if let Err(reason) = check_path(&entry.path) {
                return fail(&entry.path, reason);
            }
            for (at, _) in entry.path.match_indices('/') {
                match by_path.get(&entry.path[..at]) {
                    Some(EntryKind::Dir) | None => {}
                    Some(_) => return fail(&entry.path, "its parent is not a folder"),
                }
            }
            if let EntryKind::Link { target } = &entry.kind
                && let Err(reason) = check_link(&entry.path, target)
            {
                return fail(&entry.path, reason);
            }
        }
        Ok(())
    }

    /// The entries, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The digest of the artifact: over every path, kind, mode bit, size and content digest.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        for e in &self.entries {
            let line = match &e.kind {
                EntryKind::File { executable, size, digest } => {
                    format!("f {} {size} {digest} {}\0", u8::from(*executable), e.path)
                }
                EntryKind::Dir => format!("d {}\0", e.path),
                EntryKind::Link { target } => format!("l {}\0{target}\0", e.path),
            };
            hasher.update(line.as_bytes());
        }
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }

    /// The sum of all file sizes, in bytes.
    pub fn total_size(&self) -> u64 {
        self.files().map(|(_, size, _)| size).sum()
    }

    /// Every regular file: path, size, digest.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64, Digest)> {
        self.entries.iter().filter_map(|e| match &e.kind {
            EntryKind::File { size, digest, .. } => Some((e.path.as_str(), *size, *digest)),
            EntryKind::Dir | EntryKind::Link { .. } => None,
        })
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err("a path must have 1 to 1024 bytes");
    }
    if path.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("control characters are not allowed in a path");
    }
    for part in path.split('/') {
        match part {
            "" => return Err("absolute paths and empty parts are not allowed"),
            "." | ".." => return Err("`.` and `..` are not allowed in a path"),
            _ if part.len() > 255 => return Err("a part of a path may have at most 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// A link may point anywhere inside the tree, never out of it: `depth` never falls below the root.
fn check_link(path: &str, target: &str) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > PATH_MAX || target.contains('\0') {
        return Err("a link's target must have 1 to 1024 bytes");
    }
    if target.starts_with('/') {
        return Err("a link to an absolute path leaves the tree");
    }
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or("its target leaves the tree")?,
            _ => depth += 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let kind = EntryKind::File { executable: false, size: 1, digest: Digest::of(b"x") };
        Entry { path: path.into(), kind }
    }
    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.into(), kind: EntryKind::Link { target: target.into() } }
    }

    #[test]
    fn order_of_input_does_not_change_the_digest() {
        let a = Manifest::new(vec![file("b"), file("a")]).unwrap();
        let b = Manifest::new(vec![file("a"), file("b")]).unwrap();
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        for bad in ["/a", "a/../b", "..", "a//b", "", "a/", "./a", "a\nb"] {
            assert!(Manifest::new(vec![file(bad)]).is_err(), "{bad:?}");
        }
        for (path, target) in [("a", "../b"), ("d/a", "../../b"), ("a", "/etc/passwd"), ("a", "b/../../c")] {
            assert!(Manifest::new(vec![link(path, target)]).is_err(), "{path} -> {target}");
        }
        assert!(Manifest::new(vec![link("d/a", "../b"), link("x", "d/../y")]).is_ok());
    }

    #[test]
    fn a_file_below_a_link_or_file_is_refused() {
        assert!(Manifest::new(vec![link("a", "b"), file("a/x")]).is_err());
        assert!(Manifest::new(vec![file("a"), file("a/x")]).is_err());
        // Sorted order may put other names between a path and what stands below it.
        assert!(Manifest::new(vec![link("a", "b"), file("a-b"), file("a/x")]).is_err());
    }

    #[test]
    fn duplicates_are_refused() {
        assert!(Manifest::new(vec![file("a"), file("a")]).is_err());
    }
}
