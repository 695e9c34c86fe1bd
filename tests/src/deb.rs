//! The packages in a host: found or built, and installed with dpkg as an administrator would.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::machine::Host;
use crate::package::{self, Packages};

/// Set by `cargo xtask test` to the folder of the packages that it has just built.
pub const FOLDER_VARIABLE: &str = "DEPLOYD_TEST_DEBS";

/// The packages of this checkout: those that xtask built, or built now.
pub fn packages() -> Result<Packages> {
    let Some(folder) = env::var_os(FOLDER_VARIABLE).map(PathBuf::from) else {
        return package::build_packages();
    };
    let find = |prefix: &str| {
        let version = env!("CARGO_PKG_VERSION");
        let files = fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))?;
        let wanted = format!("{prefix}_{version}_");
        // Whatever else starts like this is the folder of a package that is being packed.
        let is_package = |name: &str| name.starts_with(&wanted);
        let found = files
            .flatten()
            .find(|file| file.path().is_file() && is_package(&file.file_name().to_string_lossy()));
        let found = found.with_context(|| format!("no {wanted}*.deb in {}", folder.display()))?;
        anyhow::Ok(found.path())
    };
    Ok(Packages { agent: find("deployd")?, ctl: find("deployd-ctl")? })
}

/// Installs or upgrades both packages with one `dpkg -i`; returns what it printed.
pub fn install(host: &Host, packages: &Packages) -> Result<String> {
    let mut inside = Vec::new();
    for package in [&packages.agent, &packages.ctl] {
        let name = package.file_name().context("a package has a name")?.to_string_lossy();
        let path = format!("/var/tmp/{name}");
        let bytes = fs::read(package).with_context(|| format!("failed to read {}", package.display()))?;
        host.write_file(&path, bytes, 0o644)?;
        inside.push(path);
    }
    host.ok(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i {} 2>&1", inside.join(" ")))
}
