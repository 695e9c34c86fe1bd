//! The functions that take the place of libc's, with libc's signatures and errno convention.
//!
//! Each does its own system call and consults the other modules first. Called by any program that
//! was started with this library in `LD_PRELOAD`, from any thread.

use crate::address::as_inet;
use crate::families::{self, Seen};
use crate::sys::{self, Errno, STORAGE, address, answer, call, number, word};
use crate::takeover::{self, Outcome};
use core::ffi::{CStr, c_char, c_int, c_void};

/// Runs `takeover::load` before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: unsafe extern "C" fn() = takeover::load;

/// `bind(2)`.
///
/// # Safety
/// As `bind(2)`: `wanted` points to `length` readable bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn bind(fd: c_int, wanted: *const c_void, length: u32) -> c_int {
    if !wanted.is_null() && (length as usize) <= STORAGE {
        // SAFETY: the caller promises `length` readable bytes.
        let bytes = unsafe { core::slice::from_raw_parts(wanted.cast::<u8>(), length as usize) };
        match takeover::apply_bind(fd, bytes) {
            Outcome::PassOn => {}
            Outcome::Taken => return 0,
            Outcome::Refused => return answer(Err(sys::EADDRNOTAVAIL)),
        }
    }
    // SAFETY: the program's own arguments.
    answer(unsafe { call(number::BIND, [word(fd), address(wanted), length as usize, 0, 0]) })
}

/// `listen(2)`: a taken socket keeps the larger backlog.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let backlog = takeover::wider_backlog(fd, backlog);
    // SAFETY: integers only.
    answer(unsafe { call(number::LISTEN, [word(fd), word(backlog), 0, 0, 0]) })
}

/// `accept(2)`.
///
/// # Safety
/// As `accept(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn accept(fd: c_int, peer: *mut c_void, length: *mut u32) -> c_int {
    // SAFETY: the same promises.
    unsafe { accept4(fd, peer, length, 0) }
}

/// `accept4(2)`: the client of an AF_INET listener that became the dual-stack one has an AF_INET address.
///
/// # Safety
/// As `accept4(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn accept4(fd: c_int, peer: *mut c_void, length: *mut u32, flags: c_int) -> c_int {
    let seen = families::seen(fd);
    if seen == Seen::Plain || peer.is_null() || length.is_null() {
        // SAFETY: the program's own arguments.
        let result =
            unsafe { call(number::ACCEPT4, [word(fd), address(peer), length as usize, word(flags), 0]) };
        return answer(result.inspect(|connection| families::mark(*connection as c_int, seen)));
    }
    let mut storage = [0_u8; STORAGE];
    let mut filled = STORAGE as u32;
    // SAFETY: storage and filled are live locals and filled is storage's size.
    let result = unsafe {
        call(
            number::ACCEPT4,
            [word(fd), storage.as_mut_ptr() as usize, &raw mut filled as usize, word(flags), 0],
        )
    };
    if let Ok(connection) = result {
        families::mark(connection as c_int, seen);
        // SAFETY: the program promises room for *length bytes at peer.
        unsafe { give_back(&storage, filled as usize, peer, length) };
    }
    answer(result)
}

/// `getsockname(2)`.
///
/// # Safety
/// As `getsockname(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn getsockname(fd: c_int, local: *mut c_void, length: *mut u32) -> c_int {
    // SAFETY: the same promises.
    answer(unsafe { name(number::GETSOCKNAME, fd, local, length) })
}

/// `getpeername(2)`.
///
/// # Safety
/// As `getpeername(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn getpeername(fd: c_int, peer: *mut c_void, length: *mut u32) -> c_int {
    // SAFETY: the same promises.
    answer(unsafe { name(number::GETPEERNAME, fd, peer, length) })
}

/// # Safety
/// As `getsockname(2)`.
unsafe fn name(which: usize, fd: c_int, out: *mut c_void, length: *mut u32) -> Result<usize, Errno> {
    if families::seen(fd) == Seen::Plain || out.is_null() || length.is_null() {
        // SAFETY: the program's own arguments.
        return unsafe { call(which, [word(fd), address(out), length as usize, 0, 0]) };
    }
    let (bytes, filled) = sys::name(which, fd)?;
    // SAFETY: the program promises room for *length bytes at out.
    unsafe { give_back(&bytes, filled, out, length) };
    Ok(0)
}

/// Writes the AF_INET form of `bytes` to the program's buffer, cut to its size, with the full length.
///
/// # Safety
/// `out` must have room for `*length` bytes.
unsafe fn give_back(bytes: &[u8; STORAGE], filled: usize, out: *mut c_void, length: *mut u32) {
    let kernel = bytes.get(..filled.min(STORAGE)).unwrap_or_default();
    let inet = as_inet(kernel);
    let told = inet.as_ref().map_or(kernel, |inet| inet.as_slice());
    // SAFETY: the caller's promise; at most *length bytes are written.
    unsafe {
        let room = (*length as usize).min(told.len());
        core::ptr::copy_nonoverlapping(told.as_ptr(), out.cast::<u8>(), room);
        *length = told.len() as u32;
    }
}

/// `getsockopt(2)`: `SO_DOMAIN` of such a socket is AF_INET.
///
/// # Safety
/// As `getsockopt(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *mut c_void,
    length: *mut u32,
) -> c_int {
    // SAFETY: the program's own arguments.
    let result = unsafe {
        call(number::GETSOCKOPT, [word(fd), word(level), word(option), address(value), length as usize])
    };
    let domain = level == sys::SOL_SOCKET && option == sys::SO_DOMAIN && result.is_ok();
    if domain && families::seen(fd) == Seen::AsInet {
        // SAFETY: the kernel has just written *length bytes of an int there.
        unsafe {
            let family = c_int::from(sys::AF_INET).to_ne_bytes();
            core::ptr::copy_nonoverlapping(
                family.as_ptr(),
                value.cast::<u8>(),
                family.len().min(*length as usize),
            );
        }
    }
    answer(result)
}

/// `setsockopt(2)`: what a program may do to its own socket, but not to the shared one, is answered
/// with success and not done: `IPV6_V6ONLY` (refused by the kernel once bound) and a program of its
/// own on the reuseport group, which would take the swap's place.
///
/// # Safety
/// As `setsockopt(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    length: u32,
) -> c_int {
    let kept_out = matches!(
        (level, option),
        (sys::IPPROTO_IPV6, sys::IPV6_V6ONLY)
            | (
                sys::SOL_SOCKET,
                sys::SO_ATTACH_REUSEPORT_CBPF | sys::SO_ATTACH_REUSEPORT_EBPF | sys::SO_DETACH_REUSEPORT_BPF
            )
    );
    if kept_out && families::is_taken(fd) {
        return 0;
    }
    // SAFETY: the program's own arguments.
    answer(unsafe {
        call(number::SETSOCKOPT, [word(fd), word(level), word(option), address(value), length as usize])
    })
}

/// `unlink(2)`: servers remove a Unix socket's file before they bind and when they end; a listed one
/// belongs to its unit and is kept.
///
/// # Safety
/// As `unlink(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the same promises.
    unsafe { unlinkat(sys::AT_FDCWD, path, 0) }
}

/// `unlinkat(2)`; see [`unlink`].
///
/// # Safety
/// As `unlinkat(2)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the program promises a NUL-terminated path.
    if !path.is_null() && takeover::is_listed_path(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return 0;
    }
    // SAFETY: the program's own arguments.
    answer(unsafe { call(number::UNLINKAT, [word(folder), path as usize, word(flags), 0, 0]) })
}

/// `remove(3)`: libc's own would unlink without passing here.
///
/// # Safety
/// As `remove(3)`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn remove(path: *const c_char) -> c_int {
    // SAFETY: the program promises a NUL-terminated path.
    if !path.is_null() && takeover::is_listed_path(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return 0;
    }
    // SAFETY: the program's own arguments.
    let removed = unsafe {
        match call(number::UNLINKAT, [word(sys::AT_FDCWD), path as usize, 0, 0, 0]) {
            Err(errno) if errno == sys::EISDIR => {
                call(number::UNLINKAT, [word(sys::AT_FDCWD), path as usize, word(sys::AT_REMOVEDIR), 0, 0])
            }
            other => other,
        }
    };
    answer(removed)
}
