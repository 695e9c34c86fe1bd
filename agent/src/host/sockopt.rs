//! The socket calls that `nix` lacks. The only file of the agent with `unsafe`.
//!
//! Each function is one system call, checked, with lengths and types fixed here. It decides nothing;
//! `listener`, `fdstore` and `lender` are its only callers.
#![expect(
    unsafe_code,
    reason = "setsockopt, getsockopt, adopting and registering descriptors have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use deployd_core::steering::Insn;
use tokio::io::unix::AsyncFd;

/// `TCP_INFO` of a listener: the two counters that mean something there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListenCounters {
    /// `tcpi_unacked`: connections in the accept queue.
    pub(super) queued: u32,
    /// `tcpi_sacked`: the backlog's limit.
    pub(super) backlog: u32,
}

/// Bytes of `struct tcp_info` up to and with `tcpi_sacked`; every kernel since 2.6 fills them.
const TCP_INFO_HEAD: usize = 32;
/// Offset of `tcpi_unacked` in `struct tcp_info`.
const UNACKED: usize = 24;
/// Offset of `tcpi_sacked` in `struct tcp_info`.
const SACKED: usize = 28;

/// `SO_ATTACH_REUSEPORT_CBPF`: the program belongs to the group, the last writer wins.
pub(super) fn attach_reuseport_cbpf(fd: BorrowedFd<'_>, program: &[Insn]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points to `len` filters that live over the call; the kernel copies them.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            socklen(size_of::<libc::sock_fprog>()),
        )
    };
    checked(rc)
}

/// The accept queue of a TCP listener.
pub(super) fn listen_counters(fd: BorrowedFd<'_>) -> io::Result<ListenCounters> {
    let mut info = [0_u8; TCP_INFO_HEAD];
    let got = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    if got < TCP_INFO_HEAD {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    Ok(ListenCounters { queued: word(UNACKED), backlog: word(SACKED) })
}

/// Takes ownership of a descriptor that PID 1 passed by number. `None` when it is not open.
///
/// Call it once for each number of `LISTEN_FDS`, before anything else in the process could own them.
pub(super) fn adopt_passed(fd: RawFd) -> Option<OwnedFd> {
    if fd < 3 {
        return None;
    }
    // SAFETY: F_GETFD touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and passed descriptors have no other owner in this process.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes ownership of a descriptor that a system call has just made for us: `accept4`, `SCM_RIGHTS`.
pub(super) fn adopt_new(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel has just given it to us, and the callers pass each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a non-blocking descriptor with the runtime.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns a valid descriptor, and nobody replaces or closes it inside the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(fd)? })
}

fn get(fd: BorrowedFd<'_>, level: i32, name: i32, into: &mut [u8]) -> io::Result<usize> {
    let mut len = socklen(into.len());
    // SAFETY: the kernel writes at most `len` bytes into `into`, and the length it wrote into `len`.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, into.as_mut_ptr().cast(), &raw mut len) };
    checked(rc)?;
    Ok(len as usize)
}

fn socklen(bytes: usize) -> libc::socklen_t {
    bytes as libc::socklen_t
}

fn checked(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
