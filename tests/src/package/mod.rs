//! Release binaries and the two Debian packages, built the same way for users, suites and benchmarks.
//!
//! `packaging/deb/NAME/` describes a package (control, maintainer scripts, `files`); nothing here knows its contents.
//! Called by `cargo xtask package` and, through [`crate::deb`], by suites.

mod assemble;
mod build;
mod verify;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use assemble::assemble;
pub use build::{Binaries, build};
pub use verify::verify;

/// The two packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packages {
    /// `deployd`: the agent.
    pub agent: PathBuf,
    /// `deployd-ctl`.
    pub ctl: PathBuf,
}

/// Builds, verifies and packs everything at the workspace's version.
pub fn build_packages() -> Result<Packages> {
    let binaries = build()?;
    verify(&binaries)?;
    assemble(&binaries, env!("CARGO_PKG_VERSION"))
}

/// The folder of the repository: as cargo and nextest say at run time, else as it was when this was compiled (two
/// checkouts may share a target folder).
pub fn repository() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map(Path::to_owned).unwrap_or(package)
}

/// Cargo's target folder.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}
