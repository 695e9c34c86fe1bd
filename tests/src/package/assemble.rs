//! Lays out a package's tree from its description in `packaging/deb/NAME/` and packs it with dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Binaries, Packages, repository, target_dir};

/// Files of a description that go to `DEBIAN/`, and their modes.
const CONTROL_FILES: [(&str, u32); 5] =
    [("control", 0o644), ("conffiles", 0o644), ("postinst", 0o755), ("prerm", 0o755), ("postrm", 0o755)];

/// Packs both packages as `version` (suites that test upgrades pass another one than the workspace's).
pub fn assemble(binaries: &Binaries, version: &str) -> Result<Packages> {
    let arch = output_of("dpkg", &["--print-architecture"])?;
    // Suites that were started without packages build them, each in a process of its own.
    fs::create_dir_all(target_dir().join("debian"))?;
    let turn = fs::File::create(target_dir().join("debian/.lock"))?;
    turn.lock().context("failed to wait for another process that packs")?;
    let pack_one =
        |name: &str| pack(binaries, name, version, &arch).with_context(|| format!("failed to pack {name}"));
    // In this order: that of ctl holds that of the agent, for the hosts that it adds.
    Ok(Packages { agent: pack_one("deployd")?, ctl: pack_one("deployd-ctl")? })
}

fn pack(binaries: &Binaries, name: &str, version: &str, arch: &str) -> Result<PathBuf> {
    let description = repository().join("packaging/deb").join(name);
    let out = target_dir().join("debian");
    let tree = out.join(format!("{name}_{version}"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let list = fs::read_to_string(description.join("files"))?;
    let mut size = 0;
    for entry in list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let entry = Entry::parse(entry).with_context(|| format!("wrong line in `files`: {entry}"))?;
        size += entry.place(binaries, &out, &tree, (version, arch))?;
    }
    let debian = tree.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    for (file, mode) in CONTROL_FILES {
        let source = description.join(file);
        if source.exists() {
            place(&source, &debian.join(file), mode)?;
        }
    }
    fill_in(&debian.join("control"), version, arch, size)?;
    // Under its own name only when it is whole: somebody may be reading the last one.
    let (package, packed) = (out.join(format!("{name}_{version}_{arch}.deb")), tree.with_extension("packed"));
    output_of(
        "dpkg-deb",
        &["--build", "--root-owner-group", "-Zxz", "-z1", &path_text(&tree)?, &path_text(&packed)?],
    )?;
    fs::rename(&packed, &package)?;
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

/// One line of `files`.
struct Entry<'a> {
    source: &'a str,
    target: &'a str,
    mode: u32,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (source, target, mode) = (words.next()?, words.next()?, words.next()?);
        let complete = words.next().is_none() && !target.starts_with('/');
        complete.then_some(Self { source, target, mode: u32::from_str_radix(mode, 8).ok()? })
    }

    /// Puts it into the tree and returns its size.
    fn place(&self, binaries: &Binaries, out: &Path, tree: &Path, of: (&str, &str)) -> Result<u64> {
        let (version, arch) = of;
        let target = tree.join(self.target.replace("@VERSION@", version).replace("@ARCH@", arch));
        if let Some(words) = self.source.strip_prefix("says:") {
            let mut words = words.split(',');
            let program = binaries.find(words.next().unwrap_or_default());
            let text = output_of(&path_text(&program)?, &words.collect::<Vec<_>>())?;
            make_folder_of(&target)?;
            fs::write(&target, format!("{text}\n"))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(self.mode))?;
            return Ok(text.len() as u64 + 1);
        }
        let source = match self.source.split_once(':') {
            Some(("bin", binary)) => binaries.find(binary),
            Some(("deb", package)) => out.join(format!("{package}_{version}_{arch}.deb")),
            _ => repository().join(self.source),
        };
        place(&source, &target, self.mode)
    }
}

/// Copies a file and returns its size.
fn place(source: &Path, target: &Path, mode: u32) -> Result<u64> {
    make_folder_of(target)?;
    let size = fs::copy(source, target).with_context(|| format!("failed to copy {}", source.display()))?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    Ok(size)
}

fn make_folder_of(target: &Path) -> Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn fill_in(control: &Path, version: &str, arch: &str, size: u64) -> Result<()> {
    let text = fs::read_to_string(control)?
        .replace("@VERSION@", version)
        .replace("@ARCH@", arch)
        .replace("@SIZE@", &size.div_ceil(1024).to_string());
    fs::write(control, text)?;
    Ok(())
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("the target folder's path is not UTF-8")
}

fn output_of(program: &str, words: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(words).output().with_context(|| format!("failed to run {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_files_are_checked() {
        let entry = Entry::parse("bin:deployd usr/bin/deployd 0755").expect("right");
        assert_eq!((entry.source, entry.target, entry.mode), ("bin:deployd", "usr/bin/deployd", 0o755));
        for wrong in ["a /b 0644", "a b", "a b 0644 c", "a b 9"] {
            assert!(Entry::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_a_program_says_becomes_a_file() {
        let tree = tempfile::tempdir().expect("a folder");
        let binaries = Binaries { executables: "/bin".into(), shim: "/none".into() };
        let entry = Entry::parse("says:echo,completions,bash usr/share/c/x 0644").expect("right");
        let size = entry.place(&binaries, tree.path(), tree.path(), ("0.1.0", "amd64")).expect("placed");
        let text = fs::read_to_string(tree.path().join("usr/share/c/x")).expect("a file");
        assert_eq!((text.as_str(), size), ("completions bash\n", 17));
        let failing = Entry::parse("says:false usr/share/c/y 0644").expect("right");
        assert!(failing.place(&binaries, tree.path(), tree.path(), ("0.1.0", "amd64")).is_err());
        assert!(!tree.path().join("usr/share/c/y").exists());
    }

    #[test]
    fn descriptions_name_files_that_exist() {
        for name in ["deployd", "deployd-ctl"] {
            let list = fs::read_to_string(repository().join("packaging/deb").join(name).join("files"))
                .expect("a list");
            for line in list.lines().filter(|line| !line.starts_with('#')) {
                let entry = Entry::parse(line).expect("a right line");
                assert!(
                    ["bin:", "deb:", "says:"].iter().any(|kind| entry.source.starts_with(kind))
                        || repository().join(entry.source).is_file(),
                    "{line}"
                );
            }
        }
    }
}
