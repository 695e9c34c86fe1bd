//! One client: at most one connection and one request at a time. It turns socket events into outcomes and never
//! decides when to send; the engine does.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as StdStream;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;

use super::response::{self, Accepted, Progress};
use super::sample::{Kind, NO_RELEASE};

/// Whether a client keeps its connection between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    Keep,
    Renew,
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No request; the next may start at this time.
    Idle { due_ns: u64 },
    /// A connection is being made for the current request.
    Connecting,
    /// The request is sent.
    Waiting,
}

/// How the current request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With this kind and release.
    Ended(Kind, u8),
    /// The reused connection ended before any response byte: HTTP allows to send it again.
    MayRetry,
}

/// The current request of a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    pub(super) start_ns: u64,
    pub(super) reused: bool,
    pub(super) retried: bool,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) habit: Habit,
    pub(super) state: State,
    pub(super) request: Request,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    pub(super) fn new(habit: Habit) -> Self {
        let state = State::Idle { due_ns: 0 };
        Self { habit, state, request: Request::default(), stream: None, received: Vec::new() }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Takes a connection that is being made.
    pub(super) fn adopt(
        &mut self,
        stream: StdStream,
        registry: &Registry,
        token: Token,
    ) -> Result<(), Outcome> {
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry
            .register(&mut stream, token, interest)
            .map_err(|_| Outcome::Ended(Kind::Local, NO_RELEASE))?;
        self.stream = Some(stream);
        self.state = State::Connecting;
        Ok(())
    }

    /// Closes the connection, if there is one.
    pub(super) fn disconnect(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            // Closing removes it from the poll set in any case.
            let _ = registry.deregister(&mut stream);
        }
    }

    /// Sends the request on the open connection.
    pub(super) fn send(&mut self, request: &[u8]) -> Result<(), Outcome> {
        self.received.clear();
        self.state = State::Waiting;
        let Some(stream) = self.stream.as_mut() else { return Err(Outcome::Ended(Kind::Local, NO_RELEASE)) };
        match stream.write(request) {
            Ok(written) if written == request.len() => Ok(()),
            // A socket that holds nothing else takes a request of a hundred bytes whole, or something is wrong here.
            Ok(_) => Err(Outcome::Ended(Kind::Local, NO_RELEASE)),
            Err(error) => Err(self.broken(error.raw_os_error())),
        }
    }

    /// The socket became writable while connecting: either connected or failed.
    pub(super) fn connected(&mut self) -> Result<bool, Outcome> {
        let Some(stream) = self.stream.as_ref() else { return Ok(false) };
        match stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) => return Err(Outcome::Ended(connect_kind(error.raw_os_error()), NO_RELEASE)),
            Err(_) => return Err(Outcome::Ended(Kind::Local, NO_RELEASE)),
        }
        // Writable without an error and without a peer: a spurious event.
        Ok(stream.peer_addr().is_ok())
    }

    /// Reads what arrived. `None`: not complete yet. The flag says whether the connection can serve again.
    pub(super) fn receive(&mut self, accepted: &mut Accepted) -> Option<(Outcome, Reuse)> {
        let mut chunk = [0; 16 * 1024];
        loop {
            let stream = self.stream.as_mut()?;
            match stream.read(&mut chunk) {
                Ok(0) => return Some((self.ended(), Reuse::No)),
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    if let Progress::Done(answer) = response::read(&self.received, accepted) {
                        let reuse = if answer.closes { Reuse::No } else { Reuse::Yes };
                        return Some((Outcome::Ended(answer.kind, answer.release), reuse));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some((self.broken(error.raw_os_error()), Reuse::No)),
            }
        }
    }

    /// An idle connection became readable: true if the peer ended it.
    pub(super) fn ended_while_idle(&mut self) -> bool {
        let mut byte = [0; 1];
        match self.stream.as_mut().map(|stream| stream.read(&mut byte)) {
            Some(Err(error)) => error.kind() != ErrorKind::WouldBlock,
            // An end, or bytes that nobody asked for: both make it useless.
            Some(Ok(_)) => true,
            None => false,
        }
    }

    fn ended(&self) -> Outcome {
        self.without_answer(Kind::Closed)
    }

    fn broken(&self, code: Option<i32>) -> Outcome {
        match code.map(Errno::from_raw) {
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED) => self.without_answer(Kind::Reset),
            Some(Errno::ETIMEDOUT) => Outcome::Ended(Kind::Timeout, NO_RELEASE),
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN) => {
                self.without_answer(Kind::Refused)
            }
            _ => Outcome::Ended(Kind::Local, NO_RELEASE),
        }
    }

    /// The connection is gone and the response is not complete.
    fn without_answer(&self, untouched: Kind) -> Outcome {
        if !self.received.is_empty() {
            Outcome::Ended(Kind::Cut, NO_RELEASE)
        } else if self.request.reused {
            Outcome::MayRetry
        } else {
            Outcome::Ended(untouched, NO_RELEASE)
        }
    }
}

/// Whether a connection can serve another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Yes,
    No,
}

/// What a failed connect() counts as.
pub(super) fn connect_kind(code: Option<i32>) -> Kind {
    match code.map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN) => {
            Kind::Refused
        }
        Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED) => Kind::Reset,
        Some(Errno::ETIMEDOUT) => Kind::Timeout,
        _ => Kind::Local,
    }
}
