//! Makes a root: debootstrap into a temporary name under a lock, trim, rename. Half-made roots are never seen.
//!
//! No mirror is ever named: debootstrap uses the machine's default, as the user configured it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::recipe::{DROPPED, MASKED, Recipe};

/// Makes `target` by `recipe`, unless another process does so first.
pub(super) fn make(recipe: &Recipe, target: &Path) -> Result<()> {
    let folder = target.parent().context("a root needs a parent folder")?;
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let _lock = lock(&folder.join(format!(".lock-{}", recipe.suite.name())))?;
    if target.is_dir() {
        return Ok(());
    }
    let making = folder.join(format!(".making-{}", recipe.suite.name()));
    remove_half_made(&making)?;
    eprintln!("making a Debian {} root in {} (once, about 80 s)", recipe.suite.name(), target.display());
    debootstrap(recipe, &making)?;
    trim(&making)?;
    fs::rename(&making, target).with_context(|| format!("failed to rename to {}", target.display()))
}

/// Holds the lock file until the returned file is dropped; the kernel frees it when the process dies.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("failed to open {}", path.display()))?;
    file.lock().with_context(|| format!("failed to lock {}", path.display()))?;
    Ok(file)
}

/// A maker that was killed may have left /proc mounted below its folder: removing through that would be a disaster.
fn remove_half_made(making: &Path) -> Result<()> {
    for below in ["proc", "sys", "dev/pts", "dev/shm"] {
        // Most are not mounted; the removal below stops at any that stays.
        let _ = Command::new("umount").arg("-lq").arg(making.join(below)).stderr(Stdio::null()).status();
    }
    let status = Command::new("rm").args(["-rf", "--one-file-system"]).arg(making).status()?;
    if !status.success() {
        bail!("failed to remove the half-made root {}: {status}", making.display());
    }
    Ok(())
}

fn debootstrap(recipe: &Recipe, making: &Path) -> Result<()> {
    let log_path = making.with_extension("log");
    let log = File::create(&log_path)?;
    let status = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={}", recipe.packages.join(","))])
        .arg(recipe.suite.name())
        .arg(making)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status();
    match status {
        Ok(status) if status.success() => {
            fs::remove_file(&log_path)?;
            Ok(())
        }
        Ok(status) => bail!(
            "failed to make a Debian {} root: debootstrap ended with {status}\n{}\n\
             it needs root and Debian's package archive; if the network is there, read {}",
            recipe.suite.name(),
            last_lines(&log_path, 15),
            log_path.display()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("debootstrap is not installed: run `cargo xtask test`, or apt-get install debootstrap")
        }
        Err(error) => Err(error).context("failed to run debootstrap"),
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Drops what no host reads, switches off what acts on its own, and leaves the identity to each host.
fn trim(root: &Path) -> Result<()> {
    for dropped in DROPPED {
        let path = root.join(dropped);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", path.display()));
            }
            _ => {}
        }
    }
    // dpkg and apt expect these two to exist.
    for kept in ["var/cache/apt/archives/partial", "var/lib/apt/lists/partial"] {
        fs::create_dir_all(root.join(kept))?;
    }
    let units = root.join("etc/systemd/system");
    for masked in MASKED {
        let link: PathBuf = units.join(masked);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => symlink("/dev/null", &link)?,
        }
    }
    fs::write(root.join("etc/machine-id"), "")?;
    fs::write(root.join("etc/resolv.conf"), "")?;
    // A journal on disk survives a reboot or a crash, which the suites want to read afterwards.
    let journal = root.join("var/log/journal");
    fs::create_dir_all(&journal)?;
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o2755))?;
    Ok(())
}
