//! The network of a test: one namespace with a bridge, every host a port on it, no way out.
//!
//! The namespace itself is where clients run ([`Net::client`]): `10.77.0.1` and `fd77::1`. Hosts get `.10`, `.11`, …

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::netns::{NetPath, Netns};
use crate::wait;

/// The bridge's name inside the namespace.
pub(super) const BRIDGE: &str = "br0";
/// Last octet of the first host.
const FIRST_HOST: u8 = 10;
/// How long nspawn may take to make the host's interface.
const INTERFACE_LIMIT: Duration = Duration::from_secs(30);

/// The addresses of one host on the test's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// `10.77.0.N`
    pub v4: Ipv4Addr,
    /// `fd77::N`
    pub v6: Ipv6Addr,
}

impl Address {
    /// The addresses with the last number `last`.
    fn numbered(last: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(10, 77, 0, last),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)),
        }
    }
}

/// A closed network.
#[derive(Debug)]
pub struct Net {
    netns: Netns,
    next: AtomicU8,
}

impl Net {
    /// Makes the namespace and its bridge. `label` tells networks of one process apart.
    pub fn create(label: &str) -> Result<Self> {
        let netns = Netns::create(label)?;
        let client = Address::numbered(1);
        netns.path().ip(&format!("link add {BRIDGE} type bridge forward_delay 0"))?;
        netns.path().ip(&format!("addr add {}/16 dev {BRIDGE}", client.v4))?;
        netns.path().ip(&format!("addr add {}/64 dev {BRIDGE} nodad", client.v6))?;
        netns.path().ip(&format!("link set {BRIDGE} up"))?;
        Ok(Self { netns, next: AtomicU8::new(FIRST_HOST) })
    }

    /// The namespace of clients: beside the hosts, outside of them.
    pub fn client(&self) -> &NetPath {
        self.netns.path()
    }

    /// Gives this side `count` more IPv4 addresses (`10.77.1.1` …), for clients that need many ports.
    pub fn add_client_addresses(&self, count: u8) -> Result<Vec<IpAddr>> {
        let mut added = Vec::new();
        for last in 1..=count {
            let address = Ipv4Addr::new(10, 77, 1, last);
            self.client().ip(&format!("addr add {address}/16 dev {BRIDGE}"))?;
            added.push(IpAddr::V4(address));
        }
        Ok(added)
    }

    /// The addresses of the next host.
    pub(super) fn take_address(&self) -> Result<Address> {
        let last = self.next.fetch_add(1, Ordering::Relaxed);
        if last < FIRST_HOST {
            bail!("a test network holds at most {} hosts", u8::MAX - FIRST_HOST);
        }
        Ok(Address::numbered(last))
    }

    /// Gives a host its addresses; done from outside so that no network service inside has to be waited for.
    pub(super) fn configure(host: &NetPath, address: Address) -> Result<()> {
        // PID 1 is there a moment before nspawn gives it the interface.
        wait::until(INTERFACE_LIMIT, "the host's interface", || host.ip("link show host0"))?;
        // /16 so that the host can answer the addresses of `add_client_addresses`.
        host.ip(&format!("addr replace {}/16 dev host0", address.v4))?;
        host.ip(&format!("addr replace {}/64 dev host0 nodad", address.v6))?;
        host.ip("link set host0 up")
    }
}
