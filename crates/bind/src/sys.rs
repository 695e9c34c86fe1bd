//! Raw system calls and the few constants we need, for x86_64 and aarch64 Linux.
//!
//! Must never go through libc for a call that this library overrides. Used by every other module.

use core::arch::asm;
use core::ffi::{c_int, c_void};

/// A failed system call: the positive errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

pub(crate) const EISDIR: Errno = Errno(21);
pub(crate) const EADDRNOTAVAIL: Errno = Errno(99);

pub(crate) const AF_UNIX: u16 = 1;
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;
pub(crate) const SOCK_STREAM: c_int = 1;

pub(crate) const SOL_SOCKET: c_int = 1;
pub(crate) const SO_TYPE: c_int = 3;
pub(crate) const SO_SNDBUF: c_int = 7;
pub(crate) const SO_RCVBUF: c_int = 8;
pub(crate) const SO_KEEPALIVE: c_int = 9;
pub(crate) const SO_LINGER: c_int = 13;
pub(crate) const SO_DOMAIN: c_int = 39;
pub(crate) const SO_ATTACH_REUSEPORT_CBPF: c_int = 51;
pub(crate) const SO_ATTACH_REUSEPORT_EBPF: c_int = 52;
pub(crate) const SO_DETACH_REUSEPORT_BPF: c_int = 68;
pub(crate) const IPPROTO_TCP: c_int = 6;
pub(crate) const TCP_NODELAY: c_int = 1;
pub(crate) const TCP_KEEPIDLE: c_int = 4;
pub(crate) const TCP_KEEPINTVL: c_int = 5;
pub(crate) const TCP_KEEPCNT: c_int = 6;
pub(crate) const TCP_DEFER_ACCEPT: c_int = 9;
pub(crate) const TCP_INFO: c_int = 11;
pub(crate) const TCP_USER_TIMEOUT: c_int = 18;
pub(crate) const IPPROTO_IPV6: c_int = 41;
pub(crate) const IPV6_V6ONLY: c_int = 26;

pub(crate) const F_GETFD: c_int = 1;
pub(crate) const F_SETFD: c_int = 2;
pub(crate) const F_GETFL: c_int = 3;
pub(crate) const F_SETFL: c_int = 4;
pub(crate) const FD_CLOEXEC: c_int = 1;
pub(crate) const O_NONBLOCK: c_int = 0o4000;
pub(crate) const O_CLOEXEC: c_int = 0o2_000_000;
pub(crate) const AT_FDCWD: c_int = -100;
pub(crate) const AT_REMOVEDIR: c_int = 0x200;

/// Large enough for every socket address (`sockaddr_storage`).
pub(crate) const STORAGE: usize = 128;

/// System call numbers, from each architecture's `asm/unistd.h`.
#[cfg(target_arch = "x86_64")]
pub(crate) mod number {
    pub(crate) const WRITE: usize = 1;
    pub(crate) const BIND: usize = 49;
    pub(crate) const LISTEN: usize = 50;
    pub(crate) const GETSOCKNAME: usize = 51;
    pub(crate) const GETPEERNAME: usize = 52;
    pub(crate) const SETSOCKOPT: usize = 54;
    pub(crate) const GETSOCKOPT: usize = 55;
    pub(crate) const FCNTL: usize = 72;
    pub(crate) const UNLINKAT: usize = 263;
    pub(crate) const ACCEPT4: usize = 288;
    pub(crate) const DUP3: usize = 292;
}

/// System call numbers, from each architecture's `asm/unistd.h`.
#[cfg(target_arch = "aarch64")]
pub(crate) mod number {
    pub(crate) const DUP3: usize = 24;
    pub(crate) const FCNTL: usize = 25;
    pub(crate) const UNLINKAT: usize = 35;
    pub(crate) const WRITE: usize = 64;
    pub(crate) const BIND: usize = 200;
    pub(crate) const LISTEN: usize = 201;
    pub(crate) const GETSOCKNAME: usize = 204;
    pub(crate) const GETPEERNAME: usize = 205;
    pub(crate) const SETSOCKOPT: usize = 208;
    pub(crate) const GETSOCKOPT: usize = 209;
    pub(crate) const ACCEPT4: usize = 242;
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("libdeployd_bind.so knows the system calls of x86_64 and aarch64 only");

/// Makes system call `number`.
///
/// # Safety
/// The arguments must be what that system call expects; pointers must be valid for what it does.
pub(crate) unsafe fn call(number: usize, arguments: [usize; 5]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    let result: isize;
    // SAFETY: the caller answers for the arguments; the clobbers are those of the kernel's ABI.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third,
             in("r10") fourth, in("r8") fifth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") first => result, in("x1") second, in("x2") third,
             in("x3") fourth, in("x4") fifth, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno((-result) as c_int)) } else { Ok(result as usize) }
}

/// A descriptor as a register value (negative numbers stay negative: the kernel answers EBADF).
pub(crate) fn word(fd: c_int) -> usize {
    fd as isize as usize
}

/// `fcntl` with an integer argument.
pub(crate) fn fcntl(fd: c_int, command: c_int, argument: c_int) -> Result<c_int, Errno> {
    // SAFETY: the commands used here take integers only.
    unsafe { call(number::FCNTL, [word(fd), word(command), word(argument), 0, 0]) }
        .map(|value| value as c_int)
}

/// `dup3`: `target` becomes another name of `source`, atomically.
pub(crate) fn dup3(source: c_int, target: c_int, flags: c_int) -> Result<(), Errno> {
    // SAFETY: integers only.
    unsafe { call(number::DUP3, [word(source), word(target), word(flags), 0, 0]) }.map(|_| ())
}

/// Reads a fixed-size socket option; `None` when the socket has no such option of that size.
pub(crate) fn option<const N: usize>(fd: c_int, level: c_int, name: c_int) -> Option<[u8; N]> {
    let mut value = [0_u8; N];
    let mut length = N as u32;
    // SAFETY: value and length are live locals and length is value's size.
    unsafe {
        call(
            number::GETSOCKOPT,
            [word(fd), word(level), word(name), value.as_mut_ptr() as usize, &raw mut length as usize],
        )
    }
    .ok()?;
    (length as usize == N).then_some(value)
}

/// Reads an integer socket option.
pub(crate) fn int_option(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    option::<4>(fd, level, name).map(c_int::from_ne_bytes)
}

/// Sets a socket option to these bytes.
pub(crate) fn set_option(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel reads value.len() bytes from value.
    unsafe {
        call(number::SETSOCKOPT, [word(fd), word(level), word(name), value.as_ptr() as usize, value.len()])
    }
    .map(|_| ())
}

/// The local (`GETSOCKNAME`) or remote (`GETPEERNAME`) address of a socket, and its length.
pub(crate) fn name(which: usize, fd: c_int) -> Result<([u8; STORAGE], usize), Errno> {
    let mut storage = [0_u8; STORAGE];
    let mut length = STORAGE as u32;
    // SAFETY: storage and length are live locals and length is storage's size.
    unsafe { call(which, [word(fd), storage.as_mut_ptr() as usize, &raw mut length as usize, 0, 0]) }?;
    Ok((storage, (length as usize).min(STORAGE)))
}

/// Writes to descriptor 2, once; a failure has nobody to be told to.
pub(crate) fn say(line: &[u8]) {
    // SAFETY: the kernel reads line.len() bytes from line.
    let _ = unsafe { call(number::WRITE, [2, line.as_ptr() as usize, line.len(), 0, 0]) };
}

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
    #[cfg(all(panic = "abort", not(test)))]
    #[link_name = "abort"]
    safe fn libc_abort() -> !;
}

/// Ends the process as a failed assertion in C does.
#[cfg(all(panic = "abort", not(test)))]
pub(crate) fn abort() -> ! {
    libc_abort()
}

/// Turns a result into libc's convention: -1 and errno, or the value.
pub(crate) fn answer(result: Result<usize, Errno>) -> c_int {
    match result {
        Ok(value) => value as c_int,
        Err(Errno(code)) => {
            // SAFETY: libc gives each thread a valid errno for its whole life.
            unsafe { *__errno_location() = code };
            -1
        }
    }
}

/// The address of a pointer, as a register value.
pub(crate) fn address(pointer: *const c_void) -> usize {
    pointer as usize
}
