//! Commands and files in a running host. Everything enters through the host's PID 1, as an administrator would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Host;

/// A command that will run in the namespaces of the process `leader`, with a root shell's environment.
pub(super) fn enter(leader: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &leader.to_string(), "--all", "--", program])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env("TERM", "dumb");
    command
}

/// Lets commands of ours go on that a shutdown stopped. It stops everything for a moment, and nsenter then stops
/// itself, too, for good: its command is never reaped, and the kernel waits for that before the host is gone.
pub(super) fn resume_stopped() {
    let ours = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse::<u32>().ok()?);
        Some(name.ends_with("(nsenter") && state == "T" && parent == std::process::id())
    };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| ours(*pid) == Some(true)) {
        // One that ended meanwhile needs nothing.
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
}

impl Host {
    /// A program that will run in the host; the caller adds arguments and streams.
    pub fn command(&self, program: &str) -> Command {
        enter(self.leader_pid(), program)
    }

    /// Runs a shell line and returns what it did, success or not.
    pub fn exec(&self, line: &str) -> Result<Output> {
        self.command("sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("failed to enter {}", self.name()))
    }

    /// Runs a shell line that must succeed; returns its standard output without the last newline.
    pub fn ok(&self, line: &str) -> Result<String> {
        let output = self.exec(line)?;
        let out = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let err = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` on {} ended with {}\nstdout: {out}\nstderr: {err}", self.name(), output.status);
        }
        Ok(out.trim_end_matches('\n').to_owned())
    }

    /// Starts a shell line and returns at once. It dies with the host.
    pub fn spawn(&self, line: &str) -> Result<Child> {
        self.command("sh")
            .args(["-c", &format!("exec {line}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start `{line}` on {}", self.name()))
    }

    /// Where a path of the running host is out here: `/run` and `/tmp` of the host included.
    pub fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        PathBuf::from(format!("/proc/{}/root", self.leader_pid()))
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Writes a file with `mode`, and its folders.
    pub fn write_file(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let target = self.outside(path);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).with_context(|| format!("failed to create the folder of {path}"))?;
        }
        fs::write(&target, contents).with_context(|| format!("failed to write {path} on {}", self.name()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Reads a file as text.
    pub fn read_file(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.outside(path))
            .with_context(|| format!("failed to read {path} on {}", self.name()))
    }

    /// Copies the contents of a folder out here into a folder of the host, keeping modes and links.
    pub fn push_dir(&self, from: &Path, to: &str) -> Result<()> {
        let target = self.outside(to);
        fs::create_dir_all(&target).with_context(|| format!("failed to create {to}"))?;
        let output = Command::new("cp")
            .args(["--recursive", "--preserve=mode,links,timestamps"])
            .arg(from.join("."))
            .arg(&target)
            .output()?;
        if !output.status.success() {
            bail!("failed to copy {} to {to}: {}", from.display(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The whole journal of the current boot as text, or of one unit.
    pub fn journal(&self, unit: Option<&str>) -> Result<String> {
        let of_unit = unit.map_or_else(String::new, |unit| format!("--unit={unit}"));
        self.ok(&format!("journalctl --no-pager --output=short-precise --boot {of_unit}"))
    }
}
