//! The phases of a push over a fleet, as they are seen from outside, so that something can happen in each.

use std::time::Duration;

use anyhow::Result;

use super::{Fleet, HostState, Project};
use crate::machine::Host;
use crate::shop::Spec;
use crate::wait;

/// While this exists on the operator's machine, its build runs.
const BUILDING: &str = "/run/building";
/// Megabytes that travel to each host, and the bytes that show that they are on their way.
const BALLAST: usize = 48;
const ON_THEIR_WAY: u64 = 4_000_000;
/// What a start of the app takes, so that a phase can be met.
const START_MS: &str = "1500";
const REACHED: Duration = Duration::from_mins(2);

/// How far a push got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// ctl builds; no host knows anything.
    Building,
    /// Files travel.
    Sending,
    /// The first host starts the release.
    First,
    /// The first host is live on it, the last one is untouched.
    Between,
    /// The last host starts it.
    Last,
}

/// What was so before a push, to tell what came by it.
#[derive(Debug)]
pub struct Before {
    received: u64,
    states: Vec<HostState>,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Building, Self::Sending, Self::First, Self::Between, Self::Last];

    /// A project whose pushes take their time in every phase; a build in the first only when that is wanted.
    pub fn project(self) -> Project {
        let slow = Project::default().heavy(BALLAST).with(|spec: Spec| spec.env("START_MS", START_MS));
        match self {
            Self::Building => slow.built_by(&format!("touch {BUILDING} && sleep 3; rm -f {BUILDING}")),
            _ => slow,
        }
    }

    /// Waits until a push that was begun after `before` is in this phase.
    pub fn wait(self, fleet: &Fleet, before: &Before) -> Result<()> {
        wait::until(REACHED, &format!("the phase {self:?}"), || {
            let looked = self.look(fleet, before).map_err(|e| format!("{e:#}"))?;
            looked.map_or(Ok(()), Err)
        })
    }

    /// `None` when it is reached, else what is seen.
    fn look(self, fleet: &Fleet, before: &Before) -> Result<Option<String>> {
        let (first, last) = (&fleet.hosts[0], &fleet.hosts[fleet.hosts.len() - 1]);
        let state = |host: &Host| HostState::of(host, "shop");
        let (reached, seen) = match self {
            Self::Building => (fleet.ops.host.outside(BUILDING).exists(), "no build".to_owned()),
            Self::Sending => {
                let received = received(first)?.saturating_sub(before.received);
                (received > ON_THEIR_WAY, format!("{received} bytes"))
            }
            Self::First => (state(first)?.moves, format!("{:?}", state(first)?)),
            Self::Between => {
                let now = state(first)?;
                (now.live != before.states[0].live, format!("{now:?}"))
            }
            Self::Last => (state(last)?.moves, format!("{:?}", state(last)?)),
        };
        Ok(if reached { None } else { Some(seen) })
    }
}

impl Before {
    /// How everything is now.
    pub fn of(fleet: &Fleet) -> Result<Self> {
        Ok(Self { received: received(&fleet.hosts[0])?, states: fleet.states("shop")? })
    }

    /// The release that served on the first host.
    pub fn label(&self) -> Option<&str> {
        self.states.first()?.live.as_deref()
    }
}

/// Bytes that a host has received over the network since it booted.
pub fn received(host: &Host) -> Result<u64> {
    counter(host, "rx_bytes")
}

/// Bytes that a host has sent.
pub fn sent(host: &Host) -> Result<u64> {
    counter(host, "tx_bytes")
}

fn counter(host: &Host, name: &str) -> Result<u64> {
    Ok(host.ok(&format!("cat /sys/class/net/host0/statistics/{name}"))?.trim().parse()?)
}
