//! What a program meets on this host: its distribution, its C library, interpreters and shared libraries.
//!
//! Read-only, no judgement. It opens files and never runs one: `ldconfig -p` and `ldd` would.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use deployd_core::facts::Platform;

use super::elf;

/// How deep files of `ld.so.conf` may name others.
const INCLUDES: usize = 4;
/// More of a C library is not read: it has 2 MB.
const LIBC_MAX: u64 = 32 << 20;
/// Where the loader looks by itself, besides the folders of this machine's architecture.
const FOLDERS: [&str; 4] = ["lib", "usr/lib", "lib64", "usr/lib64"];

/// What is known without a question.
pub fn look(interpreters: &BTreeSet<String>, libraries: &BTreeSet<String>, path_env: &str) -> Platform {
    let root = Path::new("/");
    let folders = folders(root);
    let there = |name: &&String| folders.iter().any(|folder| folder.join(name).exists());
    let program = |name: &&String| elf::on_path(name, path_env).is_some();
    let found = interpreters.iter().filter(program).chain(libraries.iter().filter(there));
    Platform {
        arch: std::env::consts::ARCH.to_owned(),
        os: os_name(root),
        glibc: glibc(&folders),
        found: found.cloned().collect(),
        noexec: None,
    }
}

/// The version of the host's glibc: `2.36`.
pub fn glibc_version() -> Option<String> {
    glibc(&folders(Path::new("/")))
}

/// The distribution's name, as it calls itself.
pub fn os_name(root: &Path) -> String {
    let files = [root.join("etc/os-release"), root.join("usr/lib/os-release")];
    let text = files.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux".to_owned(), |name| name.trim().trim_matches(['"', '\'']).to_owned())
}

/// Every folder in which the loader looks for libraries.
fn folders(root: &Path) -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let own = FOLDERS.iter().map(|folder| root.join(folder));
    let mut all: Vec<PathBuf> = own.flat_map(|folder| [folder.join(&triplet), folder]).collect();
    configured(root, &root.join("etc/ld.so.conf"), INCLUDES, &mut all);
    let mut seen = BTreeSet::new();
    all.retain(|folder| seen.insert(folder.clone()));
    all
}

/// `ld.so.conf`: a folder a line, `include PATTERN`, comments.
fn configured(root: &Path, file: &Path, depth: usize, all: &mut Vec<PathBuf>) {
    let Ok(text) = fs::read_to_string(file) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let inside = |path: &str| root.join(path.trim_start_matches('/'));
        match line.strip_prefix("include").map(str::trim) {
            Some(pattern) if depth > 0 => {
                let pattern = if pattern.starts_with('/') {
                    inside(pattern)
                } else {
                    file.parent().unwrap_or(root).join(pattern)
                };
                for file in matching(&pattern) {
                    configured(root, &file, depth - 1, all);
                }
            }
            None if line.starts_with('/') => all.push(inside(line)),
            _ => {}
        }
    }
}

/// The files of a pattern with one `*` in its last part: other patterns occur nowhere.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((head, tail)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let entries = pattern.parent().and_then(|folder| fs::read_dir(folder).ok());
    let fits = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
    };
    let mut files: Vec<PathBuf> =
        entries.into_iter().flatten().flatten().map(|e| e.path()).filter(fits).collect();
    files.sort();
    files
}

fn glibc(folders: &[PathBuf]) -> Option<String> {
    let path = folders.iter().map(|folder| folder.join("libc.so.6")).find(|path| path.is_file())?;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(LIBC_MAX).read_to_end(&mut bytes).ok()?;
    banner(&bytes)
}

/// What the library says of itself when it is run: `GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.`
fn banner(bytes: &[u8]) -> Option<String> {
    const SAYS: &[u8] = b" release version ";
    let at = bytes.windows(SAYS.len()).position(|window| window == SAYS)? + SAYS.len();
    let version: Vec<u8> =
        bytes[at..].iter().copied().take_while(|b| b.is_ascii_digit() || *b == b'.').take(16).collect();
    let version = String::from_utf8(version).ok()?;
    let version = version.trim_end_matches('.');
    version.contains('.').then(|| version.to_owned())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_looked_for_where_the_loader_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n# no\n");
        write("etc/ld.so.conf.d/a.conf", "/opt/a/lib # a\n\n");
        write("etc/ld.so.conf.d/b.conf", "include ld.so.more\n");
        write("etc/ld.so.conf.d/ld.so.more", "/opt/more\n");
        write("etc/ld.so.conf.d/c.off", "/opt/off\n");
        write("etc/os-release", "ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        let found = folders(root);
        for (folder, there) in
            [("opt/a/lib", true), ("opt/more", true), ("opt/off", false), ("usr/lib", true), ("lib64", true)]
        {
            assert_eq!(found.contains(&root.join(folder)), there, "{folder}: {found:?}");
        }
        assert_eq!(os_name(root), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(os_name(Path::new("/nowhere")), "Linux");
    }

    /// It includes itself: that ends.
    #[test]
    fn a_circle_of_includes_ends() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/ld.so.conf"), "include ld.so.conf\n/opt/x\n").unwrap();
        assert!(folders(dir.path()).contains(&dir.path().join("opt/x")));
    }

    #[test]
    fn glibc_says_its_version() {
        let says = b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u4) stable release version 2.36.\nCopyright";
        assert_eq!(banner(says).as_deref(), Some("2.36"));
        assert_eq!(banner(b"musl libc (x86_64)"), None);
    }

    #[test]
    fn this_host_has_what_it_has() {
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let asked =
            (names(&["/bin/sh", "sh", "/nowhere/x", "no-such"]), names(&["libc.so.6", "libnone.so.9"]));
        let platform = look(&asked.0, &asked.1, "/usr/bin:/bin");
        assert_eq!(platform.found, names(&["/bin/sh", "libc.so.6", "sh"]));
        assert!(platform.glibc.is_some_and(|v| v.starts_with("2.")));
    }
}
