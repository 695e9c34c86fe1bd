//! Proves what the packages promise about their binaries, by reading them: static executables, a shim for old libcs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Binaries;

/// The oldest glibc that the shim must load on: Debian 11.
const OLDEST_GLIBC: (u32, u32) = (2, 31);
const EXECUTABLES: [&str; 3] = ["deployd", "deployd-exec", "deployd-ctl"];

/// Fails if an executable needs anything of a host, or the shim a glibc newer than Debian 11's.
pub fn verify(binaries: &Binaries) -> Result<()> {
    for name in EXECUTABLES {
        let path = binaries.executables.join(name);
        let headers = readelf(&["--program-headers", "--dynamic", "--wide"], &path)?;
        if let Some(need) = dynamic_need(&headers) {
            bail!("{} is not static: {need}", path.display());
        }
    }
    let versions = readelf(&["--version-info", "--wide"], &binaries.shim)?;
    let too_new: Vec<String> = glibc_versions(&versions)
        .into_iter()
        .filter(|version| *version > OLDEST_GLIBC)
        .map(|(major, minor)| format!("GLIBC_{major}.{minor}"))
        .collect();
    if !too_new.is_empty() {
        let symbols = readelf(&["--dyn-syms", "--wide"], &binaries.shim)?;
        let named: Vec<&str> = symbols
            .lines()
            .filter(|line| too_new.iter().any(|version| line.contains(version.as_str())))
            .collect();
        bail!(
            "{} needs a glibc newer than {}.{}:\n{}",
            binaries.shim.display(),
            OLDEST_GLIBC.0,
            OLDEST_GLIBC.1,
            named.join("\n")
        );
    }
    Ok(())
}

fn readelf(options: &[&str], path: &Path) -> Result<String> {
    let output = Command::new("readelf")
        .args(options)
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .context("failed to run readelf")?;
    if !output.status.success() {
        bail!("failed to read {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The line that makes a binary depend on the host: an interpreter or a library.
fn dynamic_need(headers: &str) -> Option<&str> {
    headers.lines().map(str::trim).find(|line| line.starts_with("INTERP") || line.contains("(NEEDED)"))
}

/// All `GLIBC_x.y` that are named.
fn glibc_versions(text: &str) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = text
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let number = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
            let mut parts = number.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_recognised() {
        // This test itself is linked dynamically.
        let itself = std::env::current_exe().expect("a path");
        let headers = readelf(&["--program-headers", "--dynamic", "--wide"], &itself).expect("readable");
        assert!(dynamic_need(&headers).is_some());
    }

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let text = "Name: GLIBC_2.2.5  Flags: none\n Name: GLIBC_2.34\n Name: GLIBC_2.4";
        assert_eq!(glibc_versions(text), [(2, 2), (2, 4), (2, 34)]);
        assert!((2, 4) < OLDEST_GLIBC && (2, 34) > OLDEST_GLIBC);
    }
}
