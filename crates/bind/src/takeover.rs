//! `bind()` of a listed address: the program's descriptor becomes the passed listening socket.
//!
//! Must never leave the program worse off than without us: whenever the passed descriptor is not the
//! listed listener (any more), the kernel gets the call as it was. Called by `exports::bind`.

use crate::address::{self, Address};
use crate::families::{self, Seen};
use crate::listed::{self, Decision, Entry, MOST};
use crate::sys::{self, Errno, number};
use crate::{environment, refusal};
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The longest list that is read; systemd's own limits on a unit's sockets are far below.
const TEXT: usize = 4096;

/// The parsed list, and a copy of the text its entries borrow.
struct Table {
    text: UnsafeCell<[u8; TEXT]>,
    entries: UnsafeCell<[Option<Entry<'static>>; MOST]>,
}

// SAFETY: written only by `load`, which the loader runs before the program has any thread.
unsafe impl Sync for Table {}

static TABLE: Table = Table { text: UnsafeCell::new([0; TEXT]), entries: UnsafeCell::new([None; MOST]) };
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bit N: entry N was taken at least once.
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// Bit N: the refusal that names entry N was printed.
static TOLD: AtomicU32 = AtomicU32::new(0);

/// Reads `DEPLOYD_BIND`. The text is copied because `environment::clean` removes the variable later.
///
/// A process that has none of the listed sockets was started by one that had: some runtimes (BEAM) give
/// their children the environment they were started with, whatever became of it since. There the
/// variables are stale, so they go at once and the library does nothing.
///
/// # Safety
/// Only the loader may call this, once, before `main`.
pub(crate) unsafe extern "C" fn load() {
    let Some(value) = environment::variable(c"DEPLOYD_BIND") else { return };
    if value.len() > TEXT {
        return;
    }
    // SAFETY: no thread exists yet, and nothing else writes the table.
    unsafe {
        let text: &'static mut [u8; TEXT] = &mut *TABLE.text.get();
        if let Some(place) = text.get_mut(..value.len()) {
            place.copy_from_slice(value);
        }
        let text: &'static [u8; TEXT] = text;
        let entries = &mut *TABLE.entries.get();
        let count = listed::parse(text.get(..value.len()).unwrap_or_default(), entries);
        if entries.iter().flatten().any(is_listener) {
            COUNT.store(count, Ordering::Release);
        } else {
            environment::clean();
        }
    }
}

/// The listed sockets; none when the variable was not set.
pub(crate) fn entries() -> &'static [Option<Entry<'static>>] {
    let count = COUNT.load(Ordering::Acquire);
    // SAFETY: after `load` the table is never written again.
    let all: &'static [Option<Entry<'static>>; MOST] = unsafe { &*TABLE.entries.get() };
    all.get(..count).unwrap_or_default()
}

/// What became of a `bind()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not ours: make the system call.
    PassOn,
    /// Done: answer 0.
    Taken,
    /// The port is listed on another address.
    Refused,
}

/// Handles `bind(fd, wanted)`.
pub(crate) fn apply_bind(fd: c_int, wanted: &[u8]) -> Outcome {
    let all = entries();
    if all.is_empty() || sys::int_option(fd, sys::SOL_SOCKET, sys::SO_TYPE) != Some(sys::SOCK_STREAM) {
        return Outcome::PassOn;
    }
    let Some(wanted) = address::read(wanted) else { return Outcome::PassOn };
    match listed::decide(all, &wanted) {
        Decision::Untouched => Outcome::PassOn,
        Decision::Take(index) => {
            let Some(Some(entry)) = all.get(index) else { return Outcome::PassOn };
            if take(fd, entry, &wanted).is_ok() {
                after_takeover(index, entry, all);
                Outcome::Taken
            } else {
                Outcome::PassOn
            }
        }
        Decision::Refuse(index) => {
            let Some(Some(entry)) = all.get(index).filter(|entry| entry.as_ref().is_some_and(is_listener))
            else {
                return Outcome::PassOn;
            };
            if TOLD.fetch_or(1 << index, Ordering::Relaxed) & (1 << index) == 0 {
                refusal::say(entry, &wanted);
            }
            Outcome::Refused
        }
    }
}

/// Whether the passed descriptor still is the socket with the listed address: a program may have
/// closed or reused it, and a child may have been started without it.
fn is_listener(entry: &Entry<'_>) -> bool {
    let Ok((bytes, length)) = sys::name(number::GETSOCKNAME, entry.fd) else { return false };
    let stream = sys::int_option(entry.fd, sys::SOL_SOCKET, sys::SO_TYPE) == Some(sys::SOCK_STREAM);
    let same = match (address::read(bytes.get(..length).unwrap_or_default()), entry.address) {
        (Some(Address::Unix(bound)), Address::Unix(listed)) => listed::same_path(listed, bound),
        (Some(bound), listed) => bound == listed,
        (None, _) => false,
    };
    stream && same
}

/// Makes `fd` another name of the passed socket, keeping what the program chose for its own.
fn take(fd: c_int, entry: &Entry<'_>, wanted: &Address<'_>) -> Result<(), Errno> {
    if !is_listener(entry) {
        return Err(sys::EADDRNOTAVAIL);
    }
    let own_family = sys::int_option(fd, sys::SOL_SOCKET, sys::SO_DOMAIN);
    let own_flags = sys::fcntl(fd, sys::F_GETFL, 0)?;
    if fd != entry.fd {
        let cloexec = sys::fcntl(fd, sys::F_GETFD, 0)? & sys::FD_CLOEXEC;
        copy_options(fd, entry);
        sys::dup3(entry.fd, fd, if cloexec == 0 { 0 } else { sys::O_CLOEXEC })?;
    }
    // The description is shared with every instance: write its flags only when they differ.
    let shared = sys::fcntl(fd, sys::F_GETFL, 0)?;
    if (shared ^ own_flags) & sys::O_NONBLOCK != 0 {
        sys::fcntl(fd, sys::F_SETFL, shared ^ sys::O_NONBLOCK)?;
    }
    let as_inet = own_family == Some(c_int::from(sys::AF_INET)) && matches!(entry.address, Address::V6(..));
    let seen = if as_inet { Seen::AsInet } else { Seen::Plain };
    families::mark(fd, seen);
    if let Address::V4(_, port) | Address::V6(_, port) = wanted {
        families::mark_port(*port, seen);
    }
    Ok(())
}

/// Options that accepted connections inherit from their listener. The program set them on a socket
/// that is about to vanish (Erlang sets `nodelay` there), so those that differ are carried over.
fn copy_options(fd: c_int, entry: &Entry<'_>) {
    const INTEGERS: [(c_int, c_int); 7] = [
        (sys::SOL_SOCKET, sys::SO_KEEPALIVE),
        (sys::IPPROTO_TCP, sys::TCP_NODELAY),
        (sys::IPPROTO_TCP, sys::TCP_KEEPIDLE),
        (sys::IPPROTO_TCP, sys::TCP_KEEPINTVL),
        (sys::IPPROTO_TCP, sys::TCP_KEEPCNT),
        (sys::IPPROTO_TCP, sys::TCP_DEFER_ACCEPT),
        (sys::IPPROTO_TCP, sys::TCP_USER_TIMEOUT),
    ];
    for (level, name) in INTEGERS {
        let Some(own) = sys::int_option(fd, level, name) else { continue };
        if sys::int_option(entry.fd, level, name).is_some_and(|passed| passed != own) {
            let _ = sys::set_option(entry.fd, level, name, &own.to_ne_bytes());
        }
    }
    let linger = sys::option::<8>(fd, sys::SOL_SOCKET, sys::SO_LINGER);
    if let Some(own) =
        linger.filter(|own| sys::option::<8>(entry.fd, sys::SOL_SOCKET, sys::SO_LINGER) != Some(*own))
    {
        let _ = sys::set_option(entry.fd, sys::SOL_SOCKET, sys::SO_LINGER, &own);
    }
    // The kernel tells twice the size that was asked for.
    for name in [sys::SO_SNDBUF, sys::SO_RCVBUF] {
        let Some(own) = sys::int_option(fd, sys::SOL_SOCKET, name) else { continue };
        if sys::int_option(entry.fd, sys::SOL_SOCKET, name).is_some_and(|passed| passed != own) {
            let _ = sys::set_option(entry.fd, sys::SOL_SOCKET, name, &(own / 2).to_ne_bytes());
        }
    }
}

/// The passed descriptor stays open, for further `bind()`s of this process and its forks, but no
/// program started from here inherits it; with the last one taken the environment is cleaned too.
fn after_takeover(index: usize, entry: &Entry<'_>, all: &[Option<Entry<'_>>]) {
    let bit = 1_u32 << index;
    let before = TAKEN.fetch_or(bit, Ordering::AcqRel);
    if before & bit != 0 {
        return;
    }
    // An entry that was bound through the passed descriptor itself is the program's own choice.
    let _ = sys::fcntl(entry.fd, sys::F_SETFD, sys::FD_CLOEXEC);
    let full = if all.len() >= MOST { u32::MAX } else { (1_u32 << all.len()) - 1 };
    if before | bit == full {
        environment::clean();
    }
}

/// The backlog to listen with: what the program asks, or what the socket has, whichever is larger.
pub(crate) fn wider_backlog(fd: c_int, asked: c_int) -> c_int {
    /// What the units give a listener; the kernel tells the present value for TCP only.
    const UNIT_BACKLOG: c_int = 4096;
    let own = entries().iter().flatten().any(|entry| is_same_socket(fd, entry));
    if !own {
        return asked;
    }
    // For a listening socket `tcpi_sacked`, the u32 at byte 28, is the present limit of its queue.
    let present = sys::option::<32>(fd, sys::IPPROTO_TCP, sys::TCP_INFO)
        .and_then(|info| info.get(28..32)?.try_into().ok())
        .map_or(UNIT_BACKLOG, u32_as_backlog);
    if (0..present).contains(&asked) { present } else { asked }
}

fn u32_as_backlog(bytes: [u8; 4]) -> c_int {
    c_int::try_from(u32::from_ne_bytes(bytes)).unwrap_or(c_int::MAX)
}

/// Whether `fd` has the address of a listed entry that was taken: that address is bound only once.
fn is_same_socket(fd: c_int, entry: &Entry<'_>) -> bool {
    is_listener(&Entry { fd, ..*entry })
}

/// Whether `path` is a listed Unix socket, whose file belongs to the unit and not to one release.
pub(crate) fn is_listed_path(path: &[u8]) -> bool {
    entries().iter().flatten().any(|entry| matches!(entry.address, Address::Unix(listed) if listed == path))
}
