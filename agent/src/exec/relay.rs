//! `relay`: serves what is left in the queue of a listener that is about to be closed.
//!
//! Each connection is accepted and forwarded to the release that serves now. Runs as a unit of its own, so
//! that the death of the agent cuts nothing. When it accepts no more it says so (`READY=1`), because then the
//! listener may be closed; what it has it carries on. Must never change the listener's O_NONBLOCK (other
//! processes share it), nor hang when it is blocking and somebody else took the connection: accepting happens
//! in a thread that the process does not wait for.

use super::arguments::Relay;
use super::forward::{Forward, State};
use super::{Error, lender};
use deployd_handoff::{fd, notify};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rest after an accept that failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// How long an accept that is under way may take to be given up: see [`accept_all`].
const GIVE_UP: Duration = Duration::from_secs(1);

/// What became of the leftovers.
#[derive(Debug, Default)]
struct Count {
    relayed: usize,
    broken: usize,
    refused: usize,
}

/// Accepts until it is quiet, or until the limit, and tells the manager; then carries what it has to the end.
/// Prints how many connections there were.
pub(crate) fn run(request: &Relay) -> Result<(), Error> {
    let listener = lender::take(&request.unit, &request.lender)?;
    let mut relaying = Relaying::begin(request, listener)?;
    relaying.accept()?;
    // Nobody listening is no reason to fail.
    let _ = notify::send(&format!("READY=1\nSTATUS={}", relaying.taken()));
    relaying.carry()?;
    let count = &relaying.count;
    let line = format!(
        "{}: {} cut at the limit, {} broken off, {} not taken\n",
        relaying.taken(),
        relaying.open.len(),
        count.broken,
        count.refused
    );
    // Nobody reading our output neither.
    let _ = std::io::stdout().write_all(line.as_bytes());
    Ok(())
}

/// Accepts until the other end of `stop` is gone, or the listener is.
fn accept_all(listener: &OwnedFd, arrived: &Sender<OwnedFd>, mut ring: UnixStream, stop: &UnixStream) {
    loop {
        let mut waiting =
            [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let events = |of: &PollFd<'_>| of.revents().unwrap_or(PollFlags::empty());
        if !events(&waiting[1]).is_empty() {
            return;
        }
        let events = events(&waiting[0]);
        if !events.contains(PollFlags::POLLIN) {
            if events.is_empty() {
                continue;
            }
            return;
        }
        match fd::accept(listener) {
            Ok(connection) => {
                if arrived.send(connection).is_err() || ring.write_all(&[1]).is_err() {
                    return;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(Errno::EINVAL | Errno::EBADF | Errno::ENOTSOCK) => return,
            Err(_) => std::thread::sleep(ACCEPT_REST),
        }
    }
}

/// The connections on their way, and the thread that accepts more.
struct Relaying<'a> {
    request: &'a Relay,
    bell: UnixStream,
    stop: Option<UnixStream>,
    arrivals: Receiver<OwnedFd>,
    accepting: JoinHandle<()>,
    last_arrival: Instant,
    open: Vec<Forward>,
    count: Count,
}

impl<'a> Relaying<'a> {
    fn begin(request: &'a Relay, listener: OwnedFd) -> Result<Self, Error> {
        let (bell, ring) = UnixStream::pair().map_err(Error::Wait)?;
        bell.set_nonblocking(true).map_err(Error::Wait)?;
        let (stop, stopped) = UnixStream::pair().map_err(Error::Wait)?;
        let (arrived, arrivals) = mpsc::channel();
        let accepting = std::thread::spawn(move || accept_all(&listener, &arrived, ring, &stopped));
        Ok(Self {
            request,
            bell,
            stop: Some(stop),
            arrivals,
            accepting,
            last_arrival: Instant::now(),
            open: Vec::new(),
            count: Count::default(),
        })
    }

    /// How many connections were taken over, in words.
    fn taken(&self) -> String {
        let taken = self.count.relayed + self.count.broken + self.count.refused + self.open.len();
        format!("relayed {taken} connections from {} to {}", self.request.unit, self.request.to)
    }

    /// Until nothing arrived for a while, or until the limit. When it returns nothing is accepted any more.
    fn accept(&mut self) -> Result<(), Error> {
        let end = Instant::now() + self.request.limit;
        loop {
            self.advance();
            let until = end.min(self.last_arrival + self.request.quiet);
            let now = Instant::now();
            if now >= until || self.accepting.is_finished() {
                break;
            }
            self.wait(Some(until - now))?;
        }
        drop(self.stop.take());
        // On a blocking listener somebody else may have been faster: then the thread hangs in accept(), and
        // whoever it still gets is carried like the others, until the listener is taken from it.
        let given_up = Instant::now() + GIVE_UP;
        while !self.accepting.is_finished() && Instant::now() < given_up {
            self.advance();
            self.wait(Some(ACCEPT_REST))?;
        }
        self.advance();
        Ok(())
    }

    /// Until every connection has ended, or its time is over.
    fn carry(&mut self) -> Result<(), Error> {
        let end = self.request.carry.map(|limit| Instant::now() + limit);
        loop {
            self.advance();
            let now = Instant::now();
            if self.open.is_empty() || end.is_some_and(|end| now >= end) {
                return Ok(());
            }
            self.wait(end.map(|end| end - now))?;
        }
    }

    /// Moves what can be moved now.
    fn advance(&mut self) {
        for client in self.arrivals.try_iter() {
            self.last_arrival = Instant::now();
            match connect_to(self.request.to) {
                Ok(server) => self.open.push(Forward::new(TcpStream::from(client), server)),
                Err(_) => self.count.refused += 1,
            }
        }
        let count = &mut self.count;
        self.open.retain_mut(|forward| match forward.advance() {
            State::Open => true,
            State::Done => {
                count.relayed += 1;
                false
            }
            State::Broken => {
                count.broken += 1;
                false
            }
        });
    }

    fn wait(&self, limit: Option<Duration>) -> Result<(), Error> {
        // A bell that nobody can ring any more would wake us for ever with its hang-up.
        let bell = (!self.accepting.is_finished()).then_some(&self.bell);
        wait(bell, &self.open, limit)
    }
}

/// Waits until there is something to move, a connection arrived, or the time is over.
fn wait(bell: Option<&UnixStream>, open: &[Forward], limit: Option<Duration>) -> Result<(), Error> {
    let mut waiting: Vec<PollFd<'_>> =
        bell.iter().map(|bell| PollFd::new(bell.as_fd(), PollFlags::POLLIN)).collect();
    for forward in open {
        let (client, server) = forward.interest();
        // A side that nothing is wanted from would wake us for ever with its hang-up.
        if !client.is_empty() {
            waiting.push(PollFd::new(forward.client.as_fd(), client));
        }
        if !server.is_empty() {
            waiting.push(PollFd::new(forward.server.as_fd(), server));
        }
    }
    // Rounded up: a poll of 0 ms before the end would spin.
    let millis = limit.map(|limit| limit.as_millis().saturating_add(1));
    let limit = millis.map_or(PollTimeout::NONE, |m| PollTimeout::try_from(m).unwrap_or(PollTimeout::MAX));
    match poll(&mut waiting, limit) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(Error::Wait(errno.into())),
    }
    let mut rings = [0; 64];
    if let Some(mut bell) = bell {
        while matches!(bell.read(&mut rings), Ok(length) if length > 0) {}
    }
    Ok(())
}

/// Begins a connection; a refusal shows at the first read or write.
fn connect_to(address: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(stream)),
        Err(errno) => Err(errno),
    }
}
