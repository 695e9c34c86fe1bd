//! Socket addresses as bytes: reading what a program wants to bind, and giving AF_INET addresses back.
//!
//! Pure: slices in, values out. Used by `listed`, `families`, `takeover`.

use crate::sys::{AF_INET, AF_INET6, AF_UNIX};

/// Bytes of a `sockaddr_in`.
pub(crate) const IN_LENGTH: usize = 16;
/// Bytes up to and including the address of a `sockaddr_in6` (the scope id may be left out).
const IN6_LENGTH: usize = 24;
/// The first twelve bytes of a v4-mapped IPv6 address.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An address that a program binds, or that a passed socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// IPv4 address and port.
    V4([u8; 4], u16),
    /// IPv6 address and port.
    V6([u8; 16], u16),
    /// A Unix socket: a path, or `@name` for one in the abstract namespace given as `\0name`.
    Unix(&'a [u8]),
}

/// Reads a socket address; `None` for other families and for lengths the kernel would refuse.
pub(crate) fn read(bytes: &[u8]) -> Option<Address<'_>> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    match family {
        AF_INET if bytes.len() >= IN_LENGTH => {
            Some(Address::V4(bytes.get(4..8)?.try_into().ok()?, port(bytes)?))
        }
        AF_INET6 if bytes.len() >= IN6_LENGTH => {
            Some(Address::V6(bytes.get(8..24)?.try_into().ok()?, port(bytes)?))
        }
        AF_UNIX => Some(Address::Unix(unix_path(bytes.get(2..)?))),
        _ => None,
    }
}

/// A path ends at its first NUL; an abstract name starts with one and is taken whole.
fn unix_path(path: &[u8]) -> &[u8] {
    if path.first() == Some(&0) {
        return path;
    }
    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
    path.get(..end).unwrap_or(path)
}

/// The port of an IPv4 or IPv6 address: both have it at the same place.
pub(crate) fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))
}

/// The IPv4 address inside a v4-mapped IPv6 address.
pub(crate) fn unmapped(address: &[u8; 16]) -> Option<[u8; 4]> {
    let rest = address.strip_prefix(&MAPPED)?;
    rest.try_into().ok()
}

/// The `sockaddr_in` that stands for this `sockaddr_in6`: a v4-mapped address loses its prefix, any
/// other becomes 0.0.0.0, because a program with an AF_INET socket has no place for it.
/// `None` when the bytes are not a `sockaddr_in6`.
pub(crate) fn as_inet(bytes: &[u8]) -> Option<[u8; IN_LENGTH]> {
    let Some(Address::V6(address, _)) = read(bytes) else { return None };
    let mut inet = [0_u8; IN_LENGTH];
    inet.get_mut(..2)?.copy_from_slice(&AF_INET.to_ne_bytes());
    inet.get_mut(2..4)?.copy_from_slice(bytes.get(2..4)?);
    inet.get_mut(4..8)?.copy_from_slice(&unmapped(&address).unwrap_or([0; 4]));
    Some(inet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet6(address: [u8; 16], port: u16) -> Vec<u8> {
        let mut bytes = AF_INET6.to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(address);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_mapped_client_becomes_ipv4_and_a_real_ipv6_one_becomes_zero() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 7]);
        let inet = as_inet(&inet6(mapped, 4242)).unwrap();
        assert_eq!(read(&inet), Some(Address::V4([127, 0, 0, 7], 4242)));
        let mut loopback = [0; 16];
        loopback[15] = 1;
        assert_eq!(read(&as_inet(&inet6(loopback, 1)).unwrap()), Some(Address::V4([0; 4], 1)));
    }

    #[test]
    fn short_and_foreign_addresses_are_left_alone() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&AF_INET.to_ne_bytes()), None);
        assert_eq!(read(&[16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]), None);
        assert_eq!(as_inet(&inet6([0; 16], 1)[..20]), None);
    }

    #[test]
    fn unix_paths_end_at_nul() {
        let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
        bytes.extend(b"/run/x.sock\0junk");
        assert_eq!(read(&bytes), Some(Address::Unix(b"/run/x.sock")));
    }
}
