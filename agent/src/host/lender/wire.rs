//! Messages and peers of the lender socket: one packet each way, descriptors as `SCM_RIGHTS`.
//!
//! Everything is close-on-exec from the start, a truncated control message is an error, and a peer is who
//! the kernel says it is, never who it claims to be.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind as bind_socket, getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use tokio::io::unix::AsyncFd;

use super::super::listener::Listener;
use super::super::{processes, sockopt as raw};

/// Longest message: two unit names and some descriptor names.
const MESSAGE_MAX: usize = 4096;
/// Lenders that may wait to be accepted.
const BACKLOG: i32 = 64;

/// What a peer asks.
#[derive(Debug)]
pub(super) enum Request {
    Lend { unit: String, fd: OwnedFd },
    Take { unit: String },
}

/// A connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    socket: AsyncFd<OwnedFd>,
}

/// A listening socket at `path` that only root can connect to from its first moment.
pub(super) fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind_socket(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before listen(), so the mode is right when anyone can.
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmodat(nix::fcntl::AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

pub(super) fn accept(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let number = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    raw::adopt_new(number)
}

impl Peer {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: raw::watch(fd)? })
    }

    /// The unit that the peer runs in. An error when it is not root.
    pub(super) fn sender(&self) -> io::Result<String> {
        let peer = getsockopt(self.socket.get_ref(), sockopt::PeerCredentials)?;
        let refuse = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
        if peer.uid() != 0 {
            return Err(refuse("the peer is not root"));
        }
        let pid = u32::try_from(peer.pid()).map_err(|_| refuse("the peer has no process"))?;
        processes::unit_of(pid)?.ok_or_else(|| refuse("the peer runs in no unit"))
    }

    /// The one message of the peer.
    pub(super) async fn receive(&self) -> io::Result<Request> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(request) = ready.try_io(|socket| receive_now(socket.get_ref())) {
                return request;
            }
        }
    }

    /// The one answer to it.
    pub(super) async fn answer(&self, text: &str, listener: Option<&Listener>) -> io::Result<()> {
        let fds: Vec<_> = listener.iter().map(|l| l.as_fd().as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let words = [IoSlice::new(text.as_bytes())];
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                let flags = MsgFlags::MSG_NOSIGNAL;
                let sent = sendmsg::<UnixAddr>(socket.get_ref().as_raw_fd(), &words, control, flags, None);
                sent.map_err(io::Error::from)
            });
            if let Ok(sent) = sent {
                return sent.map(drop);
            }
        }
    }
}

fn receive_now(socket: &OwnedFd) -> io::Result<Request> {
    let mut text = [0; MESSAGE_MAX];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 8]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    // Adopt every descriptor first, so that none leaks whatever is wrong with the message.
    let mut fds = Vec::new();
    let truncated = message.flags.intersects(MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC);
    if let Ok(controls) = message.cmsgs() {
        for control in controls {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                for number in numbers {
                    fds.push(raw::adopt_new(number)?);
                }
            }
        }
    }
    let len = message.bytes;
    if truncated {
        return Err(invalid("a message was truncated"));
    }
    if len == 0 {
        return Err(Errno::ECONNRESET.into());
    }
    parse(&text[..len], fds)
}

fn parse(text: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<Request> {
    let text = std::str::from_utf8(text).map_err(|_| invalid("a message is not UTF-8"))?;
    let line = text.lines().next().unwrap_or_default();
    match (line.split_once(' '), fds.pop()) {
        (Some(("lend", unit)), Some(fd)) if fds.is_empty() => Ok(Request::Lend { unit: unit.to_owned(), fd }),
        (Some(("lend", _)), _) => Err(invalid("a loan must hold exactly one descriptor")),
        (Some(("take", unit)), None) => Ok(Request::Take { unit: unit.to_owned() }),
        _ => Err(invalid("a message is neither lend nor take")),
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_loan_holds_exactly_one_descriptor() {
        assert!(matches!(
            parse(b"lend a.socket\nhttp", vec![fd()]),
            Ok(Request::Lend { unit, .. }) if unit == "a.socket"
        ));
        assert!(parse(b"lend a.socket\nhttp", vec![]).is_err());
        assert!(parse(b"lend a.socket\nhttp", vec![fd(), fd()]).is_err());
    }

    #[test]
    fn a_take_brings_no_descriptor() {
        assert!(matches!(parse(b"take a.socket", vec![]), Ok(Request::Take { unit }) if unit == "a.socket"));
        assert!(parse(b"take a.socket", vec![fd()]).is_err());
        assert!(parse(b"give a.socket", vec![]).is_err());
        assert!(parse(&[0xff], vec![]).is_err());
    }
}
