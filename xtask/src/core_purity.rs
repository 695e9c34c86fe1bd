//! Proves that `crates/core` stays pure: nothing that does I/O is among its dependencies, direct or not.
//!
//! It asks cargo what would really be built into the crate (normal dependencies, all features), so a dependency of a
//! dependency counts as well.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::run::cargo;

/// Crates that reach files, sockets, processes, clocks or a runtime. The one list.
const BANNED: &[&str] = &[
    "axum",
    "async-io",
    "async-std",
    "chrono",
    "deployd",
    "deployd-bind",
    "deployd-handoff",
    "hyper",
    "hyper-util",
    "mio",
    "nix",
    "notify",
    "polling",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "sd-notify",
    "signal-hook",
    "smol",
    "socket2",
    "sysinfo",
    "tempfile",
    "time",
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tower",
    "tracing-journald",
    "tracing-subscriber",
    "ureq",
    "walkdir",
    "zbus",
];

/// Fails and names the offenders if `deployd-core` depends on one of [`BANNED`].
pub(crate) fn check() -> Result<()> {
    let output =
        cargo("tree --package deployd-core --edges normal --all-features --prefix none --format {p}")
            .output()?;
    if !output.status.success() {
        bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let offenders = offenders(&String::from_utf8_lossy(&output.stdout))?;
    if !offenders.is_empty() {
        let names: Vec<&str> = offenders.iter().map(String::as_str).collect();
        bail!(
            "crates/core must do no I/O, but it depends on {}; see `cargo tree -p deployd-core -e normal -i {}`",
            names.join(", "),
            names[0]
        );
    }
    eprintln!("    crates/core depends on no I/O crate");
    Ok(())
}

/// The banned crates in the output of `cargo tree`.
fn offenders(tree: &str) -> Result<BTreeSet<String>> {
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    if !names.contains("deployd-core") {
        bail!("cargo tree did not list deployd-core itself");
    }
    Ok(BANNED.iter().filter(|banned| names.contains(**banned)).map(|banned| (*banned).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indirect_dependency_is_found() {
        let tree = "deployd-core v0.1.0 (/x)\nserde v1.0.0\nsneaky v1.0.0\ntokio v1.2.3 (*)\n";
        assert_eq!(offenders(tree).expect("a tree"), BTreeSet::from(["tokio".to_owned()]));
    }

    #[test]
    fn an_empty_tree_is_no_proof() {
        assert!(offenders("").is_err());
    }
}
