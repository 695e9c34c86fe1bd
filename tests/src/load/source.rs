//! Opens non-blocking connections from the source addresses that the options ask for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use std::os::fd::AsRawFd;

use super::options::Sources;

/// Number of distinct `127.1.x.y` addresses in turn.
const LOOPBACK_SOURCES: u32 = 20_000;
/// Addresses per third octet, so that no octet is 0 or 255.
const PER_OCTET: u32 = 200;

/// Hands out connections; remembers whose turn it is.
#[derive(Debug)]
pub(super) struct Connector {
    target: SockaddrStorage,
    family: AddressFamily,
    sources: Sources,
    turn: u32,
}

impl Connector {
    pub(super) fn new(target: SocketAddr, sources: Sources) -> Self {
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        Self { target: SockaddrStorage::from(target), family, sources, turn: 0 }
    }

    /// Starts to connect. Errors that come at once (a refusal on loopback may) are returned as they are.
    pub(super) fn open(&mut self) -> Result<TcpStream, Errno> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(self.family, SockType::Stream, flags, None)?;
        if let Some(source) = self.next_source() {
            // The port is chosen at connect(): then only the whole 4-tuple has to be free.
            setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
        }
        match connect(fd.as_raw_fd(), &self.target) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
            Err(error) => Err(error),
        }
    }

    fn next_source(&mut self) -> Option<IpAddr> {
        self.turn = self.turn.wrapping_add(1);
        match &self.sources {
            Sources::Kernel => None,
            Sources::Loopback => Some(IpAddr::V4(loopback_source(self.turn))),
            Sources::Of(addresses) if addresses.is_empty() => None,
            Sources::Of(addresses) => Some(addresses[self.turn as usize % addresses.len()]),
        }
    }
}

/// The `turn`-th source address.
fn loopback_source(turn: u32) -> Ipv4Addr {
    let number = turn % LOOPBACK_SOURCES;
    Ipv4Addr::new(127, 1, (number / PER_OCTET) as u8 + 1, (number % PER_OCTET) as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn loopback_sources_are_distinct_hosts() {
        let all: HashSet<Ipv4Addr> = (0..LOOPBACK_SOURCES).map(loopback_source).collect();
        assert_eq!(all.len(), LOOPBACK_SOURCES as usize);
        assert!(all.iter().all(|address| !matches!(address.octets()[3], 0 | 255)));
    }
}
