//! `relay`: serves what is left in the queue of a listener that is about to be closed.
//!
//! Each connection is accepted and forwarded to the release that serves now. Runs as a unit of its own, so
//! that the death of the agent cuts nothing. Must never change the listener's O_NONBLOCK (other processes
//! share it), nor hang when it is blocking and somebody else took the connection: accepting happens in a
//! thread that the process does not wait for.

use super::arguments::Relay;
use super::forward::{Forward, State};
use super::{Error, lender};
use deployd_handoff::fd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

/// Rest after an accept that failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// What became of the leftovers.
#[derive(Debug, Default)]
struct Count {
    relayed: usize,
    broken: usize,
    refused: usize,
}

/// Relays until it is quiet, or until the limit; prints how many connections there were.
pub(crate) fn run(request: &Relay) -> Result<(), Error> {
    let listener = lender::take(&request.unit, &request.lender)?;
    let (bell, ring) = UnixStream::pair().map_err(Error::Wait)?;
    bell.set_nonblocking(true).map_err(Error::Wait)?;
    let (arrived, arrivals) = mpsc::channel();
    std::thread::spawn(move || accept_all(&listener, &arrived, ring));
    let (count, cut) = forward_all(request, &bell, &arrivals)?;
    let line = format!(
        "relayed {} connections from {} to {}: {cut} cut at the limit, {} broken off, {} not taken\n",
        count.relayed + count.broken + cut + count.refused,
        request.unit,
        request.to,
        count.broken,
        count.refused
    );
    // Nobody reading our output is no reason to fail.
    let _ = std::io::stdout().write_all(line.as_bytes());
    Ok(())
}

/// Accepts for ever; ends with the process, or when the listener or the other side is gone.
fn accept_all(listener: &OwnedFd, arrived: &Sender<OwnedFd>, mut ring: UnixStream) {
    loop {
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let events = waiting[0].revents().unwrap_or(PollFlags::empty());
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

/// Returns what became of the connections, and how many were still open at the limit.
fn forward_all(
    request: &Relay,
    bell: &UnixStream,
    arrivals: &Receiver<OwnedFd>,
) -> Result<(Count, usize), Error> {
    let end = Instant::now() + request.limit;
    let mut last_arrival = Instant::now();
    let mut count = Count::default();
    let mut open: Vec<Forward> = Vec::new();
    loop {
        for client in arrivals.try_iter() {
            last_arrival = Instant::now();
            match connect_to(request.to) {
                Ok(server) => open.push(Forward::new(TcpStream::from(client), server)),
                Err(_) => count.refused += 1,
            }
        }
        open.retain_mut(|forward| match forward.advance() {
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
        let now = Instant::now();
        let quiet_end = if open.is_empty() { last_arrival + request.quiet } else { end };
        if now >= end || now >= quiet_end {
            return Ok((count, open.len()));
        }
        wait(bell, &open, end.min(quiet_end).saturating_duration_since(now))?;
    }
}

/// Waits until there is something to move, a connection arrived, or the time is over.
fn wait(bell: &UnixStream, open: &[Forward], limit: Duration) -> Result<(), Error> {
    let mut waiting = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
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
    let millis = limit.as_millis().saturating_add(1);
    match poll(&mut waiting, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(Error::Wait(errno.into())),
    }
    let mut rings = [0; 64];
    let mut bell = bell;
    while matches!(bell.read(&mut rings), Ok(length) if length > 0) {}
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
