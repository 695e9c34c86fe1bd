//! libdeployd_bind.so, loaded with `LD_PRELOAD` by `deployd-exec`: `bind()` of a listed address becomes
//! the listening socket that PID 1 passed, so an unchanged program takes part in a swap without a proxy.
//!
//! `DEPLOYD_BIND=FD=ADDRESS,...` lists the passed sockets. Everything else (port 0, other ports, UDP)
//! goes to the kernel as it is. It must never crash the program, allocate, print anything but the one
//! line of a refusal, or touch a descriptor that is not the listed listener (checked by its address).
//!
//! No `dlsym`: each overridden function makes its own system call. So the library needs `getenv`,
//! `unsetenv`, `__errno_location` and memory functions and no symbol newer than any glibc in use. Costs:
//! - another preloaded library that overrides the same functions is not called after us;
//! - `accept` here is no cancellation point of `pthread_cancel`;
//! - programs that make system calls themselves (Go, static binaries, `io_uring`) are not seen at all.
//!
//! `close` and `dup` are deliberately not overridden: libuv and libc itself close descriptors without
//! passing here. Whether an address is rewritten is decided when it is asked for, by the socket's own
//! local port (`families`), so that a reused descriptor number can never be taken for another socket.
//!
//! The shipped library is built `no_std`, with
//! `cargo rustc -p deployd-bind --release -- -C panic=abort` (a library without `std` cannot unwind).
//! Any other build, as clippy's and the unit tests', uses `std` only for its panic handler.
#![cfg_attr(all(panic = "abort", not(test)), no_std)]
#![expect(unsafe_code, reason = "this is libc's ABI: raw pointers come in, raw system calls go out")]

mod address;
mod environment;
pub mod exports;
mod families;
mod listed;
mod refusal;
mod sys;
mod takeover;

/// Nothing here is meant to panic; if it does, abort like an assertion in C would.
#[cfg(all(panic = "abort", not(test)))]
#[panic_handler]
fn abort_on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::abort()
}
