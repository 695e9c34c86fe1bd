//! Starting nspawn on a root, finding its PID 1, and waiting until systemd says that the host runs.
//!
//! Each host gets a cgroup of its own: nspawn with `--keep-unit` would otherwise put every host's units into one
//! shared tree. Nothing here needs a systemd outside.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::net::BRIDGE;
use crate::netns::NetPath;
use crate::wait;

/// A host is up after about a second; this allows for a machine that is busy with builds.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// What nspawn is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) machine: &'a str,
    pub(super) root: &'a Path,
    pub(super) cgroup: &'a Path,
    pub(super) console: &'a Path,
    pub(super) net: &'a NetPath,
}

/// Starts nspawn in the network namespace and in the host's cgroup.
pub(super) fn start_nspawn(start: &Start<'_>) -> Result<Child> {
    fs::create_dir_all(start.cgroup)
        .with_context(|| format!("failed to create {}", start.cgroup.display()))?;
    let console = File::options()
        .create(true)
        .append(true)
        .open(start.console)
        .with_context(|| format!("failed to open {}", start.console.display()))?;
    Command::new("sh")
        // Joins the cgroup, then becomes nspawn: the pid that we hold is nspawn's.
        .args(["-c", "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
        .arg(start.cgroup)
        .arg("nsenter")
        .arg(format!("--net={}", start.net.as_path().display()))
        .args(["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"])
        .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off"])
        .arg(format!("--network-bridge={BRIDGE}"))
        .arg(format!("--machine={}", start.machine))
        .arg("--directory")
        .arg(start.root)
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .process_group(0)
        .spawn()
        .context("failed to start systemd-nspawn (is systemd-container installed?)")
}

/// Waits until nspawn has made the host's PID 1 and returns its pid out here.
pub(super) fn wait_leader(nspawn: &mut Child, console: &Path) -> Result<u32> {
    let pid = nspawn.id();
    let found = wait::until(BOOT_LIMIT, "the container's PID 1", || {
        if let Ok(Some(status)) = nspawn.try_wait() {
            // A dead nspawn will never have one; the loop ends by the value.
            return Ok(Err(anyhow::anyhow!("systemd-nspawn ended with {status}")));
        }
        find_leader(pid).map(Ok).ok_or("not there yet")
    });
    found.and_then(|leader| leader).with_context(|| format!("console: {}", console_tail(console)))
}

/// The child of nspawn that is process 1 of its own pid namespace.
fn find_leader(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children.split_whitespace().filter_map(|word| word.parse().ok()).find(|child: &u32| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let inside: Vec<&str> = pids.split_whitespace().collect();
        inside.len() > 1 && inside.last() == Some(&"1")
    })
}

/// Waits until `systemctl is-system-running` says `running` or `degraded`.
pub(super) fn wait_running(leader: u32, console: &Path) -> Result<()> {
    wait::until(BOOT_LIMIT, "the host to be running", || {
        let output = super::exec::enter(leader, "systemctl")
            .arg("is-system-running")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match state.as_str() {
            "running" | "degraded" => Ok(()),
            _ => Err(format!("{state} {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    })
    .with_context(|| format!("console: {}", console_tail(console)))
}

/// The end of what the host printed on its console.
pub(super) fn console_tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
