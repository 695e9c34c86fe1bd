//! What this machine must have before hosts can be booted, and how it gets it: the one list of Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use deployd_tests::image::{self, Image, Suite};
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;

use crate::run::cargo;

/// What is going to be done, and so what must be there. Each needs all that those before it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Building, and tests without hosts.
    Checks,
    /// Both .debs.
    Packages,
    /// Suites, the demo and benchmarks.
    Hosts,
}

/// A program that must be found, the Debian package that brings it, and what it is for.
const NEEDED: [(&str, &str, Purpose); 12] = [
    ("cc", "build-essential", Purpose::Checks),
    ("readelf", "binutils", Purpose::Checks),
    ("unshare", "util-linux", Purpose::Checks),
    ("ip", "iproute2", Purpose::Checks),
    ("kill", "procps", Purpose::Checks),
    ("python3", "python3", Purpose::Checks),
    ("node", "nodejs", Purpose::Checks),
    ("dpkg-deb", "dpkg", Purpose::Packages),
    ("debootstrap", "debootstrap", Purpose::Hosts),
    ("systemd-nspawn", "systemd-container", Purpose::Hosts),
    ("nsenter", "util-linux", Purpose::Hosts),
    ("mountpoint", "util-linux", Purpose::Hosts),
];
/// Two roots of 0.5 GB while they are made, plus packages and what hosts write.
const FREE_BYTES: u64 = 6 << 30;

/// Installs what is missing. Without root this can only say what to install.
pub(crate) fn ensure_programs(purpose: Purpose) -> Result<()> {
    let wanted = NEEDED.iter().filter(|(_, _, of)| *of <= purpose);
    let mut missing: Vec<&str> =
        wanted.filter(|(program, ..)| find(program).is_none()).map(|(_, package, _)| *package).collect();
    // Static executables need the static libc, which no program stands for.
    if purpose >= Purpose::Packages && !has_static_libc()? {
        missing.push("libc6-dev");
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !Uid::effective().is_root() {
        bail!("Debian packages are missing; run as root: apt-get install {list}");
    }
    eprintln!("==> installing {list}");
    apt_get(&["update"]).with_context(|| format!("is the network there? by hand: apt-get install {list}"))?;
    let mut words = vec!["install", "--yes", "--no-install-recommends"];
    words.extend(&missing);
    apt_get(&words).with_context(|| format!("by hand: apt-get install {list}"))
}

fn apt_get(words: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["--quiet=2"])
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("failed to run apt-get (only Debian and its relatives are supported)")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", words.join(" "));
    }
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn has_static_libc() -> Result<bool> {
    let Ok(output) = Command::new("cc").arg("-print-file-name=libc.a").output() else { return Ok(false) };
    // cc prints the bare name when it finds none.
    Ok(Path::new(String::from_utf8(output.stdout)?.trim()).is_absolute())
}

/// Fails, with what to do, without the right to boot hosts or to remove them.
pub(crate) fn check_root() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "real hosts need root (mounts, namespaces): put `sudo -E` before the same command.\n\
             `cargo xtask test --fast` is what works without"
        );
    }
    Ok(())
}

/// Fails early, with what to do, when hosts cannot be booted here.
pub(crate) fn check_hosts_possible() -> Result<()> {
    check_root()?;
    let cache = image::cache_dir();
    fs::create_dir_all(&cache).with_context(|| format!("failed to create {}", cache.display()))?;
    let disk = statvfs(&cache).with_context(|| format!("failed to look at {}", cache.display()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    if free < FREE_BYTES {
        bail!(
            "{} has {:.1} GB free, test hosts need {} GB.\nFree some, or put the cache elsewhere: {}=/some/folder",
            cache.display(),
            free as f64 / 1e9,
            FREE_BYTES >> 30,
            image::CACHE_VARIABLE
        );
    }
    Ok(())
}

/// Makes the roots now, so that no suite's time limit pays for them; removes what dead runs left.
pub(crate) fn prepare_hosts() -> Result<()> {
    deployd_tests::machine::clean_stale()?;
    for suite in Suite::ALL {
        Image::ensure(suite).context("no Debian root, so no test host")?;
    }
    Ok(())
}

/// Makes sure that cargo-nextest can be called.
pub(crate) fn ensure_nextest() -> Result<()> {
    let works = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if works(cargo("nextest --version")).is_ok_and(|status| status.success()) {
        return Ok(());
    }
    eprintln!("==> installing cargo-nextest (once, some minutes)");
    let status = cargo("install cargo-nextest --locked").status().context("failed to run cargo install")?;
    if !status.success() {
        bail!(
            "cargo-nextest is missing and could not be installed: run `cargo install cargo-nextest --locked`"
        );
    }
    Ok(())
}
