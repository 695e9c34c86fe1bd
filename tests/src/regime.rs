//! The conditions under which releases are swapped, and how a regime's clients reach a host: the one place.
//!
//! Used by the swap suite, which paces its clients so that requests begin at any moment, and by `cargo xtask bench`,
//! whose clients ask again as soon as they are answered. Never decides what is right or wrong.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::load::{Options, Sources};
use crate::machine::Host;
use crate::netns::NetPath;
use crate::tun::Relay;

/// Of the clients that are 40 ms away.
const ONE_WAY: Duration = Duration::from_millis(20);

/// How the app and its clients behave.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    /// In keys of results.
    pub key: &'static str,
    /// In words.
    pub name: &'static str,
    /// `WORK_US` of the app: each request keeps it busy for so long.
    pub work_us: u32,
    /// Whether clients are 40 ms away.
    pub far: bool,
    /// Clients that pause between two requests.
    pub paced: usize,
    /// Clients that do not.
    pub eager: usize,
}

impl Regime {
    /// It answers as soon as it is asked.
    pub const FAST: Self =
        Self { key: "fast", name: "fast app", work_us: 0, far: false, paced: 512, eager: 64 };
    /// 3,333 requests a second at most: a third of what the clients would send, so that its queue is never empty.
    pub const BUSY: Self =
        Self { key: "busy", name: "busy queue", work_us: 300, far: false, paced: 512, eager: 128 };
    /// Handshakes are under way at every moment of a swap.
    pub const FAR: Self =
        Self { key: "rtt", name: "40 ms RTT", work_us: 0, far: true, paced: 256, eager: 128 };
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FAST, Self::BUSY, Self::FAR];
}

/// The way from the clients' namespace to a host.
#[derive(Debug)]
pub struct Reach {
    relay: Option<Relay>,
    ip: IpAddr,
    sources: Vec<IpAddr>,
    from: NetPath,
}

impl Reach {
    /// Opens the way; `near` are the clients' addresses when they are on the host's own network.
    pub fn open(host: &Host, regime: &Regime, near: &[IpAddr]) -> Result<Self> {
        let from = host.net().client().clone();
        if !regime.far {
            return Ok(Self { relay: None, ip: host.address().v4.into(), sources: near.to_vec(), from });
        }
        let relay = Relay::between(&from, &host.netns(), ONE_WAY)?;
        let sources = relay.sources().to_vec();
        Ok(Self { relay: Some(relay), ip: Relay::HOST.into(), sources, from })
    }

    /// A load on a port over it, with this many clients.
    pub fn options(&self, port: u16, clients: usize) -> Options {
        let mut options = Options::new(SocketAddr::new(self.ip, port)).from_netns(self.from.clone());
        (options.sources, options.clients) = (Sources::Of(self.sources.clone()), clients);
        options
    }

    /// Closes it; an error of the relay is one of the run.
    pub fn finish(self) -> Result<()> {
        self.relay.map_or(Ok(()), Relay::finish)
    }
}
