//! Find or bind: a listener is asked for by its name; it is the passed one, or a new one of our own.
//!
//! One code path for production and for a laptop. A passed socket keeps its options; its O_NONBLOCK is
//! shared with every process that has it, so it is left as it is until the caller decides.

use crate::passed::{self, Passed};
use nix::sys::socket::{Backlog, SockType, getsockopt, listen, sockopt};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// Queue length of a listener bound here; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why there is no listener.
#[derive(Debug)]
pub enum Error {
    /// The passed descriptors could not be read.
    Passed(passed::Error),
    /// What was passed under this name is not a listening stream socket.
    NotListening(String),
    /// The address to bind is none: `IP:PORT`, or `:PORT` for every address.
    Address(String),
    /// The address could not be bound.
    Bind {
        /// What was to be bound.
        address: String,
        /// Why not.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(_) => out.write_str("read the passed descriptors"),
            Self::NotListening(name) => write!(out, "the descriptor passed as {name} is no listening socket"),
            Self::Address(address) => write!(out, "{address} is no address: write IP:PORT or :PORT"),
            Self::Bind { address, .. } => write!(out, "bind {address}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Passed(source) => Some(source),
            Self::Bind { source, .. } => Some(source),
            Self::NotListening(_) | Self::Address(_) => None,
        }
    }
}

/// The passed listeners that nobody asked for yet.
#[derive(Debug)]
pub struct Listeners {
    passed: Vec<Passed>,
}

impl Listeners {
    /// Takes what systemd passed to this process. Call it once, first thing in `main`.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self { passed: passed::take().map_err(Error::Passed)? })
    }

    /// The passed TCP listener `name`, or a new one on `address`. Asking again gives the next passed
    /// under that name, then binds.
    pub fn tcp(&mut self, name: &str, address: &str) -> Result<TcpListener, Error> {
        match self.find(name)? {
            Some(fd) => Ok(TcpListener::from(fd)),
            None => bind_tcp(address),
        }
    }

    /// The passed Unix listener `name`, or a new one at `path` (in place of a file left there by an
    /// earlier process, if nothing listens on it any more).
    pub fn unix(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixListener, Error> {
        match self.find(name)? {
            Some(fd) => Ok(UnixListener::from(fd)),
            None => bind_unix(path.as_ref()),
        }
    }

    /// Names that were passed and not asked for: an application that ignores some should say so.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.passed.iter().map(|passed| passed.name.as_str())
    }

    fn find(&mut self, name: &str) -> Result<Option<OwnedFd>, Error> {
        let Some(index) = self.passed.iter().position(|passed| passed.name == name) else { return Ok(None) };
        let fd = &self.passed.get(index).ok_or_else(|| Error::NotListening(name.to_owned()))?.fd;
        let stream = getsockopt(fd, sockopt::SockType) == Ok(SockType::Stream);
        if stream && getsockopt(fd, sockopt::AcceptConn) == Ok(true) {
            return Ok(Some(self.passed.remove(index).fd));
        }
        Err(Error::NotListening(name.to_owned()))
    }
}

fn bind_tcp(address: &str) -> Result<TcpListener, Error> {
    let full = if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() };
    let parsed: SocketAddr = full.parse().map_err(|_| Error::Address(address.to_owned()))?;
    let bound = TcpListener::bind(parsed).and_then(|listener| {
        widen(&listener)?;
        Ok(listener)
    });
    bound.map_err(|source| Error::Bind { address: full, source })
}

fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let dead = || {
        std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && dead() => {
            std::fs::remove_file(path).and_then(|()| UnixListener::bind(path))
        }
        other => other,
    };
    let widened = bound.and_then(|listener| {
        widen(&listener)?;
        Ok(listener)
    });
    widened.map_err(|source| Error::Bind { address: PathBuf::from(path).display().to_string(), source })
}

/// std listens with a queue of 128, too short for a burst.
fn widen(listener: &impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(listen(listener, Backlog::new(BACKLOG)?)?)
}
