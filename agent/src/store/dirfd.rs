//! Folders by descriptor: every step goes one name down and never through a link.
//!
//! A path is only ever a list of plain names below an open folder, so nothing that an app plants (a
//! link, a `..`) can lead a root process elsewhere. Used by [`super::releases`] and [`super::sweep`].

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use nix::NixPath;
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// An open folder.
#[derive(Debug)]
pub(crate) struct Dir(OwnedFd);

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

impl Kind {
    /// The kind of what was looked at.
    pub(crate) fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFDIR => Self::Folder,
            SFlag::S_IFLNK => Self::Link,
            _ => Self::Other,
        }
    }
}

impl Dir {
    /// Opens a folder by a path of ours; the last part may be no link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(nix::fcntl::open(path, FOLDER, Mode::empty())?))
    }

    /// Opens the folder of this name; `ENOTDIR` or `ELOOP` when it is a link.
    pub(crate) fn child<P: NixPath + ?Sized>(&self, name: &P) -> io::Result<Self> {
        Ok(Self(openat(&self.0, name, FOLDER, Mode::empty())?))
    }

    /// Opens the folder at a relative path, name by name. The empty path is this folder.
    pub(crate) fn descend(&self, path: &str) -> io::Result<Self> {
        let mut at = self.again()?;
        for name in names(path)? {
            at = at.child(name)?;
        }
        Ok(at)
    }

    /// Another descriptor of the same folder.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Makes the folder of this name, if it is not there, and opens it.
    pub(crate) fn make(&self, name: &str, mode: u32) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => {
                let made = self.child(name)?;
                // The umask took bits away.
                nix::sys::stat::fchmod(&made.0, Mode::from_bits_truncate(mode))?;
                Ok(made)
            }
            Err(Errno::EEXIST) => self.child(name),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes every folder of a relative path that is not there, and opens the last.
    pub(crate) fn make_path(&self, path: &str, mode: u32) -> io::Result<Self> {
        let mut at = self.again()?;
        for name in names(path)? {
            at = at.make(name, mode)?;
        }
        Ok(at)
    }

    /// Opens a regular file for reading; anything else (a pipe would block, a link would lead away) is
    /// refused.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(Errno::EINVAL.into()) }
    }

    /// Makes a file that was not there.
    pub(crate) fn create_file(&self, name: &str, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::from_bits_truncate(mode))?);
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(mode))?;
        Ok(file)
    }

    /// What stands at a name, not following a link; `None` when nothing does.
    pub(crate) fn stat<P: NixPath + ?Sized>(&self, name: &P) -> io::Result<Option<FileStat>> {
        match fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, name: &str) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, name)?)
    }

    /// The names in this folder, without `.` and `..`.
    pub(crate) fn entries(&self) -> io::Result<Vec<(OsString, Option<Type>)>> {
        let mut dir = nix::dir::Dir::openat(&self.0, ".", FOLDER, Mode::empty())?;
        let mut out = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                out.push((OsString::from_vec(name.to_vec()), entry.file_type()));
            }
        }
        Ok(out)
    }

    /// Removes a file, link, pipe or socket.
    pub(crate) fn unlink<P: NixPath + ?Sized>(&self, name: &P) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder<P: NixPath + ?Sized>(&self, name: &P) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Gives the folder to a user.
    pub(crate) fn chown(&self, uid: u32, gid: u32) -> io::Result<()> {
        Ok(nix::unistd::fchown(&self.0, Some(uid.into()), Some(gid.into()))?)
    }

    /// Makes the folder's entries durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(&self.0)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The names of a relative path; anything but plain names is refused.
fn names(path: &str) -> io::Result<impl Iterator<Item = &str>> {
    if !path.is_empty() && path.split('/').any(|n| matches!(n, "" | "." | "..") || n.contains('\0')) {
        return Err(Errno::EINVAL.into());
    }
    Ok(path.split('/').filter(|n| !n.is_empty()))
}

/// The folder and the last name of a relative path.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;

    #[test]
    fn no_step_goes_through_a_link_or_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("real/file", dir.path().join("filelink")).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert!(root.descend("real").is_ok());
        for bad in ["link", "link/x", "..", "real/..", "/etc", "real//x", ".", "a/./b", "a\0b"] {
            assert!(root.descend(bad).is_err(), "{bad:?}");
            assert!(root.make_path(bad, 0o755).is_err(), "{bad:?}");
        }
        assert!(root.open_file("filelink").is_err());
        assert!(root.open_file("real").is_err());
        assert!(root.create_file("filelink", 0o644).is_err());
        assert!(Dir::open(&dir.path().join("link")).is_err());
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        assert!(root.open_file("pipe").is_err(), "and it does not block");
    }
}
