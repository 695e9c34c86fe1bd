//! The agent's config: files → merged → validated.
//!
//! | module | holds |
//! |---|---|
//! | `file` | one TOML file as written: known keys, plain values, lines |
//! | `merge` | `agent.toml`, then `agent.d/*.toml` in order of name: the last one wins, key by key |
//! | `settings` | [`Settings`], the only type that leaves this module, and where each value is from |
//!
//! Everything wrong is reported at once, with file, line and what to write instead. Nothing here reads
//! the environment or writes a file. Loaded at the start, and again when a file changes; `deployd check-config` prints it.

mod file;
mod merge;
mod settings;

pub use file::{ConfigError, ConfigErrors, Key};
pub use merge::Source;
pub use settings::{Effective, LogLevel, Settings};

/// Where the agent's config is.
pub const CONFIG_FILE: &str = "/etc/deployd/agent.toml";
/// The folder of additions, beside the file.
pub const ADDITIONS: &str = "agent.d";

#[cfg(test)]
mod tests;
