//! What an artifact needs of a host, read from its programs before anything is sent: "will it run here".

use serde::{Deserialize, Serialize};

/// What the dynamically linked programs and libraries of an artifact need together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Programs and libraries of another kind than an ELF file of one architecture: what was found, by file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Named>,
    /// The architecture: `x86_64`, with a file that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Named>,
    /// The highest version of glibc that a symbol needs: `2.38`, with the file that needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<Named>,
    /// Interpreters of ELF programs (`/lib64/ld-linux-x86-64.so.2`) and of scripts (`/usr/bin/env`, `python3`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interpreters: Vec<Named>,
    /// Shared libraries that the artifact does not bring itself: `libssl.so.3`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<Named>,
}

impl Needs {
    /// Whether it needs nothing that is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Something needed, and a file of the artifact that needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What.
    pub name: String,
    /// The file, relative to the artifact's root.
    pub file: String,
}
