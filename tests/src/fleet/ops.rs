//! The operator's machine: a shell in a project folder, as a person has it, with or without a terminal.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::PASSPHRASE;
use crate::machine::Host;
use crate::site::Called;
use crate::wait;

/// Where the operator's project is.
pub const PROJECT: &str = "/root/shop";
const STARTS: Duration = Duration::from_secs(10);

/// A person, or a job, at a shell of the machine `ops`.
#[derive(Debug)]
pub struct Ops {
    /// The machine.
    pub host: Host,
    spawned: AtomicU32,
}

/// What a shell has that another one has not.
#[derive(Clone, Debug)]
pub struct Shell {
    /// The folder it is in.
    pub folder: String,
    /// Its variables.
    pub env: Vec<(String, String)>,
}

impl Default for Shell {
    fn default() -> Self {
        Self {
            folder: PROJECT.to_owned(),
            env: vec![("DEPLOYD_PASSPHRASE".to_owned(), PASSPHRASE.to_owned())],
        }
    }
}

impl Shell {
    /// A shell without any variable of deployd.
    pub fn bare() -> Self {
        Self { folder: PROJECT.to_owned(), env: Vec::new() }
    }

    /// The same shell in another folder.
    #[must_use]
    pub fn within(mut self, folder: &str) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    /// The same shell with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same person at another machine: an identity of its own place, the same project.
    #[must_use]
    pub fn of_home(self, home: &str) -> Self {
        self.with("DEPLOYD_HOME", home)
    }
}

/// A command of the operator that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: u32,
}

impl Ops {
    pub(super) fn new(host: Host) -> Self {
        Self { host, spawned: AtomicU32::new(0) }
    }

    /// A login shell that will run `line`, ready for streams.
    fn bash(&self, shell: &Shell, line: &str) -> Command {
        let mut command = self.host.command("bash");
        // `enter` cleared the environment; what is set here reaches the shell.
        command.envs(shell.env.iter().map(|(name, value)| (name, value)));
        command.args(["-lc", &format!("cd {} && {{ {line}\n}}", shell.folder)]).stdin(Stdio::null());
        command
    }

    /// Runs a line in a login shell without a terminal, as a job of CI does.
    pub fn run_in(&self, shell: &Shell, line: &str) -> Result<Called> {
        let output = self.bash(shell, line).output().context("failed to enter ops")?;
        Ok(Called::of(output))
    }

    /// The same in the project's folder.
    pub fn run(&self, line: &str) -> Result<Called> {
        self.run_in(&Shell::default(), line)
    }

    /// Runs a line on a terminal, and types `typed` into it; both streams come back as one.
    pub fn run_tty(&self, shell: &Shell, line: &str, typed: &str) -> Result<Called> {
        let script = format!("/run/tty-{}.sh", self.spawned.fetch_add(1, Ordering::Relaxed));
        self.host.write_file(&script, format!("{line}\n"), 0o700)?;
        let keys = format!("{script}.keys");
        self.host.write_file(&keys, typed, 0o600)?;
        // script(1) makes the terminal, copies its own input to it, and ends as the command did.
        let quoted = format!("script -qefc 'bash -l {script}' /dev/null <{keys}");
        self.run_in(shell, &quoted)
    }

    /// `deployd-ctl ARGS` in the project's folder.
    pub fn ctl(&self, args: &str) -> Result<Called> {
        self.run(&format!("deployd-ctl {args}"))
    }

    /// The JSON that a command of ctl prints with `-o json`.
    pub fn json(&self, args: &str) -> Result<Value> {
        let called = self.ctl(&format!("{args} -o json"))?.expect(0)?;
        serde_json::from_str(&called.stdout).with_context(|| format!("{args} is not JSON: {}", called.stdout))
    }

    /// Starts `deployd-ctl ARGS`; it can be signalled, as CI and people do.
    pub fn start(&self, shell: &Shell, args: &str) -> Result<Running> {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        let note = format!("/run/ctl-{number}.pid");
        let line = format!("echo $$ >{note}; exec deployd-ctl {args}");
        let child = self
            .bash(shell, &line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to enter ops")?;
        let pid = wait::until(STARTS, "ctl to start", || {
            let text = self.host.read_file(&note).map_err(|e| e.to_string())?;
            text.trim().parse::<u32>().map_err(|e| format!("{text:?}: {e}"))
        })?;
        Ok(Running { child, pid })
    }

    /// Sends a signal (`KILL`, `INT`, `TERM`) to a command; `false` when it had ended.
    pub fn signal(&self, running: &mut Running, signal: &str) -> Result<bool> {
        if running.has_ended()? {
            return Ok(false);
        }
        // It may end just now: that is no failure of the rig.
        Ok(self.host.exec(&format!("kill -{signal} {}", running.pid))?.status.success())
    }
}

impl Running {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end. A command that a signal ended has the code -1 or 128 and its number.
    pub fn called(self) -> Result<Called> {
        Ok(Called::of(self.child.wait_with_output()?))
    }
}
