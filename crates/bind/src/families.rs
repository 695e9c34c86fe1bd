//! Which descriptors the program believes to be AF_INET although they are the dual-stack socket.
//!
//! Must never rewrite an address of a socket that is not one of ours: besides the mark of the
//! descriptor, the socket's own local port has to be one that was taken. Used by `exports`.

use crate::address::{as_inet, port};
use crate::sys::{self, number};
use core::sync::atomic::{AtomicU8, Ordering};

/// Descriptors with a mark of their own; higher ones, duplicates and passed ones go by their port.
const MARKED: usize = 65_536;
static MARKS: [AtomicU8; MARKED] = [const { AtomicU8::new(UNKNOWN) }; MARKED];

/// How a port was taken: a bit set over all `bind()`s of this process.
static PORTS: [AtomicU8; 65_536] = [const { AtomicU8::new(0) }; 65_536];

const UNKNOWN: u8 = 0;
const PLAIN: u8 = 1;
const INET: u8 = 2;

/// What the program asked `socket()` for, against what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It gets the addresses as the kernel tells them.
    Plain,
    /// It has an AF_INET socket in mind: addresses are rewritten.
    AsInet,
}

impl Seen {
    const fn mark(self) -> u8 {
        match self {
            Self::Plain => PLAIN,
            Self::AsInet => INET,
        }
    }
}

/// Notes that `fd` is now a taken listener (with its port) or a connection from one.
pub(crate) fn mark(fd: i32, seen: Seen) {
    if let Some(mark) = usize::try_from(fd).ok().and_then(|fd| MARKS.get(fd)) {
        mark.store(seen.mark(), Ordering::Relaxed);
    }
}

/// Notes that a socket on `port` was taken.
pub(crate) fn mark_port(port: u16, seen: Seen) {
    if let Some(entry) = PORTS.get(usize::from(port)) {
        entry.fetch_or(seen.mark(), Ordering::Relaxed);
    }
}

/// How the program sees `fd`, whose local address is `local`.
fn seen_with(fd: i32, local: &[u8]) -> Seen {
    let taken = port(local)
        .and_then(|port| PORTS.get(usize::from(port)))
        .map_or(0, |bits| bits.load(Ordering::Relaxed));
    if as_inet(local).is_none() || taken & INET == 0 {
        return Seen::Plain;
    }
    let own = usize::try_from(fd)
        .ok()
        .and_then(|fd| MARKS.get(fd))
        .map_or(UNKNOWN, |mark| mark.load(Ordering::Relaxed));
    match own {
        INET => Seen::AsInet,
        PLAIN if taken & PLAIN != 0 => Seen::Plain,
        _ if taken == INET => Seen::AsInet,
        _ => Seen::Plain,
    }
}

/// How the program sees `fd`.
pub(crate) fn seen(fd: i32) -> Seen {
    match sys::name(number::GETSOCKNAME, fd) {
        Ok((local, length)) => seen_with(fd, local.get(..length).unwrap_or_default()),
        Err(_) => Seen::Plain,
    }
}

/// Whether `fd` is on a port that was taken, so that options which would break the shared socket or
/// its group are left unset.
pub(crate) fn is_taken(fd: i32) -> bool {
    let Ok((local, length)) = sys::name(number::GETSOCKNAME, fd) else { return false };
    let local = local.get(..length).unwrap_or_default();
    matches!(
        crate::address::read(local),
        Some(crate::address::Address::V4(..) | crate::address::Address::V6(..))
    ) && port(local)
        .and_then(|port| PORTS.get(usize::from(port)))
        .is_some_and(|bits| bits.load(Ordering::Relaxed) != 0)
}
