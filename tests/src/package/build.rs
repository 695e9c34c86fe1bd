//! Release builds: static executables, and the bind shim as a shared library.
//!
//! Executables are linked statically so that one build runs on every supported distribution. The shim is loaded into
//! programs of the host and must use *their* libc, so it is built apart, without that flag.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{repository, target_dir};

/// Where the built files are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Static executables: `deployd`, `deployd-exec`, `deployd-ctl`.
    pub executables: PathBuf,
    /// `libdeployd_bind.so`.
    pub shim: PathBuf,
}

impl Binaries {
    /// The file of a `bin:` entry of a package.
    pub(super) fn find(&self, name: &str) -> PathBuf {
        let is_library = Path::new(name).extension().is_some_and(|extension| extension == "so");
        if is_library { self.shim.clone() } else { self.executables.join(name) }
    }
}

/// Builds both kinds. Target folders of their own keep the flags from invalidating other builds.
pub fn build() -> Result<Binaries> {
    let triple = host_triple()?;
    let static_dir = target_dir().join("package");
    let shim_dir = target_dir().join("package-shim");
    let executables = ["-p", "deployd", "-p", "deployd-ctl", "--bins"];
    cargo_build(&triple, &static_dir, "-C target-feature=+crt-static", &executables)?;
    // Without unwinding the shim needs no std, and with that no symbol of a recent glibc.
    cargo_build(&triple, &shim_dir, "-C panic=abort", &["-p", "deployd-bind", "--lib"])?;
    Ok(Binaries {
        executables: static_dir.join(&triple).join("release"),
        shim: shim_dir.join(&triple).join("release").join("libdeployd_bind.so"),
    })
}

fn cargo_build(triple: &str, target: &Path, flags: &str, what: &[&str]) -> Result<()> {
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repository())
        // --target keeps the flags away from build scripts and procedural macros.
        .args(["build", "--release", "--locked", "--target", triple, "--target-dir"])
        .arg(target)
        .args(what)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("failed to run cargo")?;
    if !status.success() {
        bail!("failed to build {what:?}: cargo ended with {status}");
    }
    Ok(())
}

/// The triple of this machine, as the compiler says.
fn host_triple() -> Result<String> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("failed to run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV names no host")
}
