//! Proves that `crates/core` stays pure: everything that is built into it, directly or not, is on a list of crates that
//! were looked at and do no I/O. What is not on the list fails, so a new dependency is a decision.
//!
//! It asks cargo what would really be built into the crate (normal dependencies, all features). What the standard
//! library could do is banned by `crates/core/clippy.toml`.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::run::cargo;

/// Crates that compute and nothing else. The one list.
const ALLOWED: &[&str] = &[
    // Ours: types and the wire format.
    "deployd-api",
    "deployd-core",
    // Digests.
    "arrayvec",
    "blake3",
    "cfg-if",
    "constant_time_eq",
    "cpufeatures",
    // Values of secrets on the wire, wiped from memory.
    "base64",
    "zeroize",
    // Serialising, JSON and TOML in memory.
    "itoa",
    "memchr",
    "serde",
    "serde_core",
    "serde_json",
    "serde_spanned",
    "toml",
    "toml_datetime",
    "toml_parser",
    "toml_writer",
    "winnow",
    "zmij",
    // Names that are alike.
    "strsim",
    // Errors, and macros at compile time.
    "proc-macro2",
    "quote",
    "serde_derive",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

/// Fails and names the offenders if `deployd-core` depends on anything but [`ALLOWED`].
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
            "crates/core must do no I/O, and it depends on {}, which nobody has looked at; see \
             `cargo tree -p deployd-core -e normal -i {}`. Does it only compute? Then add it to \
             xtask/src/core_purity.rs",
            names.join(", "),
            names[0]
        );
    }
    eprintln!("    crates/core depends only on crates that compute");
    Ok(())
}

/// The crates in the output of `cargo tree` that are not allowed.
fn offenders(tree: &str) -> Result<BTreeSet<String>> {
    let names: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).collect();
    if !names.contains("deployd-core") {
        bail!("cargo tree did not list deployd-core itself");
    }
    Ok(names.into_iter().filter(|name| !ALLOWED.contains(name)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_dependency_is_found_however_indirect() {
        let tree = "deployd-core v0.1.0 (/x)\nserde v1.0.0\n\nsneaky v1.0.0\ntokio v1.2.3 (*)\n";
        let wanted = BTreeSet::from(["sneaky".to_owned(), "tokio".to_owned()]);
        assert_eq!(offenders(tree).expect("a tree"), wanted);
    }

    #[test]
    fn an_empty_tree_is_no_proof() {
        assert!(offenders("").is_err());
    }
}
