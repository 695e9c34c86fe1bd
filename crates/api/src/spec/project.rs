//! What `deployd.toml` says beyond the release itself: where it runs, how it is built, how the fleet moves.
//!
//! None of it is part of a release's identity: a release does not change because a host joins a group.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Spec;
use crate::fleet::OnFailure;
use crate::ids::InvalidId;

/// A whole `deployd.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// What a release of it is.
    pub spec: Spec,
    /// Where it runs; empty means the fleet's only group.
    pub hosts: Vec<Selector>,
    /// How its artifact is made, and where it is then.
    pub build: Build,
    /// How many hosts may be without their full strength at one time.
    pub max_unavailable: Share,
    /// What becomes of hosts that are live when another one fails.
    pub on_failure: OnFailure,
}

/// `[build]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Build {
    /// A line for `sh -c`, run by push in the folder of the spec.
    pub command: Option<String>,
    /// A folder or a tar file, relative to the folder of the spec.
    pub artifact: Option<String>,
}

/// Hosts of a fleet: a group or host by name, or a label `region=fra`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// A group, or a host.
    Name(String),
    /// Hosts with this label.
    Label {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
}

impl FromStr for Selector {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let word = |text: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            (1..=63).contains(&text.len()) && text.bytes().all(plain)
        };
        let invalid = || InvalidId {
            kind: "selector of hosts",
            value: s.to_owned(),
            reason: "write a group, a host, or a label as key=value",
        };
        match s.split_once('=') {
            Some((key, value)) if word(key) && word(value) => {
                Ok(Self::Label { key: key.to_owned(), value: value.to_owned() })
            }
            None if word(s) => Ok(Self::Name(s.to_owned())),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Selector> for String {
    fn from(s: Selector) -> String {
        s.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Label { key, value } => write!(f, "{key}={value}"),
        }
    }
}

/// A part of the hosts: `2`, or `33%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded up.
    Percent(u32),
}

impl Share {
    /// What it is without a word in the spec.
    pub const DEFAULT: Self = Self::Percent(33);

    /// How many of so many hosts: at least one.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Self::Count(n) => (n as usize).max(1),
            Self::Percent(p) => (hosts * p as usize).div_ceil(100).max(1),
        }
    }
}

impl FromStr for Share {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("`{s}` is not a number of hosts or a share: write 2, or \"33%\"");
        let (digits, percent) = s.strip_suffix('%').map_or((s, false), |digits| (digits, true));
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        match (number, percent) {
            (1..=100, true) => Ok(Self::Percent(number)),
            (1..=1000, false) => Ok(Self::Count(number)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_up_and_are_never_none() {
        let of = |text: &str, hosts| text.parse::<Share>().unwrap().of(hosts);
        assert_eq!((of("33%", 3), of("33%", 4), of("33%", 1), of("100%", 7)), (1, 2, 1, 7));
        assert_eq!((of("2", 3), of("5", 3)), (2, 5));
        for bad in ["", "0", "0%", "101%", "-1", "x", "33 %"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn selectors_print_and_parse() {
        for text in ["web", "web1", "region=fra"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for bad in ["", "=", "a=", "=b", "a b", "a=b=c"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
