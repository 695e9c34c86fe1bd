//! The kernel's table of TCP sockets, by netlink (`NETLINK_SOCK_DIAG`).
//!
//! Far cheaper than `/proc/net/tcp` with many connections. One blocking dump a call, of our own network
//! namespace; it answers within milliseconds. Needs no privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// States of a TCP socket, as the bits of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TcpState {
    Established = 1,
    CloseWait = 8,
    Listen = 10,
}

/// One TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpSocket {
    pub(super) state: TcpState,
    pub(super) local: SocketAddr,
    /// 0 for a connection that nobody accepted yet.
    pub(super) inode: u64,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Length of `struct inet_diag_msg`.
const ANSWER: usize = 72;
/// The kernel fills at most 32 KiB a message.
const BUFFER: usize = 64 * 1024;

/// All TCP sockets of both families in one of these states.
pub(super) fn tcp_sockets(states: &[TcpState]) -> io::Result<Vec<TcpSocket>> {
    let mask = states.iter().fold(0_u32, |mask, state| mask | 1 << *state as u32);
    let netlink = open()?;
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        sendto(
            netlink.as_raw_fd(),
            &request(family as u8, mask),
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        collect(&netlink, &mut found)?;
    }
    Ok(found)
}

fn head(family: u8, flags: i32, states: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence, port: the kernel's answer is the only traffic
    message.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    message.extend(states.to_ne_bytes());
    message
}

fn request(family: u8, states: u32) -> Vec<u8> {
    let mut message = head(family, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, states);
    message.resize(HEADER + REQUEST, 0);
    message
}

/// What became of a connection, on the side of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Somebody accepted it.
    Accepted,
    /// It waits in the listener's queue: the kernel made it, no program knows of it.
    Waiting,
    /// There is no such connection any more.
    Gone,
}

/// Looks at one connection of this host to itself, from `client` to `server`. One lookup, however many
/// connections there are.
pub(super) fn served(server: SocketAddr, client: SocketAddr) -> io::Result<Served> {
    let family = if server.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut message = head(family as u8, libc::NLM_F_REQUEST, u32::MAX);
    // `struct inet_diag_sockid`: the server's side is the local one.
    message.extend(server.port().to_be_bytes());
    message.extend(client.port().to_be_bytes());
    message.extend(address(server.ip()));
    message.extend(address(client.ip()));
    message.extend([0; 4]); // any interface
    message.extend([0xff; 8]); // no cookie
    let netlink = open()?;
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let len = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = buffer.get(HEADER..len).ok_or(io::ErrorKind::InvalidData)?;
    if i32::from(half(&buffer, 4).unwrap_or(0)) == libc::NLMSG_ERROR {
        return match -(word(answer, 0).unwrap_or(0) as i32) {
            libc::ENOENT => Ok(Served::Gone),
            code => Err(io::Error::from_raw_os_error(code)),
        };
    }
    let state = *answer.get(1).ok_or(io::ErrorKind::InvalidData)?;
    let inode = word(answer, 68).ok_or(io::ErrorKind::InvalidData)?;
    Ok(match state {
        // Without the connection the kernel finds the listener.
        LISTEN => Served::Gone,
        ESTABLISHED | SYN_RECV | CLOSE_WAIT | NEW_SYN_RECV if inode == 0 => Served::Waiting,
        _ => Served::Accepted,
    })
}

/// States of TCP as the kernel numbers them.
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;

/// An address in the 16 bytes that the kernel gives it.
fn address(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    bytes
}

fn open() -> io::Result<OwnedFd> {
    let (kind, protocol) = (SockType::Datagram, SockProtocol::NetlinkSockDiag);
    Ok(socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol)?)
}

fn collect(netlink: &OwnedFd, into: &mut Vec<TcpSocket>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..len];
        while rest.len() >= HEADER {
            let size = word(rest, 0).unwrap_or(0) as usize;
            let message = rest.get(HEADER..size).ok_or(io::ErrorKind::InvalidData)?;
            match i32::from(half(rest, 4).unwrap_or(0)) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = word(message, 0).unwrap_or(0) as i32;
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => into.extend(parse(message)),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_msg`: family, state, …, ports (big-endian), addresses, …, inode.
fn parse(message: &[u8]) -> Option<TcpSocket> {
    if message.len() < ANSWER {
        return None;
    }
    let state = match message[1] {
        ESTABLISHED => TcpState::Established,
        CLOSE_WAIT => TcpState::CloseWait,
        LISTEN => TcpState::Listen,
        _ => return None,
    };
    let port = u16::from_be_bytes([message[4], message[5]]);
    let ip = if i32::from(message[0]) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::new(message[8], message[9], message[10], message[11]))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).ok()?))
    };
    let inode = word(message, 68)?;
    Some(TcpSocket { state, local: SocketAddr::new(ip, port), inode: inode.into() })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_connection_waits_until_it_is_accepted() {
        for (bind, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let listener = TcpListener::bind(bind).unwrap();
            let server = SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
            let client = TcpStream::connect(server).unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(served(server, from).unwrap(), Served::Waiting, "{bind}");
            let accepted = listener.accept().unwrap().0;
            assert_eq!(served(server, from).unwrap(), Served::Accepted, "{bind}");
            drop(accepted);
            assert_ne!(served(server, from).unwrap(), Served::Waiting, "{bind}");
            drop((client, listener));
            assert_eq!(served(server, "127.0.0.1:1".parse().unwrap()).unwrap_or(Served::Gone), Served::Gone);
        }
    }

    fn inode(socket: &impl AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn listeners_and_connections_of_both_families_are_found() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let all = tcp_sockets(&[TcpState::Listen, TcpState::Established]).unwrap();
            let of = |inode: u64| all.iter().find(|s| s.inode == inode).copied();
            let local = listener.local_addr().unwrap();
            assert_eq!(
                of(inode(&listener)),
                Some(TcpSocket { state: TcpState::Listen, local, inode: inode(&listener) })
            );
            assert_eq!(of(inode(&server)).map(|s| (s.state, s.local)), Some((TcpState::Established, local)));
            assert_eq!(of(inode(&client)).map(|s| s.local), Some(client.local_addr().unwrap()));
        }
    }
}
