//! Operations on one listening socket that was borrowed from PID 1.
//!
//! The open file description is shared with PID 1 and the app, so this must never change its flags
//! (`O_NONBLOCK` above all), never accept from it, and never decide which program belongs on it. Called by
//! the driver's socket, weight and retire steps.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use deployd_core::steering::Insn;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, shutdown,
    sockopt,
};

use super::sockopt as raw;

/// What failed on a listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The descriptor is something else.
    #[error("descriptor is not a listening stream socket: {what}")]
    NotListening {
        /// What it is.
        what: &'static str,
    },
    /// A system call failed.
    #[error("failed to {attempt} of a listener")]
    Call {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> ListenerError {
    move |e| ListenerError::Call { attempt, source: e.into() }
}

/// The accept queue of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// How many may wait.
    pub backlog: u32,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LocalAddress {
    /// TCP over IPv4 or IPv6.
    Tcp {
        /// Address and port.
        addr: SocketAddr,
        /// Whether an IPv6 socket also takes IPv4 clients.
        stack: Stack,
    },
    /// A Unix socket; `None` when it has no path.
    Unix(Option<PathBuf>),
}

/// The families that a TCP listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stack {
    /// Only that of its address.
    Single,
    /// IPv6 and IPv4.
    Dual,
}

/// Whether accept() waits, for every holder of the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// `O_NONBLOCK` is clear.
    Blocking,
    /// `O_NONBLOCK` is set.
    NonBlocking,
}

/// A listening stream socket that somebody else owns too.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl From<Listener> for OwnedFd {
    fn from(listener: Listener) -> Self {
        listener.fd
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Takes a descriptor, if it is a listening stream socket.
    pub fn adopt(fd: OwnedFd) -> Result<Self, ListenerError> {
        let kind = getsockopt(&fd, sockopt::SockType)
            .map_err(|_| ListenerError::NotListening { what: "no socket" })?;
        if kind != SockType::Stream {
            return Err(ListenerError::NotListening { what: "no stream socket" });
        }
        let listener = Self { fd };
        if !listener.is_listening()? {
            return Err(ListenerError::NotListening { what: "not listening" });
        }
        Ok(listener)
    }

    /// Attaches a program to the socket's reuseport group, replacing the one before in one step.
    pub fn attach(&self, program: &[Insn]) -> Result<(), ListenerError> {
        raw::attach_reuseport_cbpf(self.as_fd(), program).map_err(failed("attach the steering program"))
    }

    /// The accept queue. Fails on a Unix socket, which does not tell.
    pub fn queue(&self) -> Result<Queue, ListenerError> {
        let counters = raw::listen_counters(self.as_fd()).map_err(failed("read the accept queue"))?;
        Ok(Queue { waiting: counters.queued, backlog: counters.backlog })
    }

    /// Whether it still listens; somebody may have called `shutdown()`.
    pub fn is_listening(&self) -> Result<bool, ListenerError> {
        getsockopt(&self.fd, sockopt::AcceptConn).map_err(failed("read the listening state"))
    }

    /// Where it listens.
    pub fn local(&self) -> Result<LocalAddress, ListenerError> {
        let storage: SockaddrStorage =
            getsockname(std::os::fd::AsRawFd::as_raw_fd(&self.fd)).map_err(failed("read the address"))?;
        match storage.family() {
            Some(AddressFamily::Inet) => {
                let addr = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
                Ok(LocalAddress::Tcp { addr: addr.ok_or_else(unknown_family)?, stack: Stack::Single })
            }
            Some(AddressFamily::Inet6) => {
                let addr = storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into()));
                let only =
                    getsockopt(&self.fd, sockopt::Ipv6V6Only).map_err(failed("read the family limit"))?;
                let stack = if only { Stack::Single } else { Stack::Dual };
                Ok(LocalAddress::Tcp { addr: addr.ok_or_else(unknown_family)?, stack })
            }
            Some(AddressFamily::Unix) => {
                let path = storage.as_unix_addr().and_then(|a| a.path()).map(PathBuf::from);
                Ok(LocalAddress::Unix(path))
            }
            _ => Err(unknown_family()),
        }
    }

    /// The `O_NONBLOCK` flag, which the app's first instance sets as it needs it. Read, never written.
    pub fn blocking(&self) -> Result<Blocking, ListenerError> {
        let flags = fcntl(&self.fd, FcntlArg::F_GETFL).map_err(failed("read the flags"))?;
        let nonblocking = OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK);
        Ok(if nonblocking { Blocking::NonBlocking } else { Blocking::Blocking })
    }

    /// Takes the socket out of its group for every holder. New connections are refused or go elsewhere.
    pub fn shutdown_read(&self) -> Result<(), ListenerError> {
        match shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.fd), Shutdown::Read) {
            // Somebody did it before us: an app may, since it has the same socket.
            Err(Errno::ENOTCONN) => Ok(()),
            other => other.map_err(failed("shut down the receiving side")),
        }
    }
}

fn unknown_family() -> ListenerError {
    ListenerError::NotListening { what: "neither TCP nor Unix" }
}
