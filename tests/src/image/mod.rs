//! Debian roots that hosts boot from: made once by debootstrap, cached outside the work tree, never written again.
//!
//! A root's folder name carries the hash of its recipe, so a changed recipe makes a new root and old ones stay valid
//! for other checkouts. Called by [`crate::machine`] and by `cargo xtask test` before the first suite.

mod make;
mod recipe;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use recipe::Suite;

/// Where roots are kept unless [`CACHE_VARIABLE`] says otherwise.
const DEFAULT_CACHE: &str = "/var/cache/deployd-tests";
/// Overrides the cache folder.
pub const CACHE_VARIABLE: &str = "DEPLOYD_TEST_CACHE";

/// A finished Debian root.
#[derive(Clone, Debug)]
pub struct Image {
    suite: Suite,
    root: PathBuf,
}

impl Image {
    /// Finds the root of `suite` in the cache or makes it (about 80 seconds). Several processes may ask at once.
    pub fn ensure(suite: Suite) -> Result<Self> {
        Self::ensure_with(suite, &[])
    }

    /// The same with more Debian packages: a root of its own, for benchmarks that compare with other programs.
    pub fn ensure_with(suite: Suite, packages: &[&'static str]) -> Result<Self> {
        let mut recipe = recipe::Recipe::of(suite);
        recipe.packages.extend(packages);
        let root = cache_dir().join("roots").join(format!("{}-{}", suite.name(), recipe.hash()));
        if !root.is_dir() {
            make::make(&recipe, &root)?;
        }
        Ok(Self { suite, root })
    }

    /// Which Debian this is.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The folder of the root. Read-only by convention: hosts see it through an overlay.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// The cache folder: everything expensive that outlives a checkout.
pub fn cache_dir() -> PathBuf {
    env::var_os(CACHE_VARIABLE).map_or_else(|| PathBuf::from(DEFAULT_CACHE), PathBuf::from)
}
