//! One relayed connection: bytes both ways through a small buffer each, with half-closes kept.
//!
//! A plain copy and not splice(2): leftovers are few, and a copy needs no pipes. Non-blocking; `relay`
//! says when a side is ready.

use nix::poll::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// Bytes held for each direction.
const BUFFER: usize = 16 * 1024;

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There may be more.
    Open,
    /// Both sides have sent their end.
    Done,
    /// One side failed: the other is reset with it.
    Broken,
}

/// Bytes on their way from one side to the other.
#[derive(Debug)]
struct Pipe {
    held: Vec<u8>,
    ended: bool,
    passed_on: bool,
}

impl Pipe {
    const fn new() -> Self {
        Self { held: Vec::new(), ended: false, passed_on: false }
    }

    /// Moves what it can; an error is one that ends the connection.
    fn advance(&mut self, from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            while !self.held.is_empty() {
                match to.write(&self.held) {
                    Ok(written) => drop(self.held.drain(..written)),
                    Err(error) if waits(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            if self.ended {
                if !self.passed_on {
                    to.shutdown(Shutdown::Write)?;
                    self.passed_on = true;
                }
                return Ok(());
            }
            match from.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.held.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) if waits(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}

/// A client that was left in the queue, and its way to the release that serves now.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    up: Pipe,
    down: Pipe,
}

impl Forward {
    /// Both streams are non-blocking; the server's may still be connecting.
    pub(crate) const fn new(client: TcpStream, server: TcpStream) -> Self {
        Self { client, server, up: Pipe::new(), down: Pipe::new() }
    }

    /// Moves what can be moved now.
    pub(crate) fn advance(&mut self) -> State {
        let up = self.up.advance(&mut self.client, &mut self.server);
        let down = self.down.advance(&mut self.server, &mut self.client);
        match (up, down) {
            (Ok(()), Ok(())) if self.up.passed_on && self.down.passed_on => State::Done,
            (Ok(()), Ok(())) => State::Open,
            _ => State::Broken,
        }
    }

    /// What to wait for on the client's side, and on the server's.
    pub(crate) fn interest(&self) -> (PollFlags, PollFlags) {
        (wanted(&self.up, &self.down), wanted(&self.down, &self.up))
    }
}

/// A side is read while its bytes have somewhere to go, and written while some are held for it.
fn wanted(reading: &Pipe, writing: &Pipe) -> PollFlags {
    let mut flags = PollFlags::empty();
    if reading.held.is_empty() && !reading.ended {
        flags |= PollFlags::POLLIN;
    }
    if !writing.held.is_empty() {
        flags |= PollFlags::POLLOUT;
    }
    flags
}
