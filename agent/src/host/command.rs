//! The one place of the agent that spawns a process.
//!
//! For reading only (journalctl): whatever acts on the host runs as a transient unit, so that our death does
//! not cut it. A child gets a fixed environment, no input, and is killed when its handle is dropped.

use std::io;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// How much of a child's complaint is kept.
const STDERR_MAX: u64 = 4096;

/// Why a child did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("failed to start {program}")]
    Spawn {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its output could not be read.
    #[error("failed to read what {program} says")]
    Read {
        /// The program.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}): {complaint}")]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to its standard error.
        complaint: String,
    },
}

/// A running child, read line by line.
#[derive(Debug)]
pub struct LineChild {
    program: &'static str,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Starts a program whose output is read line by line. Dropping it kills the child.
pub fn spawn_lines(program: &'static str, args: &[String]) -> Result<LineChild, CommandError> {
    let failed = |source| CommandError::Spawn { program, source };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    Ok(LineChild { program, child, lines: BufReader::new(stdout).lines() })
}

impl LineChild {
    /// The next line; `None` when the child has ended well. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<String>, CommandError> {
        let program = self.program;
        let failed = |source| CommandError::Read { program, source };
        if let Some(line) = self.lines.next_line().await.map_err(failed)? {
            return Ok(Some(line));
        }
        let mut complaint = Vec::new();
        if let Some(stderr) = self.child.stderr.as_mut() {
            stderr.take(STDERR_MAX).read_to_end(&mut complaint).await.map_err(failed)?;
        }
        let status = self.child.wait().await.map_err(failed)?;
        if status.success() {
            return Ok(None);
        }
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Err(CommandError::Failed { program, status, complaint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn lines_then_the_end_or_the_complaint() {
        let script = |text: &str| ["-c".to_owned(), text.to_owned()];
        let mut good = spawn_lines("/bin/sh", &script("echo a; echo b")).unwrap();
        assert_eq!(good.next().await.unwrap().as_deref(), Some("a"));
        assert_eq!(good.next().await.unwrap().as_deref(), Some("b"));
        assert_eq!(good.next().await.unwrap(), None);
        let mut bad = spawn_lines("/bin/sh", &script("echo no >&2; exit 3")).unwrap();
        assert!(matches!(bad.next().await, Err(CommandError::Failed { complaint, .. }) if complaint == "no"));
    }
}
