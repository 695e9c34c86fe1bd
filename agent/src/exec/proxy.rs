//! `proxy`: becomes systemd-socket-proxyd in front of a program's private port (`handoff = "port"`).
//!
//! The passed socket and LISTEN_* stay as systemd gave them: proxyd is systemd's own.

use super::Error;
use super::run::become_program;
use std::ffi::OsString;
use std::path::Path;

/// Merged and unmerged /usr.
const PROXYD: [&str; 2] = ["/usr/lib/systemd/systemd-socket-proxyd", "/lib/systemd/systemd-socket-proxyd"];
/// proxyd's own limit is 256; past it, it drops connections. The program should be the one to decide.
const CONNECTIONS: &str = "--connections-max=65535";

/// Returns only when proxyd could not be started.
pub(crate) fn run(port: u16) -> Result<(), Error> {
    let [first, _] = PROXYD;
    let program = PROXYD.into_iter().find(|path| Path::new(path).exists()).unwrap_or(first);
    let words = [program.to_owned(), CONNECTIONS.to_owned(), format!("127.0.0.1:{port}")];
    let environment = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    become_program(words.map(OsString::from).to_vec(), environment.collect())
}
