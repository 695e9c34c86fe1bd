//! The one line that this library ever prints: an address was bound that the release does not have.
//!
//! No allocation: the line is built in a fixed buffer and cut if it does not fit. Used by `takeover`.

use crate::address::Address;
use crate::listed::{Entry, Families};
use crate::sys;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};

/// Long enough for two IPv6 addresses and the words around them.
const LINE: usize = 400;

struct Line {
    text: [u8; LINE],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.text.get_mut(self.length..).ok_or(fmt::Error)?;
        let fits = part.len().min(room.len());
        room.get_mut(..fits)
            .ok_or(fmt::Error)?
            .copy_from_slice(part.as_bytes().get(..fits).ok_or(fmt::Error)?);
        self.length += fits;
        if fits == part.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Tells on stderr what was bound, what the release listens on, and what to write.
pub(crate) fn say(entry: &Entry<'_>, wanted: &Address<'_>) {
    let mut line = Line { text: [0; LINE], length: 0 };
    let _ = write_line(&mut line, entry, wanted);
    sys::say(line.text.get(..line.length).unwrap_or_default());
}

fn write_line(line: &mut dyn Write, entry: &Entry<'_>, wanted: &Address<'_>) -> fmt::Result {
    line.write_str("deployd: this program binds ")?;
    write_address(line, wanted)?;
    line.write_str(" but the release listens on ")?;
    if entry.families == Families::Ipv6Only {
        line.write_str("v6only:")?;
    }
    write_address(line, &entry.address)?;
    line.write_str(": bind that address, or write address = \"")?;
    match wanted {
        // The dual-stack wildcard is spelled without an address in a spec.
        Address::V6(address, port) if *address == [0; 16] => write!(line, ":{port}")?,
        _ => write_address(line, wanted)?,
    }
    line.write_str("\" in its [listen.NAME] of deployd.toml\n")
}

fn write_address(line: &mut dyn Write, address: &Address<'_>) -> fmt::Result {
    match address {
        Address::V4(octets, port) => write!(line, "{}:{port}", Ipv4Addr::from(*octets)),
        Address::V6(octets, port) => write!(line, "[{}]:{port}", Ipv6Addr::from(*octets)),
        Address::Unix(path) => line.write_str(core::str::from_utf8(path).unwrap_or("a Unix socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entry: Address<'_>, wanted: Address<'_>) -> String {
        let mut text = String::new();
        write_line(&mut text, &Entry { fd: 3, address: entry, families: Families::Both }, &wanted).unwrap();
        text
    }

    #[test]
    fn it_names_what_to_write() {
        assert_eq!(
            line(Address::V6([0; 16], 8080), Address::V4([127, 0, 0, 1], 8080)),
            "deployd: this program binds 127.0.0.1:8080 but the release listens on [::]:8080: bind that \
             address, or write address = \"127.0.0.1:8080\" in its [listen.NAME] of deployd.toml\n"
        );
        assert!(line(Address::V4([0; 4], 80), Address::V6([0; 16], 80)).contains("address = \":80\""));
    }
}
