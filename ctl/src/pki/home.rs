//! The files of an operator, under `$DEPLOYD_HOME`: which there are, and how they are written.
//!
//! Every file is 0600 in a folder of 0700, and is whole or as before: a temporary beside it, synced, renamed.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::invalid;
use crate::error::CtlError;

/// The identity that calls are made with.
pub(crate) const IDENTITY: &str = "identity.pem";
/// The certificate of the CA.
pub(crate) const CA: &str = "ca.pem";
/// Its key, encrypted with a passphrase.
pub(crate) const CA_KEY: &str = "ca.key.age";
/// What is revoked.
pub(crate) const CRL: &str = "crl.pem";
/// What was issued, a line each.
pub(crate) const ISSUED: &str = "issued.jsonl";
/// Whom secrets are encrypted to beside the hosts.
pub(crate) const RECOVERY: &str = "recovery.pub";
/// The key that opens these, encrypted with a passphrase.
pub(crate) const RECOVERY_KEY: &str = "recovery.key.age";

/// Held while the list of what was issued is changed.
const LOCK: &str = ".lock";

/// The folder of an operator.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    folder: PathBuf,
}

impl Home {
    /// `$DEPLOYD_HOME`, else `deployd` in the user's folder for configuration.
    pub(crate) fn find() -> Result<Self, CtlError> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = set("DEPLOYD_HOME")
            .or_else(|| set("XDG_CONFIG_HOME").map(|f| f.join("deployd")))
            .or_else(|| set("HOME").map(|f| f.join(".config/deployd")));
        let folder = folder.ok_or_else(|| CtlError::Usage {
            message: "neither DEPLOYD_HOME nor HOME is set: where are your identity and the CA?".to_owned(),
            hint: "set DEPLOYD_HOME to a folder of yours".to_owned(),
        })?;
        Ok(Self { folder })
    }

    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder as it is shown.
    pub(crate) fn shown(&self) -> String {
        self.folder.display().to_string()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A file's content; `None` when there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CtlError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path, &e)),
        }
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, CtlError> {
        let bytes = self.read(name)?;
        bytes
            .map(|b| String::from_utf8(b).map_err(|e| failed("read", &self.path(name), &io::Error::other(e))))
            .transpose()
    }

    /// Writes a file of ours.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), CtlError> {
        self.make()?;
        write(&self.path(name), content)
    }

    /// Writes files that must not exist yet: all, or none.
    pub(crate) fn write_new(&self, files: &[(&str, &[u8])]) -> Result<(), CtlError> {
        self.make()?;
        let mut written = Vec::new();
        for (name, content) in files {
            let path = self.path(name);
            if let Err(error) = write_new(&path, content) {
                for path in written {
                    // What cannot be taken back is named by the next try, which refuses to overwrite it.
                    let _ = fs::remove_file(path);
                }
                return Err(error);
            }
            written.push(path);
        }
        Ok(())
    }

    /// One command at a time may change the list of what was issued; the others wait until this is dropped.
    pub(crate) fn turn(&self) -> Result<File, CtlError> {
        self.make()?;
        let path = self.path(LOCK);
        let taken = File::create(&path).and_then(|file| file.lock().map(|()| file));
        taken.map_err(|e| failed("lock", &path, &e))
    }

    /// Makes the folder.
    pub(crate) fn make(&self) -> Result<(), CtlError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|e| failed("make", &self.folder, &e))
    }
}

/// Writes a file with mode 0600, whole or not at all.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), CtlError> {
    let kept = staged(path, content).and_then(|file| file.persist(path).map_err(|e| e.error));
    kept.and_then(|_| sync_folder(path)).map_err(|e| failed("write", path, &e))
}

/// The same, and never over another file.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), CtlError> {
    let kept = staged(path, content).and_then(|file| file.persist_noclobber(path).map_err(|e| e.error));
    kept.and_then(|_| sync_folder(path)).map_err(|e| failed("write", path, &e))
}

/// Writes a file that is no secret, with the mode that it has, or that new files of the user get.
pub(crate) fn write_shared(path: &Path, content: &[u8]) -> Result<(), CtlError> {
    let mode = fs::metadata(path).map_or(0o644, |m| m.permissions().mode() & 0o777);
    let kept = staged(path, content).and_then(|file| {
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(path).map_err(|e| e.error)
    });
    kept.and_then(|_| sync_folder(path)).map_err(|e| failed("write", path, &e))
}

/// Whether a file can be written there.
pub(crate) fn try_beside(path: &Path) -> io::Result<()> {
    tempfile::NamedTempFile::new_in(folder_of(path)).map(drop)
}

/// A temporary beside the file; the crate makes it 0600.
fn staged(path: &Path, content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> CtlError {
    let body =
        invalid(format!("cannot {verb} {}", path.display()), "mend it and run again: nothing was changed");
    super::answer(body.cause("what", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_are_all_or_none_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("new"));
        home.write_new(&[("a", b"1"), ("b", b"2")]).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.path("a")), mode(dir.path().join("new"))), (0o600, 0o700));
        let error = home.write_new(&[("c", b"3"), ("a", b"4")]).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!((home.has("c"), home.read("a").unwrap().unwrap()), (false, b"1".to_vec()));
        home.write("a", b"5").unwrap();
        assert_eq!((home.text("a").unwrap().unwrap().as_str(), mode(home.path("a"))), ("5", 0o600));
    }
}
