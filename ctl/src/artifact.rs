//! A folder as an artifact: its manifest, and (in [`send`]) the content that an upload sends.
//!
//! Links are kept as links and never followed, special files are refused, and a file that changes
//! between hashing and sending is noticed: what arrives is what the manifest says.

mod send;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use deployd_api::ids::Digest;
use deployd_api::manifest::{Entry, EntryKind, InvalidManifest, Manifest};
use nix::fcntl::OFlag;

pub(crate) use send::{ENCODING, Part, send_contents};

/// Why a folder cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is {what}: only files, folders and links can be pushed", path.display())]
    Special { path: PathBuf, what: &'static str },
    #[error("the name of {} is not UTF-8", path.display())]
    Name { path: PathBuf },
    #[error("{} changed while it was pushed", path.display())]
    Changed { path: PathBuf },
    #[error("cannot compress what is sent")]
    Compress(#[source] io::Error),
    #[error("{} has no files", path.display())]
    Empty { path: PathBuf },
    #[error(transparent)]
    Invalid(#[from] InvalidManifest),
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    move |source| ArtifactError::Read { path: path.to_owned(), source }
}

/// Walks and hashes a folder. The repository's own `.git` is never part of a release.
pub(crate) fn scan(root: &Path) -> Result<Manifest, ArtifactError> {
    let mut entries = Vec::new();
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = open.pop() {
        let mut empty = true;
        for item in fs::read_dir(&folder).map_err(read_error(&folder))? {
            let item = item.map_err(read_error(&folder))?;
            let path = item.path();
            let name =
                item.file_name().into_string().map_err(|_| ArtifactError::Name { path: path.clone() })?;
            if prefix.is_empty() && name == ".git" {
                continue;
            }
            empty = false;
            let relative = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let kind = item.file_type().map_err(read_error(&path))?;
            if kind.is_dir() {
                open.push((path, relative));
                continue;
            }
            let kind = if kind.is_symlink() { scan_link(&path)? } else { scan_file(&path)? };
            entries.push(Entry { path: relative, kind });
        }
        if empty && !prefix.is_empty() {
            entries.push(Entry { path: prefix, kind: EntryKind::Dir });
        }
    }
    if !entries.iter().any(|e| matches!(e.kind, EntryKind::File { .. })) {
        return Err(ArtifactError::Empty { path: root.to_owned() });
    }
    Ok(Manifest::new(entries)?)
}

fn scan_link(path: &Path) -> Result<EntryKind, ArtifactError> {
    let target = fs::read_link(path).map_err(read_error(path))?;
    let target = target.into_os_string().into_string();
    Ok(EntryKind::Link { target: target.map_err(|_| ArtifactError::Name { path: path.to_owned() })? })
}

fn scan_file(path: &Path) -> Result<EntryKind, ArtifactError> {
    let (mut file, metadata) = open_regular(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).map_err(read_error(path))?;
    Ok(EntryKind::File {
        executable: metadata.permissions().mode() & 0o111 != 0,
        size: hasher.count(),
        digest: Digest::from_bytes(*hasher.finalize().as_bytes()),
    })
}

/// Opens a regular file: no link is followed, and a FIFO does not block.
fn open_regular(path: &Path) -> Result<(File, fs::Metadata), ArtifactError> {
    use std::os::unix::fs::FileTypeExt;
    let special = |what| ArtifactError::Special { path: path.to_owned(), what };
    // Sockets cannot be opened, so they are named before.
    let kind = fs::symlink_metadata(path).map_err(read_error(path))?.file_type();
    if kind.is_socket() {
        return Err(special("a socket"));
    }
    if kind.is_fifo() {
        return Err(special("a FIFO"));
    }
    if kind.is_block_device() || kind.is_char_device() {
        return Err(special("a device"));
    }
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read_error(path))?;
    let metadata = file.metadata().map_err(read_error(path))?;
    if !metadata.is_file() {
        return Err(special("a special file"));
    }
    Ok((file, metadata))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(super) fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin/empty")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        fs::write(dir.path().join(".git/HEAD"), "x").unwrap();
        fs::write(dir.path().join("bin/a"), "hello").unwrap();
        fs::write(dir.path().join("bin/same"), "hello").unwrap();
        fs::set_permissions(dir.path().join("bin/a"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("bin/a", dir.path().join("link")).unwrap();
        dir
    }

    #[test]
    fn a_folder_becomes_a_manifest() {
        let dir = folder();
        let manifest = scan(dir.path()).unwrap();
        let paths: Vec<&str> = manifest.entries().iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["bin/a", "bin/empty", "bin/same", "link"]);
        assert!(matches!(&manifest.entries()[0].kind, EntryKind::File { executable: true, size: 5, .. }));
        assert!(matches!(&manifest.entries()[1].kind, EntryKind::Dir));
        assert!(matches!(&manifest.entries()[3].kind, EntryKind::Link { target } if target == "bin/a"));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = folder();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(scan(dir.path()).unwrap_err().to_string().contains("a FIFO"));
        fs::remove_file(dir.path().join("pipe")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(scan(dir.path()).unwrap_err().to_string().contains("a socket"));
        fs::remove_file(dir.path().join("s")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        assert!(matches!(scan(dir.path()), Err(ArtifactError::Invalid(_))));
        assert!(matches!(scan(&dir.path().join("bin/empty")), Err(ArtifactError::Empty { .. })));
    }
}
