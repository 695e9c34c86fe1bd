//! What /proc and the cgroup tree say about processes: whose unit, which sockets.
//!
//! Read-only. Looking into another user's `/proc/PID/fd` needs `CAP_SYS_PTRACE`. Processes come and go
//! while this reads: one that is gone is skipped, never an error.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the unified hierarchy is mounted.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The cgroup of a process, as a path below the root of the unified hierarchy.
pub fn cgroup_of(pid: u32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    cgroup_line(&text).map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The unit that a process belongs to: the innermost service, scope or socket of its cgroup.
pub fn unit_of(pid: u32) -> io::Result<Option<String>> {
    Ok(unit_in(&cgroup_of(pid)?).map(str::to_owned))
}

/// systemd keeps its units in the unified hierarchy (`0::`), whatever else is mounted.
fn cgroup_line(text: &str) -> Option<&str> {
    text.lines().find_map(|l| l.strip_prefix("0::"))
}

fn unit_in(cgroup: &str) -> Option<&str> {
    cgroup
        .rsplit('/')
        .find(|part| [".service", ".scope", ".socket"].iter().any(|suffix| part.ends_with(suffix)))
}

/// Every process of a cgroup and of those below it. Empty when it does not exist.
pub fn pids_in(control_group: &str) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    if control_group.is_empty() {
        return Ok(pids);
    }
    let top = Path::new(CGROUP_ROOT).join(control_group.trim_start_matches('/'));
    let mut folders = vec![top];
    while let Some(folder) = folders.pop() {
        let Some(text) = present(fs::read_to_string(folder.join("cgroup.procs")))? else {
            continue;
        };
        pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
        folders.extend(folders_in(&folder)?);
    }
    Ok(pids)
}

fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = present(fs::read_dir(folder))? else {
        return Ok(Vec::new());
    };
    let is_folder = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    Ok(entries.flatten().filter(is_folder).map(|e| e.path()).collect())
}

/// The inodes of the sockets that a process holds.
pub fn sockets_of(pid: u32) -> io::Result<HashSet<u64>> {
    let Some(entries) = present(fs::read_dir(format!("/proc/{pid}/fd")))? else {
        return Ok(HashSet::new());
    };
    let mut inodes = HashSet::new();
    for entry in entries.flatten() {
        if let Some(target) = present(fs::read_link(entry.path()))? {
            inodes.extend(socket_inode(&target.to_string_lossy()));
        }
    }
    Ok(inodes)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The processes that are alive now.
pub fn all_pids() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// The short name of a process.
pub fn name_of(pid: u32) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned())
}

/// A process that ended while we looked is no failure.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_one() {
        let cgroup = "/system.slice/system-deployd\\x2dfd.slice/deployd-fd@deployd-shop-http-v1.service";
        assert_eq!(unit_in(cgroup), Some("deployd-fd@deployd-shop-http-v1.service"));
        assert_eq!(unit_in("/system.slice/a.service/payload"), Some("a.service"));
        assert_eq!(unit_in("/init.scope"), Some("init.scope"));
        assert_eq!(unit_in("/"), None);
    }

    #[test]
    fn only_the_unified_hierarchy_counts() {
        assert_eq!(cgroup_line("3:cpu:/\n1:name=systemd:/\n0::/a.service\n"), Some("/a.service"));
        assert_eq!(cgroup_line("1:name=systemd:/b.service\n"), None);
    }

    #[test]
    fn socket_links_are_told_from_others() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        assert_eq!(socket_inode("pipe:[123]"), None);
    }

    #[test]
    fn our_own_sockets_are_found() {
        let before = sockets_of(std::process::id()).unwrap();
        let (_a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let after = sockets_of(std::process::id()).unwrap();
        assert!(after.difference(&before).count() >= 2);
    }
}
