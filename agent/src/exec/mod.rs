//! The trampoline, by subject. Only `bin/deployd-exec.rs` includes it.
//!
//! `arguments` what is asked; `run` + `descriptors` + `variables` + `credentials` start a program; `proxy` starts
//! systemd-socket-proxyd; `lender` talks to the agent; `relay` moves leftover connections.

mod arguments;
mod credentials;
mod descriptors;
mod error;
mod forward;
mod lender;
mod proxy;
mod relay;
mod run;
mod variables;

pub(crate) use error::Error;

use arguments::Command;
use std::ffi::OsString;

/// Does what the words ask. Returns only when there is no program to become, or it failed.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> Result<(), Error> {
    match arguments::parse(words)? {
        Command::Run(request) => run::run(&request),
        Command::Proxy(port) => proxy::run(port),
        Command::Lend(request) => lender::lend(&request),
        Command::Relay(request) => relay::run(&request),
    }
}
