//! How many connections a release still serves.
//!
//! A connection belongs to the release whose processes hold its socket: the truth, whatever listener it
//! came through. Reading other users' descriptors needs `CAP_SYS_PTRACE`. Called by the driver while it
//! drains, and for `status`; it never judges whether a number is good.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use super::listener::LocalAddress;
use super::processes;
use super::sockdiag::{TcpSocket, TcpState, tcp_sockets};

/// Why connections could not be counted.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionsError {
    /// The kernel's table of sockets.
    #[error("failed to list TCP connections")]
    Table(#[source] io::Error),
    /// The descriptors of a process.
    #[error("failed to look at the descriptors of the processes in {cgroup}")]
    Processes {
        /// Their cgroup.
        cgroup: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that counts was cancelled: the agent ends.
    #[error("failed to count connections: the runtime shuts down")]
    Ended,
}

/// Connections that processes serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Both sides may still send.
    pub established: u64,
    /// The client said that it will send no more (`CLOSE_WAIT`); it may still get an answer.
    pub half_closed: u64,
}

/// Counts, for each group of cgroups (say: one group a release), the connections to these listeners that
/// its processes hold. Unix listeners are counted by the path that the kernel shows, as well as it does.
pub async fn count(
    releases: Vec<Vec<String>>,
    listeners: Vec<LocalAddress>,
) -> Result<Vec<Connections>, ConnectionsError> {
    let counted = tokio::task::spawn_blocking(move || count_blocking(&releases, &listeners)).await;
    counted.map_err(|_| ConnectionsError::Ended)?
}

fn count_blocking(
    releases: &[Vec<String>],
    listeners: &[LocalAddress],
) -> Result<Vec<Connections>, ConnectionsError> {
    let sockets = served(listeners)?;
    releases.iter().map(|cgroups| count_release(cgroups, &sockets)).collect()
}

fn count_release(
    cgroups: &[String],
    sockets: &HashMap<u64, TcpState>,
) -> Result<Connections, ConnectionsError> {
    let mut total = Connections::default();
    for cgroup in cgroups {
        let failed = |source| ConnectionsError::Processes { cgroup: cgroup.clone(), source };
        let pids = processes::pids_in(cgroup).map_err(failed)?;
        let found = count_processes(&pids, sockets).map_err(failed)?;
        total.established += found.established;
        total.half_closed += found.half_closed;
    }
    Ok(total)
}

/// A connection that several processes hold counts once.
fn count_processes(pids: &[u32], sockets: &HashMap<u64, TcpState>) -> io::Result<Connections> {
    let mut held = HashSet::new();
    for pid in pids {
        held.extend(processes::sockets_of(*pid)?);
    }
    let mut connections = Connections::default();
    for inode in held {
        match sockets.get(&inode) {
            Some(TcpState::Established) => connections.established += 1,
            Some(TcpState::CloseWait) => connections.half_closed += 1,
            Some(TcpState::Listen) | None => {}
        }
    }
    Ok(connections)
}

/// The connections to these listeners, by inode.
fn served(listeners: &[LocalAddress]) -> Result<HashMap<u64, TcpState>, ConnectionsError> {
    let tcp: Vec<SocketAddr> = listeners.iter().filter_map(tcp_address).collect();
    let mut found = HashMap::new();
    if !tcp.is_empty() {
        let states = [TcpState::Established, TcpState::CloseWait];
        let all = tcp_sockets(&states).map_err(ConnectionsError::Table)?;
        let ours = all.iter().filter(|s| tcp.iter().any(|l| is_to(s.local, *l)));
        found.extend(ours.map(|s| (s.inode, s.state)));
    }
    let paths: Vec<&Path> = listeners.iter().filter_map(unix_path).collect();
    if !paths.is_empty() {
        let table = std::fs::read_to_string("/proc/net/unix").map_err(ConnectionsError::Table)?;
        found.extend(unix_connections(&table, &paths).map(|inode| (inode, TcpState::Established)));
    }
    Ok(found)
}

fn tcp_address(listener: &LocalAddress) -> Option<SocketAddr> {
    match listener {
        LocalAddress::Tcp { addr, .. } => Some(*addr),
        LocalAddress::Unix(_) => None,
    }
}

fn unix_path(listener: &LocalAddress) -> Option<&Path> {
    match listener {
        LocalAddress::Tcp { .. } => None,
        LocalAddress::Unix(path) => path.as_deref(),
    }
}

/// A wildcard listener serves every address of its port.
fn is_to(local: SocketAddr, listener: SocketAddr) -> bool {
    local.port() == listener.port()
        && (listener.ip().is_unspecified() || listener.ip() == local.ip().to_canonical())
}

/// How many connections to a Unix listener wait to be accepted: they are being connected (state 02).
pub(super) fn unix_waiting(path: &Path) -> io::Result<usize> {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    Ok(unix_rows(&table).filter(|r| r.state == "02" && r.path == path).count())
}

/// How many connections the processes of a cgroup hold that came through listeners which they hold, too: what
/// a proxy still carries.
pub async fn carried(cgroup: String) -> Result<u64, ConnectionsError> {
    let counted = tokio::task::spawn_blocking(move || {
        let failed = |source| ConnectionsError::Processes { cgroup: cgroup.clone(), source };
        let pids = processes::pids_in(&cgroup).map_err(failed)?;
        carried_by(&pids).map_err(failed)
    });
    counted.await.map_err(|_| ConnectionsError::Ended)?
}

fn carried_by(pids: &[u32]) -> io::Result<u64> {
    let mut held = HashSet::new();
    for pid in pids {
        held.extend(processes::sockets_of(*pid)?);
    }
    let tcp = tcp_sockets(&[TcpState::Listen, TcpState::Established, TcpState::CloseWait])?;
    let (listening, connected): (Vec<TcpSocket>, Vec<TcpSocket>) =
        tcp.into_iter().filter(|s| held.contains(&s.inode)).partition(|s| s.state == TcpState::Listen);
    let through = |s: &&TcpSocket| listening.iter().any(|l| is_to(s.local, l.local));
    let tcp = connected.iter().filter(through).count();
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let (listening, connected): (Vec<_>, Vec<_>) =
        unix_rows(&table).filter(|r| held.contains(&r.inode)).partition(|r| r.state == "01");
    let through = |r: &&UnixRow<'_>| r.state == "03" && listening.iter().any(|l| l.path == r.path);
    Ok((tcp + connected.iter().filter(through).count()) as u64)
}

/// A row of the kernel's table of Unix sockets that has a path.
struct UnixRow<'a> {
    state: &'a str,
    inode: u64,
    path: &'a Path,
}

fn unix_rows(table: &str) -> impl Iterator<Item = UnixRow<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let state = fields.nth(5)?;
        let inode = fields.next()?.parse().ok()?;
        Some(UnixRow { state, inode, path: Path::new(fields.next()?) })
    })
}

/// Accepted sockets carry their listener's path and are connected (state 03).
fn unix_connections<'a>(table: &'a str, paths: &'a [&Path]) -> impl Iterator<Item = u64> + 'a {
    unix_rows(table).filter(|r| r.state == "03" && paths.contains(&r.path)).map(|r| r.inode)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_serves_every_address_of_its_port() {
        let addr = |s: &str| s.parse::<SocketAddr>().unwrap();
        assert!(is_to(addr("[::ffff:127.0.0.1]:80"), addr("[::]:80")));
        assert!(is_to(addr("[::ffff:127.0.0.1]:80"), addr("127.0.0.1:80")));
        assert!(!is_to(addr("127.0.0.2:80"), addr("127.0.0.1:80")));
        assert!(!is_to(addr("127.0.0.1:81"), addr("[::]:80")));
    }

    #[test]
    fn unix_connections_are_told_from_their_listener() {
        let table = "Num RefCount Protocol Flags Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 11 /run/a.sock\n\
            0: 00000003 00000000 00000000 0001 03 12 /run/a.sock\n\
            0: 00000003 00000000 00000000 0001 03 13\n\
            0: 00000003 00000000 00000000 0001 03 14 /run/b.sock\n";
        let found: Vec<u64> = unix_connections(table, &[Path::new("/run/a.sock")]).collect();
        assert_eq!(found, [12]);
    }

    /// Only what came through a listener of its own counts: not the side that it opened itself.
    #[test]
    fn a_proxy_carries_what_came_through_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let program = "import socket, sys\n\
            tcp = socket.create_server(('127.0.0.1', 0)); unix = socket.socket(socket.AF_UNIX)\n\
            unix.bind(sys.argv[1]); unix.listen()\n\
            print(tcp.getsockname()[1], flush=True)\n\
            held = [tcp.accept(), unix.accept(), socket.create_connection(('127.0.0.1', int(sys.argv[2])))]\n\
            print('held', flush=True); sys.stdin.read(1); held[0][0].close()\n\
            print('closed', flush=True); sys.stdin.read(1)\n";
        let app = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let path = dir.path().join("s.sock");
        let mut proxy = std::process::Command::new("python3")
            .args(["-c", program])
            .arg(&path)
            .arg(app.local_addr().unwrap().port().to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::{BufRead as _, Write as _};
        let mut said = std::io::BufReader::new(proxy.stdout.take().unwrap()).lines();
        let mut tell = proxy.stdin.take().unwrap();
        let port: u16 = said.next().unwrap().unwrap().parse().unwrap();
        assert_eq!(carried_by(&[proxy.id()]).unwrap(), 0);
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _unix = std::os::unix::net::UnixStream::connect(&path).unwrap();
        said.next().unwrap().unwrap();
        assert_eq!(carried_by(&[proxy.id()]).unwrap(), 2);
        tell.write_all(b"x").unwrap();
        said.next().unwrap().unwrap();
        assert_eq!(carried_by(&[proxy.id()]).unwrap(), 1);
        drop((client, tell));
        proxy.wait().unwrap();
    }

    #[test]
    fn connections_of_this_process_are_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let local = [LocalAddress::Tcp { addr, stack: super::super::listener::Stack::Single }];
        let now = || count_processes(&[std::process::id()], &served(&local).unwrap()).unwrap();
        assert_eq!(now(), Connections::default());
        let mut open = Vec::new();
        for _ in 0..5 {
            let client = std::net::TcpStream::connect(addr).unwrap();
            open.push((client, listener.accept().unwrap().0));
        }
        assert_eq!(now(), Connections { established: 5, half_closed: 0 });
        open[0].0.shutdown(std::net::Shutdown::Write).unwrap();
        drop(open.pop());
        assert_eq!(now(), Connections { established: 3, half_closed: 1 });
    }
}
