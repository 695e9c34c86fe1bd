//! The only unsafe code of this crate: bare descriptor numbers become owned descriptors.
//!
//! Must never hand out one number twice. Used by `passed`, and by `deployd-exec` for what the agent lends.
#![expect(unsafe_code, reason = "a passed descriptor is a bare number until somebody owns it")]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg};
use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

/// Most descriptors that one message can carry (`SCM_MAX_FD`).
pub const MOST_IN_A_MESSAGE: usize = 253;

/// Numbers that were given an owner. They stay here after that owner closed them: a later holder of
/// the same number got it from the kernel and owns it already.
static ADOPTED: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes ownership of an inherited descriptor and makes it close-on-exec.
///
/// Call it early, before other code opens files: the number must still mean what the parent passed.
/// `EBADF` when it is not open or below 3 (standard input, output and error have owners), `EBUSY`
/// when it was adopted before.
pub fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 3 {
        return Err(Errno::EBADF);
    }
    let mut adopted = ADOPTED.lock().unwrap_or_else(PoisonError::into_inner);
    if adopted.contains(&number) {
        return Err(Errno::EBUSY);
    }
    // SAFETY: not -1, and borrowed for this one call only; fcntl answers EBADF if it is not open.
    fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    adopted.insert(number);
    // SAFETY: it is open, and the set above gives each number to one owner only.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Receives one message with the descriptors it carries, all close-on-exec.
///
/// A message that was cut, in its bytes or its descriptors, is `EMSGSIZE`.
pub fn receive(socket: impl AsFd, text: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([RawFd; MOST_IN_A_MESSAGE]);
    let mut parts = [IoSliceMut::new(text)];
    let message =
        recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((message.bytes, descriptors))
}

/// Whether a program that this process becomes keeps the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    /// It is closed.
    Close,
    /// It stays open, under the same number.
    Keep,
}

/// Duplicates to the lowest free number that is at least `lowest`.
pub fn duplicate(fd: impl AsFd, lowest: RawFd, on_exec: OnExec) -> Result<OwnedFd, Errno> {
    let how = match on_exec {
        OnExec::Close => FcntlArg::F_DUPFD_CLOEXEC(lowest),
        OnExec::Keep => FcntlArg::F_DUPFD(lowest),
    };
    let number = fcntl(fd, how)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Accepts a connection; close-on-exec and non-blocking, whatever the listener is.
pub fn accept(listener: impl AsFd) -> Result<OwnedFd, Errno> {
    let number = accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
