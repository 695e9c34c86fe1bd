//! What the host is and has, read once when asked.
//!
//! Read-only, no judgement: preflight compares these with what a release needs.

use std::collections::HashMap;
use std::fs;
use std::io;

use super::processes;
use super::sockdiag::{TcpState, tcp_sockets};

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {fact}")]
pub struct FactError {
    /// Which one.
    pub fact: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

fn failed<E: Into<io::Error>>(fact: &'static str) -> impl FnOnce(E) -> FactError {
    move |e| FactError { fact, source: e.into() }
}

/// Bytes of memory that new processes could use without swapping.
pub fn memory_available() -> Result<u64, FactError> {
    ram("available memory", sysinfo::System::available_memory)
}

/// Bytes of memory that there are.
pub fn memory_total() -> Result<u64, FactError> {
    ram("all memory", sysinfo::System::total_memory)
}

fn ram(fact: &'static str, of: fn(&sysinfo::System) -> u64) -> Result<u64, FactError> {
    let mut system = sysinfo::System::new().map_err(|e| failed(fact)(io::Error::other(e)))?;
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    match of(&system) {
        0 => Err(failed(fact)(io::Error::from(io::ErrorKind::InvalidData))),
        bytes => Ok(bytes),
    }
}

/// How many processors the agent may use; 1 when nobody says.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// The address it listens on.
    pub local: std::net::SocketAddr,
    /// The process; `None` when none could be found.
    pub pid: Option<u32>,
    /// Its name.
    pub process: Option<String>,
    /// Its unit. Sockets of `.socket` units are held by `init.scope` while no service runs.
    pub unit: Option<String>,
}

/// Who listens on a TCP port. A socket that several processes hold appears once for each.
pub async fn port_holders(port: u16) -> Result<Vec<PortHolder>, FactError> {
    let found = tokio::task::spawn_blocking(move || port_holders_blocking(port)).await;
    found.map_err(|e| FactError { fact: "port holders", source: io::Error::other(e) })?
}

fn port_holders_blocking(port: u16) -> Result<Vec<PortHolder>, FactError> {
    let all = tcp_sockets(&[TcpState::Listen]).map_err(failed("listening sockets"))?;
    let wanted: HashMap<u64, std::net::SocketAddr> =
        all.iter().filter(|s| s.local.port() == port).map(|s| (s.inode, s.local)).collect();
    let mut holders = Vec::new();
    if wanted.is_empty() {
        return Ok(holders);
    }
    for pid in processes::all_pids().map_err(failed("processes"))? {
        // Without the right to look at one process the others still tell.
        let Ok(sockets) = processes::sockets_of(pid) else { continue };
        for local in sockets.iter().filter_map(|inode| wanted.get(inode)) {
            holders.push(PortHolder {
                local: *local,
                pid: Some(pid),
                process: processes::name_of(pid).ok(),
                unit: processes::unit_of(pid).ok().flatten(),
            });
        }
    }
    for local in wanted.values() {
        if !holders.iter().any(|h| h.local == *local) {
            holders.push(PortHolder { local: *local, pid: None, process: None, unit: None });
        }
    }
    Ok(holders)
}

/// How many sockets listen on an address: the members of its reuseport group, whoever holds them.
pub fn listening(on: std::net::SocketAddr) -> Result<usize, FactError> {
    let all = tcp_sockets(&[TcpState::Listen]).map_err(failed("listening sockets"))?;
    Ok(all.iter().filter(|s| s.local == on).count())
}

/// Loopback ports for programs that cannot take a listener.
const PORT_RANGE: std::ops::Range<u16> = 20_000..30_000;

/// The first of `n` loopback ports in a row that nothing is bound to and nobody is to get.
pub fn free_port_run(n: u16, promised: &std::collections::BTreeSet<u16>) -> Option<u16> {
    let free = |port: &u16| {
        !promised.contains(port)
            && std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, *port)).is_ok()
    };
    PORT_RANGE
        .step_by(usize::from(n.max(1)))
        .find(|first| (*first..first.saturating_add(n)).all(|p| free(&p)))
}

/// The id of this boot: another one means that everything in memory is gone. A container that restarts keeps
/// its kernel, so the start of PID 1 is a part of it.
pub fn boot_id() -> Result<String, FactError> {
    let kernel = read_line("/proc/sys/kernel/random/boot_id", "the boot id")?;
    let stat = read_line("/proc/1/stat", "the start of PID 1")?;
    // The name is in parentheses and may hold anything; the start is the 20th field after it.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let start = fields.and_then(|mut fields| fields.nth(19));
    let start = start.ok_or_else(|| failed("the start of PID 1")(io::Error::other("no such field")))?;
    Ok(format!("{kernel}-{start}"))
}

/// The host's name.
pub fn host_name() -> Result<String, FactError> {
    read_line("/proc/sys/kernel/hostname", "the host name")
}

fn read_line(path: &str, fact: &'static str) -> Result<String, FactError> {
    Ok(fs::read_to_string(path).map_err(failed(fact))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_this_host_are_plausible() {
        assert!(memory_available().unwrap() > 1 << 20);
        let boot = boot_id().unwrap();
        assert!(boot.len() > 37 && boot == boot_id().unwrap(), "{boot}");
        assert!(!host_name().unwrap().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_holder_of_a_port_is_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let holders = port_holders(local.port()).await.unwrap();
        assert!(holders.iter().any(|h| h.local == local && h.pid == Some(std::process::id())));
    }
}
