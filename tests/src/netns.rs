//! Network namespaces: named ones that the rig creates, and the way into one for a thread.
//!
//! All test traffic stays in namespaces made here (or on loopback): none of them has a way out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// The path of a network namespace: a file of `/run/netns` or a process's `ns/net`.
#[derive(Clone, Debug)]
pub struct NetPath(PathBuf);

impl NetPath {
    /// The namespace of a running process.
    pub fn of_process(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// The file that names the namespace.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling thread, and only it, into the namespace: sockets that it opens from now on belong there.
    pub fn enter_thread(&self) -> Result<()> {
        let file = File::open(&self.0).with_context(|| format!("failed to open {}", self.0.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("failed to enter {}", self.0.display()))
    }

    /// A command that will run inside the namespace (and in the caller's mounts and processes).
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.0.display())).arg("--").arg(program);
        command
    }

    /// Runs `ip WORDS…` inside the namespace.
    pub fn ip(&self, words: &str) -> Result<()> {
        let output = self.command("ip").args(words.split_whitespace()).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("failed to run `ip {words}` in {}: {}", self.0.display(), reason.trim());
        }
        Ok(())
    }
}

/// A named namespace that exists as long as this value.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: NetPath,
}

impl Netns {
    /// Creates the namespace with its loopback up. The rig's reaper removes it by its name's prefix if we cannot.
    pub fn create(label: &str) -> Result<Self> {
        let name = crate::machine::owner()?.netns_name(label);
        let output = Command::new("ip").args(["netns", "add", &name]).output().context("failed to run ip")?;
        if !output.status.success() {
            bail!("failed to create namespace {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let path = NetPath(PathBuf::from("/run/netns").join(&name));
        let made = Self { name, path };
        made.path.ip("link set lo up")?;
        Ok(made)
    }

    /// How to reach it.
    pub fn path(&self) -> &NetPath {
        &self.path
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("could not delete the namespace {}", self.name);
        }
    }
}
