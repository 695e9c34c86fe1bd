//! From TOML text to a [`Spec`]: unknown keys, missing keys and wrong values, all at once.

use super::Spec;

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, dotted: `processes.web.exec`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do: the nearest name, an example.
    pub hint: Option<String>,
}

/// Everything wrong with a spec, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the spec has {} error(s)", .0.len())]
pub struct SpecErrors(pub Vec<SpecError>);

/// Parses and validates a spec.
pub fn parse(_text: &str) -> Result<Spec, SpecErrors> {
    Err(SpecErrors(Vec::new()))
}
