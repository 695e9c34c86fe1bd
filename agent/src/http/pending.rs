//! Handshakes that have not ended: so many and no more, and who has to go when one more comes.
//!
//! The one who goes is the oldest of the address that has most of them. So thousands of half-open handshakes cost
//! one another their places; a caller from elsewhere, whose handshake takes milliseconds, keeps its own.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Handshakes at once, of all listeners and addresses together.
pub(super) const PENDING_MAX: usize = 256;

/// Whom handshakes are counted for: an IPv4 address, or a network of IPv6, of which one host has 2^64 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Self(Ipv6Addr::from(u128::from(ip) >> 64 << 64).into()),
            ip @ IpAddr::V4(_) => Self(ip),
        }
    }
}

/// The one that makes room: `waiting` is sorted by age.
fn victim(waiting: &BTreeMap<u64, Source>) -> Option<u64> {
    let mut counts: HashMap<Source, usize> = HashMap::new();
    for source in waiting.values() {
        *counts.entry(*source).or_default() += 1;
    }
    let most = counts.values().max().copied()?;
    waiting.iter().find(|(_, source)| counts.get(source) == Some(&most)).map(|(number, _)| *number)
}

/// All of them. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pending(Arc<Mutex<Waiting>>, usize);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    sources: BTreeMap<u64, Source>,
    /// Dropped to send one away.
    places: HashMap<u64, oneshot::Sender<()>>,
}

/// One's place: given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    pending: Pending,
    /// Ends when another one was given the place.
    pub(super) gone: oneshot::Receiver<()>,
}

impl Pending {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::default(), most)
    }

    /// A place, taken from another one if there is no other.
    pub(super) fn enter(&self, from: IpAddr) -> Place {
        let (sender, gone) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.sources.len() >= self.1
            && let Some(oldest) = victim(&waiting.sources)
        {
            waiting.sources.remove(&oldest);
            waiting.places.remove(&oldest);
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.sources.insert(number, Source::of(from));
        waiting.places.insert(number, sender);
        Place { number, pending: self.clone(), gone }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sources.len()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.pending.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.sources.remove(&self.number);
        waiting.places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(from: &[&str]) -> BTreeMap<u64, Source> {
        from.iter().enumerate().map(|(at, ip)| (at as u64, Source::of(ip.parse().unwrap()))).collect()
    }

    #[test]
    fn the_oldest_of_the_address_with_most_has_to_go() {
        for (from, gone) in [
            (&[][..], None),
            (&["10.0.0.1"], Some(0)),
            (&["10.0.0.1", "10.0.0.2"], Some(0)),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.2"], Some(1)),
            (&["10.0.0.2", "10.0.0.1", "10.0.0.1", "10.0.0.2"], Some(0)),
            // One network of IPv6 is one source; an IPv4 address in IPv6's dress is itself.
            (&["10.0.0.1", "2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"], Some(1)),
            (&["10.0.0.9", "::ffff:10.0.0.1", "10.0.0.1"], Some(1)),
        ] {
            assert_eq!(victim(&waiting(from)), gone, "{from:?}");
        }
    }

    #[test]
    fn a_flood_costs_itself_its_places() {
        let pending = Pending::new(4);
        let mut caller = pending.enter("10.0.0.1".parse().unwrap());
        let mut flood: Vec<Place> = (0..100).map(|_| pending.enter("10.0.0.66".parse().unwrap())).collect();
        assert_eq!(pending.len(), 4);
        assert!(
            caller.gone.try_recv() == Err(oneshot::error::TryRecvError::Empty),
            "the caller keeps its place"
        );
        let gone = |place: &mut Place| place.gone.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(flood.iter_mut().filter_map(|place| gone(place).then_some(())).count(), 97);
        drop(flood);
        drop(caller);
        assert_eq!(pending.len(), 0);
    }
}
