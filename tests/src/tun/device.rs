//! Opens a TUN device. The one place of the rig with unsafe code: neither std nor nix knows this ioctl safely.
#![expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

nix::ioctl_readwrite_bad!(
    /// Binds an open `/dev/net/tun` to a device, creating it.
    set_interface,
    nix::libc::TUNSETIFF,
    nix::libc::ifreq
);

/// A device named `name` in the network namespace of the calling thread. It goes away with the file.
pub(super) fn open(name: &str) -> Result<File> {
    if name.len() >= nix::libc::IFNAMSIZ {
        bail!("the device name {name} is too long");
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("failed to open /dev/net/tun (is the tun module there?)")?;
    // SAFETY: `ifreq` is plain old data: integers, arrays and a union of them; all-zero is a valid value.
    let mut request: nix::libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (nix::libc::IFF_TUN | nix::libc::IFF_NO_PI) as i16;
    // SAFETY: the kernel reads and writes one `ifreq` at this address, which lives until the call returns.
    unsafe { set_interface(file.as_raw_fd(), &raw mut request) }
        .with_context(|| format!("failed to create the TUN device {name}"))?;
    Ok(file)
}
