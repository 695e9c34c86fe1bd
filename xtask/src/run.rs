//! Runs one command of a check, with a heading, and turns its failure into an error that says which it was.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use deployd_tests::package::repository;

/// A cargo command in the repository.
pub(crate) fn cargo(words: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository()).args(words.split_whitespace());
    command
}

/// Runs `command` with its output shown. `what` names the check.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {what}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("failed to start the check `{what}`"))?;
    if !status.success() {
        bail!("the check `{what}` failed ({status}): {command:?}");
    }
    eprintln!("    {what}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
