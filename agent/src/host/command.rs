//! Child processes of the agent: the only place that spawns one.
//!
//! No shell, a fixed small environment, nothing on standard input, and a child never outlives the future or
//! value that it belongs to. Work that must survive the agent is not a child but a transient unit of PID 1
//! ([`super::systemd`]). Only [`super::journal`] calls this.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;

/// How much of the end of standard error is kept: an error message, not a log.
const STDERR_TAIL_BYTES: usize = 4 * 1024;
/// How much standard output is read at most; what writes more gets an error, so that it cannot eat the host's
/// memory.
const STDOUT_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The search path of children.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What failed about a child process.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start.
    #[error("failed to start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its output could not be read.
    #[error("failed to read what {program} says")]
    Read {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It wrote more than is read.
    #[error("{program} wrote more than {STDOUT_MAX_BYTES} bytes")]
    TooMuch {
        /// The program.
        program: PathBuf,
    },
    /// It ran longer than it may.
    #[error("{program} did not end within {} s", limit.as_secs())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The limit.
        limit: Duration,
    },
    /// It ended with another status than 0.
    #[error("{program} ended with {status}: {stderr}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
}

/// A program and its words.
#[derive(Debug, Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Command {
    /// A command without words.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new() }
    }

    /// Adds a word.
    #[must_use]
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.args.push(word.as_ref().to_owned());
        self
    }

    /// Adds words.
    #[must_use]
    pub fn args<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<OsStr>,
    {
        self.args.extend(words.into_iter().map(|w| w.as_ref().to_owned()));
        self
    }

    /// Runs it to its end and gives its standard output; any other status than 0 is an error.
    pub async fn output(&self, limit: Duration) -> Result<Vec<u8>, CommandError> {
        let run = async {
            let mut lines = self.lines()?;
            let mut out = Vec::new();
            let read = (&mut lines.stdout).take(STDOUT_MAX_BYTES + 1).read_to_end(&mut out).await;
            read.map_err(|source| self.read_error(source))?;
            if out.len() as u64 > STDOUT_MAX_BYTES {
                return Err(CommandError::TooMuch { program: self.program.clone() });
            }
            lines.end().await?;
            Ok(out)
        };
        // Dropping the future drops the child, and that kills it.
        let timed = tokio::time::timeout(limit, run).await;
        timed.unwrap_or_else(|_| Err(CommandError::TimedOut { program: self.program.clone(), limit }))
    }

    /// Starts it, to read its standard output line by line.
    pub fn lines(&self) -> Result<Lines, CommandError> {
        let start_error = |source| CommandError::Start { program: self.program.clone(), source };
        #[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(start_error)?;
        let missing = || start_error(io::Error::other("no pipe to it"));
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        Ok(Lines {
            command: self.clone(),
            child,
            stdout: BufReader::new(stdout),
            stderr: tokio::spawn(tail(stderr)),
        })
    }

    fn read_error(&self, source: io::Error) -> CommandError {
        CommandError::Read { program: self.program.clone(), source }
    }
}

/// The output of a running child. Dropping it kills the child.
#[derive(Debug)]
pub struct Lines {
    command: Command,
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Ends by itself when the child does.
    stderr: JoinHandle<Vec<u8>>,
}

impl Lines {
    /// The next line without its end; `None` after the last one of a child that ended well.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CommandError> {
        let mut line = Vec::new();
        let read = (&mut self.stdout).take(STDOUT_MAX_BYTES).read_until(b'\n', &mut line).await;
        if read.map_err(|source| self.command.read_error(source))? == 0 {
            self.end().await?;
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(line))
    }

    async fn end(&mut self) -> Result<(), CommandError> {
        let status = self.child.wait().await.map_err(|source| self.command.read_error(source))?;
        if status.success() {
            return Ok(());
        }
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        Err(CommandError::Failed { program: self.command.program.clone(), status, stderr })
    }
}

/// The last bytes of a stream; reading all of it keeps the writer from blocking.
async fn tail(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..n]);
        let excess = kept.len().saturating_sub(STDERR_TAIL_BYTES);
        kept.drain(..excess);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn sh(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    #[tokio::test]
    async fn output_is_read_whole_and_stdin_is_empty() {
        let out = sh("cat; printf 'a\\nb'; env").output(LIMIT).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("a\nb"), "{text}");
        assert!(!text.contains("CARGO"), "the environment is not ours: {text}");
    }

    #[tokio::test]
    async fn failure_brings_status_and_the_end_of_stderr() {
        let script =
            "i=0; while [ $i -lt 2000 ]; do echo filler >&2; i=$((i+1)); done; echo the end >&2; exit 3";
        let Err(CommandError::Failed { status, stderr, .. }) = sh(script).output(LIMIT).await else {
            panic!("must fail");
        };
        assert_eq!(status.code(), Some(3));
        assert!(stderr.ends_with("the end") && stderr.len() <= STDERR_TAIL_BYTES);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_start_error() {
        let error = Command::new("/nowhere/program").output(LIMIT).await.unwrap_err();
        assert!(matches!(error, CommandError::Start { .. }));
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_the_last_needs_no_newline() {
        let mut lines = sh("echo one; printf two").lines().unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"two");
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_child_that_runs_too_long_is_killed() {
        let limit = Duration::from_millis(50);
        let error = Command::new("sleep").arg("1000").output(limit).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn dropping_the_lines_kills_the_child() {
        let mut lines = sh("echo $$; exec sleep 1000").lines().unwrap();
        let pid = String::from_utf8(lines.next().await.unwrap().unwrap()).unwrap();
        drop(lines);
        let deadline = tokio::time::Instant::now() + LIMIT;
        while Path::new("/proc").join(&pid).exists() {
            assert!(tokio::time::Instant::now() < deadline, "the child lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
