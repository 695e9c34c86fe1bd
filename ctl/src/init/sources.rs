//! Reads the folder of a project, within bounds: no large files, no folders of dependencies.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of one file that are looked at.
const FILE_BYTES: u64 = 1 << 20;
/// Files that a search looks into.
const FILES_MAX: usize = 2000;
/// Folders below the project that a search goes down.
const DEPTH_MAX: usize = 8;
/// Folders with code of others, or with results.
const NOT_SEARCHED: [&str; 13] = [
    "node_modules",
    "deps",
    "_build",
    "target",
    "vendor",
    "venv",
    "dist",
    "build",
    "test",
    "tests",
    "spec",
    "priv",
    "__pycache__",
];

/// A folder with a project.
#[derive(Debug)]
pub(super) struct Sources {
    folder: PathBuf,
}

impl Sources {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.folder.join(path).exists()
    }

    /// A text file; `None` when it is not there or is no text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        read(&self.folder.join(path))
    }

    /// Names in a folder, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The project's own files with one of these extensions, as (path, text), until `find` has what it wants.
    pub(super) fn search<T>(
        &self,
        extensions: &[&str],
        mut find: impl FnMut(&str, &str) -> Option<T>,
    ) -> Option<T> {
        let mut open = vec![(String::new(), 0)];
        let mut seen = 0;
        while let Some((folder, depth)) = open.pop() {
            for name in self.names(&folder) {
                let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
                let Ok(found) = fs::symlink_metadata(self.folder.join(&path)) else { continue };
                if found.is_dir() {
                    let is_hidden = name.starts_with('.') || NOT_SEARCHED.contains(&name.as_str());
                    if !is_hidden && depth < DEPTH_MAX {
                        open.push((path, depth + 1));
                    }
                    continue;
                }
                let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
                if !found.is_file() || !extensions.contains(&extension) {
                    continue;
                }
                seen += 1;
                if seen > FILES_MAX {
                    return None;
                }
                if let Some(result) = self.text(&path).and_then(|text| find(&path, &text)) {
                    return Some(result);
                }
            }
        }
        None
    }

    /// The name of the folder itself.
    pub(super) fn folder_name(&self) -> String {
        let whole = fs::canonicalize(&self.folder).unwrap_or_default();
        whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    File::open(path).ok()?.take(FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}
