//! Tells the service manager how the process is doing, over `$NOTIFY_SOCKET`.
//!
//! Without that variable (a laptop, a test) every call does nothing and says so by [`Told::Nobody`].
//! Must never block start-up: datagrams to the manager only. Called by applications.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Whether somebody was there to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The manager has the message.
    Manager,
    /// `$NOTIFY_SOCKET` is not set.
    Nobody,
}

/// The process accepts connections (`READY=1`).
pub fn ready() -> io::Result<Told> {
    send("READY=1")
}

/// The process drains and will end (`STOPPING=1`).
pub fn stopping() -> io::Result<Told> {
    send("STOPPING=1")
}

/// One line for `systemctl status`. Line ends in it become spaces.
pub fn status(text: &str) -> io::Result<Told> {
    send(&format!("STATUS={}", text.replace(['\n', '\r'], " ")))
}

/// Sends `message` as it is (`NAME=VALUE` lines) to `$NOTIFY_SOCKET`.
pub fn send(message: &str) -> io::Result<Told> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(Told::Nobody);
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address(&name)?)?;
    Ok(Told::Manager)
}

/// `@name` is in the abstract namespace, anything else a path.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden),
        None => SocketAddr::from_pathname(name),
    }
}
