//! All config files as one: `agent.toml`, then the additions in order of name; the last one wins.
//!
//! A missing file or folder is an empty one. Every value remembers where it is from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::ADDITIONS;
use super::file::{self, ConfigError, Key, Value};

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is the default.
    Default,
    /// It was written.
    File {
        /// In which file.
        file: PathBuf,
        /// At which line, from 1.
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line } => write!(f, "{}:{line}", file.display()),
        }
    }
}

/// The last value written for each key.
pub(super) type Merged = BTreeMap<Key, (Value, PathBuf, usize)>;

/// Reads the file and the `agent.d/*.toml` beside it.
pub(super) fn read(main: &Path) -> (Merged, Vec<ConfigError>) {
    let (mut merged, mut errors) = (Merged::new(), Vec::new());
    let folder = main.with_file_name(ADDITIONS);
    let additions = additions(&folder).unwrap_or_else(|e| {
        errors.push(unreadable(&folder, &e));
        Vec::new()
    });
    for path in std::iter::once(main.to_owned()).chain(additions) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let (entries, wrong) = file::parse(&path, &text);
                errors.extend(wrong);
                merged.extend(entries.into_iter().map(|e| (e.key, (e.value, path.clone(), e.line))));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => errors.push(unreadable(&path, &e)),
        }
    }
    (merged, errors)
}

fn additions(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // What an editor or dpkg leaves (`.x.toml.swp`, `x.toml.dpkg-new`) has another ending.
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|e| e == "toml") && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError { file: path.to_owned(), line: None, what: format!("cannot be read: {error}"), hint: None }
}
