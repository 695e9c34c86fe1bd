//! What one test process made, and the reaper that removes it when the process cannot.
//!
//! Every name and path below starts from the process id, so parallel runs never collide and leftovers of dead
//! processes are recognised. The reaper is a shell that waits for the end of its standard input: the kernel closes
//! that pipe however this process ends (return, panic, Ctrl-C, SIGKILL), and the reaper then runs `clean.sh`.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

/// Folder of all owners: on a local file system, gone after a reboot of the machine.
const OWNERS: &str = "/run/deployd-tests";
/// A file in an owner's folder: what it made outlives it.
const KEPT: &str = "kept";
const CLEAN: &str = include_str!("clean.sh");

/// This process as the maker of hosts and namespaces.
#[derive(Debug)]
pub(crate) struct Owner {
    pid: u32,
    dir: PathBuf,
    cgroup: PathBuf,
    /// Lives until the process ends; its standard input is the pipe that the reaper waits on.
    _reaper: Child,
}

/// The owner of this process, made at first use.
pub(crate) fn owner() -> Result<&'static Owner> {
    static OWNER: OnceLock<Owner> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(owner) = OWNER.get() {
        return Ok(owner);
    }
    let made = Owner::new()?;
    Ok(OWNER.get_or_init(|| made))
}

impl Owner {
    fn new() -> Result<Self> {
        if !Uid::effective().is_root() {
            bail!(
                "test hosts need root (mounts, namespaces): run as root, or `cargo xtask test --fast` without hosts"
            );
        }
        clean_stale()?;
        let pid = std::process::id();
        let tag = tag(pid, start_time(pid).context("this process is not in /proc")?);
        let dir = Path::new(OWNERS).join(&tag);
        let cgroup = cgroup_root()?.join("deployd-tests").join(&tag);
        for folder in [&dir, &cgroup] {
            fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
        }
        let reaper = clean_command("reaper", &dir, &cgroup, &netns_prefix(pid))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("failed to start the reaper")?;
        Ok(Self { pid, dir, cgroup, _reaper: reaper })
    }

    /// Leaves everything that this process made behind, until [`remove_kept`].
    pub(super) fn keep(&self) -> Result<()> {
        let mark = self.dir.join(KEPT);
        fs::write(&mark, "").with_context(|| format!("failed to write {}", mark.display()))
    }

    /// The folder of a host named `name`.
    pub(super) fn host_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The cgroup of a host named `name`.
    pub(super) fn host_cgroup(&self, name: &str) -> PathBuf {
        self.cgroup.join(name)
    }

    /// The name of a network namespace.
    pub(crate) fn netns_name(&self, label: &str) -> String {
        format!("{}{label}", netns_prefix(self.pid))
    }

    /// A container name that no other process uses.
    pub(super) fn machine_name(&self, name: &str) -> String {
        format!("dt{}-{name}", self.pid)
    }
}

/// Removes one host, whatever state it is in.
pub(super) fn clean_host(dir: &Path, cgroup: &Path) -> Result<()> {
    let output = clean_command("host", dir, cgroup, "").stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "failed to remove the host in {}: {}",
            dir.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Removes what owners left whose process is gone. Safe to call at any time and from several processes.
pub fn clean_stale() -> Result<()> {
    clean_owners(|owner| !owner.join(KEPT).exists()).map(drop)
}

/// Removes the hosts that processes left on purpose and ended; says how many processes those were.
pub fn remove_kept() -> Result<usize> {
    clean_owners(|owner| owner.join(KEPT).exists())
}

/// Removes what the chosen owners left whose process is gone.
fn clean_owners(choose: impl Fn(&Path) -> bool) -> Result<usize> {
    let Ok(owners) = fs::read_dir(OWNERS) else { return Ok(0) };
    let mut cleaned = 0;
    for entry in owners.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, started)) = parse_tag(&name) else { continue };
        if start_time(pid) == Some(started) || !choose(&entry.path()) {
            continue;
        }
        cleaned += 1;
        let cgroup = cgroup_root()?.join("deployd-tests").join(&name);
        // Another process may be removing the same leftovers: only what stays matters.
        clean_command("owner", &entry.path(), &cgroup, &netns_prefix(pid)).stdin(Stdio::null()).output()?;
        if entry.path().exists() {
            let _ = writeln!(
                std::io::stderr(),
                "leftovers of a dead test process stay in {}",
                entry.path().display()
            );
        }
    }
    Ok(cleaned)
}

fn clean_command(what: &str, dir: &Path, cgroup: &Path, prefix: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", CLEAN, "clean.sh", what]).arg(dir).arg(cgroup).arg(prefix).env("LC_ALL", "C");
    command
}

fn tag(pid: u32, started: u64) -> String {
    format!("{pid}-{started}")
}

fn parse_tag(name: &str) -> Option<(u32, u64)> {
    let (pid, started) = name.split_once('-')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

fn netns_prefix(pid: u32) -> String {
    format!("dt{pid}-")
}

/// Field 22 of `/proc/PID/stat`: with the pid it identifies a process for ever.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Where the unified cgroup hierarchy is mounted (`/sys/fs/cgroup`, or `…/unified` on a hybrid machine).
fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("failed to read the mounts")?;
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    mounted.context(
        "no cgroup2 hierarchy is mounted: hosts need one (mount -t cgroup2 none /sys/fs/cgroup/unified)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_a_process_and_its_start() {
        let pid = std::process::id();
        let started = start_time(pid).expect("we run");
        assert_eq!(parse_tag(&tag(pid, started)), Some((pid, started)));
        assert_eq!(parse_tag("something-else"), None);
    }
}
