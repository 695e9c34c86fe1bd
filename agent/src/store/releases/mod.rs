//! Release trees: what a push stages, and what an app runs from.
//!
//! ```text
//! <state_dir>/apps/<app>/staging/<artifact digest>/manifest.json   what was announced
//!                                                 /objects/<digest>  contents received, verified, durable
//!                                                 /.incoming/        contents on their way
//!                                                 /tree/             the tree while it is built
//!                       /releases/<label>-<digest8>/                 a sealed tree, root's, read-only
//!                       /releases/<label>-<digest8>.manifest.json    what it consists of
//!                       /writable/<label>-<digest8>/                 `writable` folders of that release
//! <apps_dir>/<app>/shared/<path>                                     `shared` folders, kept over releases
//! ```
//!
//! | module | does |
//! |---|---|
//! | [`staging`] | begins a push: which contents are missing |
//! | [`frames`] | the wire form of many files in one stream |
//! | [`encoding`] | that stream compressed |
//! | [`receive`] | takes that stream, verifying as it writes |
//! | [`seal`] | builds the tree and gives it its name |
//! | [`verify`] | compares a tree with its manifest |
//! | [`mounts`] | `writable` and `shared` folders |
//! | [`remove`] | lets go of trees and staging |
//!
//! Everything here survives a kill at any instant: the same call again goes on. A path is never followed
//! through a link. Nothing here decides which releases are kept; the driver does.

pub mod encoding;
pub mod error;
pub mod frames;
pub mod mounts;
pub mod peek;
pub mod receive;
pub mod remove;
pub mod seal;
pub mod staging;
pub mod verify;

mod donors;
mod links;
mod manifests;
mod place;

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use deployd_api::ids::{AppName, Digest, InvalidId, Label};

pub use encoding::Encoding;
pub use error::ReleaseError;

/// The release trees of a host. Cheap to clone; its calls block, save [`Releases::receive`].
#[derive(Debug, Clone)]
pub struct Releases {
    apps: PathBuf,
    app_states: PathBuf,
}

/// The name of a release tree: `<label>-<digest8>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeName {
    label: Label,
    digest8: String,
}

impl TreeName {
    /// The name of the tree of this release.
    pub fn new(label: Label, release: Digest) -> Self {
        Self { label, digest8: release.short() }
    }

    /// The release's label.
    pub fn label(&self) -> Label {
        self.label
    }
}

impl fmt::Display for TreeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.label, self.digest8)
    }
}

impl FromStr for TreeName {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let fail =
            || InvalidId { kind: "release tree", value: s.to_owned(), reason: "it must be v<N>-<8 hex>" };
        let (label, digest8) = s.split_once('-').ok_or_else(fail)?;
        if digest8.len() != 8 || !digest8.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(fail());
        }
        Ok(Self { label: label.parse()?, digest8: digest8.to_owned() })
    }
}

impl Releases {
    /// The trees below `state_dir`, and the apps' own states below `app_states`
    /// (`/var/lib/deployd-apps`). Clears what a crash left half written or half removed; call it once,
    /// before anything else runs.
    pub fn open(state_dir: &Path, app_states: &Path) -> Result<Self, ReleaseError> {
        let apps = state_dir.join("apps");
        make_folder(&apps, 0o755)?;
        make_folder(app_states, 0o755)?;
        let releases = Self { apps, app_states: app_states.to_owned() };
        releases.sweep()?;
        Ok(releases)
    }

    /// Where an app's trees are.
    fn trees(&self, app: &AppName) -> PathBuf {
        self.apps.join(app.as_str()).join("releases")
    }

    fn staging_root(&self, app: &AppName) -> PathBuf {
        self.apps.join(app.as_str()).join("staging")
    }

    fn staging(&self, app: &AppName, artifact: Digest) -> PathBuf {
        self.staging_root(app).join(artifact.to_string())
    }

    fn writable_root(&self, app: &AppName) -> PathBuf {
        self.apps.join(app.as_str()).join("writable")
    }

    /// The folder of a release tree.
    pub fn tree(&self, app: &AppName, name: &TreeName) -> PathBuf {
        self.trees(app).join(name.to_string())
    }

    fn manifest_path(&self, app: &AppName, name: &TreeName) -> PathBuf {
        self.trees(app).join(format!("{name}{MANIFEST_SUFFIX}"))
    }

    /// Every sealed tree of an app, newest label first.
    pub fn list(&self, app: &AppName) -> Result<Vec<TreeName>, ReleaseError> {
        let folder = self.trees(app);
        let names = entry_names(&folder)?;
        let mut trees: Vec<TreeName> = names.iter().filter_map(|n| n.parse().ok()).collect();
        trees.sort_by(|a, b| b.cmp(a));
        Ok(trees)
    }
}

/// What a tree's manifest is called, after the tree's name.
const MANIFEST_SUFFIX: &str = ".manifest.json";

/// Makes a folder with exactly this mode, whatever the umask; parents that are not there get 0755. One
/// that exists keeps its mode.
fn make_folder(path: &Path, mode: u32) -> Result<(), ReleaseError> {
    if let Some(parent) = path.parent().filter(|p| p.symlink_metadata().is_err()) {
        make_folder(parent, 0o755)?;
    }
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode))),
    };
    made.map_err(ReleaseError::io("make", path))
}

/// The names in a folder that are UTF-8, as all of ours are; none when there is no such folder.
fn entry_names(folder: &Path) -> Result<Vec<String>, ReleaseError> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(ReleaseError::io("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ReleaseError::io("list", folder))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod compressed;
#[cfg(test)]
mod tests;
