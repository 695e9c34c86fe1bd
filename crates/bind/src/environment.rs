//! Leaves a clean environment to the children of a program that has its listeners.
//!
//! Must run once: from the `bind()` that took the last listed socket, or by the loader in a process that
//! has none of them. Other threads that read the environment at that instant see it change, as with any
//! `unsetenv`. Used by `takeover`.

use core::ffi::{CStr, c_char, c_int};

/// Name of this library in `LD_PRELOAD`, whatever folder it is in.
const LIBRARY: &[u8] = b"libdeployd_bind.so";

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *mut c_char;
    fn unsetenv(name: *const c_char) -> c_int;
}

/// The value of a variable. The bytes live until the variable is removed.
pub(crate) fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: name ends with NUL; getenv answers NULL or a NUL-terminated string that stays in place
    // until it is replaced, which only `clean` and the program itself do.
    unsafe {
        let value = getenv(name.as_ptr());
        if value.is_null() { None } else { Some(CStr::from_ptr(value).to_bytes()) }
    }
}

/// Removes this library from `LD_PRELOAD`, and the variables that speak of passed descriptors.
pub(crate) fn clean() {
    drop_from_preload();
    for name in [c"DEPLOYD_BIND", c"LISTEN_FDS", c"LISTEN_PID", c"LISTEN_FDNAMES", c"LISTEN_PIDFDID"] {
        // SAFETY: name ends with NUL.
        unsafe { unsetenv(name.as_ptr()) };
    }
}

fn drop_from_preload() {
    // SAFETY: the environment's strings are writable; `without_library` only makes the text shorter.
    let kept = unsafe {
        let value = getenv(c"LD_PRELOAD".as_ptr());
        if value.is_null() {
            return;
        }
        let length = CStr::from_ptr(value).to_bytes().len();
        let text = core::slice::from_raw_parts_mut(value.cast::<u8>(), length + 1);
        let kept = without_library(text);
        if let Some(end) = text.get_mut(kept) {
            *end = 0;
        }
        kept
    };
    if kept == 0 {
        // SAFETY: the name ends with NUL.
        unsafe { unsetenv(c"LD_PRELOAD".as_ptr()) };
    }
}

/// Moves what remains of a preload list (separated by colons or spaces) to its front, without entries
/// that are this library; returns the new length. `text` ends with NUL.
fn without_library(text: &mut [u8]) -> usize {
    let (mut read, mut kept) = (0, 0);
    while read < text.len() {
        let rest = text.get(read..).unwrap_or_default();
        let length = rest.iter().position(|byte| matches!(byte, b':' | b' ' | 0)).unwrap_or(rest.len());
        let entry = rest.get(..length).unwrap_or_default();
        if length > 0 && !is_library(entry) {
            if kept > 0 {
                if let Some(place) = text.get_mut(kept) {
                    *place = b':';
                }
                kept += 1;
            }
            text.copy_within(read..read + length, kept);
            kept += length;
        }
        read += length + 1;
    }
    kept
}

fn is_library(entry: &[u8]) -> bool {
    entry.rsplit(|byte| *byte == b'/').next() == Some(LIBRARY)
}

#[cfg(test)]
mod tests {
    use super::without_library;

    fn kept(list: &str) -> String {
        let mut text = format!("{list}\0").into_bytes();
        let length = without_library(&mut text);
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    #[test]
    fn only_this_library_leaves_the_list() {
        assert_eq!(kept("/usr/lib/deployd/libdeployd_bind.so"), "");
        assert_eq!(kept("/a/libdeployd_bind.so:/b/libjemalloc.so"), "/b/libjemalloc.so");
        assert_eq!(kept("/b/x.so /a/libdeployd_bind.so /c/y.so"), "/b/x.so:/c/y.so");
        assert_eq!(
            kept("libdeployd_bind.so.1:::/notlibdeployd_bind.so"),
            "libdeployd_bind.so.1:/notlibdeployd_bind.so"
        );
        assert_eq!(kept(""), "");
    }
}
