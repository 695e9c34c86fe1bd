//! What the machine is: operating system, libc, processors, memory. The agent itself is static, so the libc is that of
//! the files that programs would load.

use std::path::Path;

use super::facts::FactError;

/// Folders with the C library of a distribution that does not sort by architecture.
const LIBC_DIRS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Largest file that is looked through for its version.
const LIBC_MAX: u64 = 32 << 20;

/// `PRETTY_NAME` of os-release; `unknown` where nothing says.
pub fn os() -> String {
    let texts = ["/etc/os-release", "/usr/lib/os-release"].map(std::fs::read_to_string);
    let text = texts.into_iter().find_map(Result::ok).unwrap_or_default();
    pretty_name(&text).unwrap_or_else(|| "unknown".to_owned())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The version of glibc that programs get here: `2.36`. `None` without a glibc.
pub fn glibc() -> Option<String> {
    let multiarch = format!("/lib/{}-linux-gnu", std::env::consts::ARCH);
    std::iter::once(multiarch.as_str()).chain(LIBC_DIRS).find_map(|dir| {
        let path = Path::new(dir).join("libc.so.6");
        let small = std::fs::metadata(&path).is_ok_and(|found| found.len() <= LIBC_MAX);
        let bytes = small.then(|| std::fs::read(&path).ok())??;
        version_in(&bytes)
    })
}

/// glibc says in its text: `GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.`
fn version_in(libc: &[u8]) -> Option<String> {
    const SAYS: &[u8] = b" release version ";
    let at = libc.windows(SAYS.len()).position(|part| part == SAYS)?;
    let rest = libc.get(at + SAYS.len()..)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
    let version = std::str::from_utf8(&rest[..end]).ok()?.trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

/// How many processors the agent may use; 1 when nobody says.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// All memory, in bytes.
pub fn memory_total() -> Result<u64, FactError> {
    let failed = |source| FactError { fact: "all memory", source };
    let text = std::fs::read_to_string("/proc/meminfo").map_err(failed)?;
    total_in(&text).ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))
}

fn total_in(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_files_say() {
        let says = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\nCopyright";
        assert_eq!(version_in(says).as_deref(), Some("2.36"));
        let dev = b"GNU C Library (GNU libc) development release version 2.39.9000.\n";
        assert_eq!(version_in(dev).as_deref(), Some("2.39.9000"));
        for other in [&b"musl libc (x86_64)\nVersion 1.2.5"[..], b"", b" release version .\n"] {
            assert_eq!(version_in(other), None);
        }
        let os = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(os).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(total_in("MemTotal:       16318480 kB\nMemFree: 1 kB\n"), Some(16_318_480 << 10));
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        assert!(cpus() >= 1);
        assert!(memory_total().unwrap() >= super::super::facts::memory_available().unwrap());
    }
}
