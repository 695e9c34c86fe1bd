//! Where a host's agent listens.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port of agents.
pub(crate) const PORT: u16 = 7443;

/// A name or an IP address, with a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// What is looked up or connected to; IPv6 without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address: write 10.0.0.11, web1.example.net or [::1]:7443");
        let port = |digits: &str| digits.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(wrong);
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, after) = rest.split_once(']').ok_or_else(wrong)?;
            let host = inner.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string();
            return match after.strip_prefix(':') {
                Some(digits) => Ok(Self { host, port: port(digits)? }),
                None if after.is_empty() => Ok(Self { host, port: PORT }),
                None => Err(wrong()),
            };
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self { host: address.to_string(), port: PORT });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, digits)) => (host, port(digits)?),
            None => (text, PORT),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let right =
            (1..=253).contains(&host.len()) && host.bytes().all(plain) && !host.starts_with(['-', '.']);
        if right { Ok(Self { host: host.to_ascii_lowercase(), port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print_whole() {
        for (text, want) in [
            ("10.0.0.11", "10.0.0.11:7443"),
            ("10.0.0.11:17443", "10.0.0.11:17443"),
            ("Web1.Example.net", "web1.example.net:7443"),
            ("::1", "[::1]:7443"),
            ("[fd00::2]", "[fd00::2]:7443"),
            ("[fd00::0002]:99", "[fd00::2]:99"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), want);
            assert_eq!(want.parse::<Address>().unwrap(), address);
        }
        for bad in [
            "", ":7443", "a b", "a:", "a:0", "a:70000", "a:b", "[::1", "[a]:1", "[::1]x", "-a", "root@a",
            "a/b",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
