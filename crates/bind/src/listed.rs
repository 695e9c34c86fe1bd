//! The listed sockets: parsing `DEPLOYD_BIND`, and deciding what a `bind()` of an address means.
//!
//! Pure, no allocation: the entries borrow the text. Used by `takeover` and `refusal`.

use crate::address::{Address, unmapped};
use core::net::{Ipv4Addr, Ipv6Addr};

/// More listeners than any process of a spec has; the rest of a longer list is ignored.
pub(crate) const MOST: usize = 32;

/// Which families a listed IPv6 wildcard serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    /// `[::]:PORT` as systemd opens it: IPv4 clients too, as v4-mapped addresses.
    Both,
    /// `v6only:[...]:PORT`.
    Ipv6Only,
}

/// One passed socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// The descriptor it was passed as.
    pub(crate) fd: i32,
    /// The address it listens on.
    pub(crate) address: Address<'a>,
    /// Whether an IPv6 wildcard also serves IPv4.
    pub(crate) families: Families,
}

/// What a `bind()` of an address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not ours: the kernel decides.
    Untouched,
    /// The socket becomes the listed one with this index.
    Take(usize),
    /// The port is listed, but on another address: the index of the first such entry.
    Refuse(usize),
}

/// Parses `FD=ADDRESS,...` into `entries` and returns how many there are; what it cannot read it skips.
pub(crate) fn parse<'a>(text: &'a [u8], entries: &mut [Option<Entry<'a>>]) -> usize {
    let mut count = 0;
    let found = text.split(|byte| *byte == b',').filter_map(parse_entry);
    for (place, entry) in entries.iter_mut().zip(found) {
        *place = Some(entry);
        count += 1;
    }
    count
}

fn parse_entry(text: &[u8]) -> Option<Entry<'_>> {
    let equals = text.iter().position(|byte| *byte == b'=')?;
    let fd = core::str::from_utf8(text.get(..equals)?).ok()?.parse::<u16>().ok()?;
    let mut rest = text.get(equals + 1..)?;
    let mut families = Families::Both;
    if let Some(stripped) = rest.strip_prefix(b"v6only:") {
        rest = stripped;
        families = Families::Ipv6Only;
    }
    let address = if rest.first().is_some_and(|byte| *byte == b'/' || *byte == b'@') {
        Address::Unix(rest)
    } else {
        parse_internet(rest)?
    };
    Some(Entry { fd: i32::from(fd), address, families })
}

fn parse_internet(text: &[u8]) -> Option<Address<'static>> {
    let text = core::str::from_utf8(text).ok()?;
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
    if let Some(inside) = host.strip_prefix('[') {
        return Some(Address::V6(inside.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.octets(), port));
    }
    Some(Address::V4(host.parse::<Ipv4Addr>().ok()?.octets(), port))
}

/// Decides what binding `wanted` means. A listed dual-stack wildcard takes a wildcard of either family;
/// anything else takes exactly its own address; a listed port on another address is refused, because
/// the kernel would give the program a socket that no traffic of a swap ever reaches.
pub(crate) fn decide(entries: &[Option<Entry<'_>>], wanted: &Address<'_>) -> Decision {
    let wanted = plain(wanted);
    let mut refused = None;
    for (index, entry) in entries.iter().enumerate() {
        let Some(entry) = entry else { continue };
        if takes(entry, &wanted) {
            return Decision::Take(index);
        }
        if same_port(&entry.address, &wanted) {
            refused = refused.or(Some(index));
        }
    }
    refused.map_or(Decision::Untouched, Decision::Refuse)
}

/// `::ffff:a.b.c.d` on an IPv6 socket means the IPv4 address.
fn plain<'a>(wanted: &Address<'a>) -> Address<'a> {
    if let Address::V6(address, port) = wanted
        && let Some(inner) = unmapped(address)
    {
        return Address::V4(inner, *port);
    }
    *wanted
}

fn takes(entry: &Entry<'_>, wanted: &Address<'_>) -> bool {
    match (&entry.address, wanted) {
        (Address::Unix(path), Address::Unix(name)) => same_path(path, name),
        (Address::V6(listed, port), Address::V4([0, 0, 0, 0], wanted)) => {
            *listed == [0; 16] && port == wanted && entry.families == Families::Both
        }
        (listed, wanted) => listed == wanted,
    }
}

/// An abstract name is listed as `@name` and bound as `\0name`.
pub(crate) fn same_path(listed: &[u8], bound: &[u8]) -> bool {
    match (listed.strip_prefix(b"@"), bound.strip_prefix(b"\0")) {
        (Some(listed), Some(bound)) => listed == bound,
        (None, None) => listed == bound,
        _ => false,
    }
}

fn same_port(listed: &Address<'_>, wanted: &Address<'_>) -> bool {
    use Address::{V4, V6};
    match (listed, wanted) {
        (V4(_, a) | V6(_, a), V4(_, b) | V6(_, b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
#[path = "listed_tests.rs"]
mod tests;
