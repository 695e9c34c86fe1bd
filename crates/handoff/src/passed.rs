//! The LISTEN_* protocol of systemd: which descriptors were passed to this process, under which names.
//!
//! - descriptors are 3, 4, ... in the order of `LISTEN_FDNAMES`, `LISTEN_FDS` of them;
//! - `LISTEN_PID` says for which process: another number means that a parent was meant, so none is ours;
//!   unset means that a wrapper had to fork, and is accepted;
//! - names default to `unknown`, as systemd's own library has it.
//!
//! Reading consumes nothing: the variables stay, the descriptors become close-on-exec, and a child finds
//! a `LISTEN_PID` that is not its own. Used by `listeners` and `deployd-exec`.

use crate::fd;
use nix::errno::Errno;
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};

/// First passed descriptor (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// More would be a mistake in the variable rather than a listener each.
const MOST: usize = 1024;

/// A descriptor and the name it was passed under.
#[derive(Debug)]
pub struct Passed {
    /// From `LISTEN_FDNAMES`, or `unknown`.
    pub name: String,
    /// The socket; close-on-exec.
    pub fd: OwnedFd,
}

/// Why the passed descriptors could not be taken.
#[derive(Debug)]
pub enum Error {
    /// `LISTEN_FDS` or `LISTEN_PID` is not a number.
    Malformed {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// There are more or fewer names than descriptors.
    Names {
        /// `LISTEN_FDNAMES`.
        names: String,
        /// `LISTEN_FDS`.
        count: usize,
    },
    /// A descriptor is not open, or was taken before.
    Adopt {
        /// Its number.
        number: RawFd,
        /// What the kernel, or the list of adopted descriptors, says.
        source: Errno,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { variable, value } => {
                write!(out, "{variable}={value} is not a number that fits")
            }
            Self::Names { names, count } => {
                write!(out, "LISTEN_FDNAMES={names} does not name {count} descriptors")
            }
            Self::Adopt { number, .. } => write!(out, "take passed descriptor {number}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Adopt { source, .. } => Some(source),
            Self::Malformed { .. } | Self::Names { .. } => None,
        }
    }
}

/// Takes what was passed to this process. Works once: a second call finds the descriptors taken.
pub fn take() -> Result<Vec<Passed>, Error> {
    let names = names(|variable| std::env::var(variable).ok(), std::process::id())?;
    names
        .into_iter()
        .zip(FIRST..)
        .map(|(name, number)| {
            let fd = fd::adopt(number).map_err(|source| Error::Adopt { number, source })?;
            Ok(Passed { name, fd })
        })
        .collect()
}

/// The names of the descriptors that were passed to process `own`, in order. Pure but for `variable`.
fn names(variable: impl Fn(&'static str) -> Option<String>, own: u32) -> Result<Vec<String>, Error> {
    let Some(count) = variable("LISTEN_FDS") else { return Ok(Vec::new()) };
    let malformed = |variable, value: &str| Error::Malformed { variable, value: value.to_owned() };
    if let Some(pid) = variable("LISTEN_PID")
        && pid.parse::<u32>().map_err(|_| malformed("LISTEN_PID", &pid))? != own
    {
        return Ok(Vec::new());
    }
    let count =
        count.parse().ok().filter(|count| *count <= MOST).ok_or_else(|| malformed("LISTEN_FDS", &count))?;
    let Some(names) = variable("LISTEN_FDNAMES") else { return Ok(vec!["unknown".to_owned(); count]) };
    let found: Vec<_> = if count == 0 { Vec::new() } else { names.split(':').map(str::to_owned).collect() };
    if found.len() == count { Ok(found) } else { Err(Error::Names { names, count }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(variables: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let find = |wanted: &'static str| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        names(find, 42).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_in_order_and_default_to_unknown() {
        assert_eq!(parsed(&[]).unwrap(), [""; 0]);
        assert_eq!(
            parsed(&[("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:admin")]).unwrap(),
            ["http", "admin"]
        );
        assert_eq!(parsed(&[("LISTEN_FDS", "2")]).unwrap(), ["unknown", "unknown"]);
    }

    #[test]
    fn an_unset_pid_is_accepted_and_a_foreign_one_means_none() {
        assert_eq!(parsed(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42")]).unwrap().len(), 1);
        assert_eq!(parsed(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "41")]).unwrap().len(), 0);
    }

    #[test]
    fn nonsense_is_told_apart() {
        assert!(parsed(&[("LISTEN_FDS", "x")]).unwrap_err().contains("LISTEN_FDS=x"));
        assert!(parsed(&[("LISTEN_FDS", "99999")]).is_err());
        assert!(parsed(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "-1")]).is_err());
        assert!(parsed(&[("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http")]).is_err());
    }
}
