//! Sealing and opening, by `systemd-creds` as a unit of PID 1.
//!
//! Values go through descriptors of memory files that have no name: there is nothing to remove, and neither
//! words, environment nor properties of the unit show them. The key is the host's own
//! (`/var/lib/systemd/credential.secret`), not the TPM's, whose state a firmware update changes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use deployd_core::secrets::Form;
use nix::sys::memfd::{MFdFlags, memfd_create};
use zeroize::Zeroizing;

use crate::host::systemd::{Ended, Leftover, Property, PropertyValue, Systemd, SystemdError, TransientSpec};

/// Since systemd 250.
const PROGRAM: &str = "/usr/bin/systemd-creds";
/// The first version that has it.
const SYSTEMD_MIN: u32 = 250;
/// The unit of an app. One runs at a time: whoever seals holds the app's part of the vault.
fn unit(app: &AppName) -> String {
    format!("deployd-seal-{}.service", app.unit_part())
}

/// How long it may take: reading a key from disk and some hashing.
const LIMIT: Duration = Duration::from_mins(1);
/// Most that is read back of either stream.
const OUTPUT_MAX: u64 = 4 << 20;

/// Why a value could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// This systemd has no encrypted credentials.
    #[error("systemd {0} cannot seal credentials: {SYSTEMD_MIN} is the first that can")]
    Old(String),
    /// Without PID 1 only plain files work.
    #[error("there is no systemd to seal with")]
    NoSystemd,
    /// A file of memory, or a plain credential.
    #[error("failed to handle {}", what.display())]
    Io {
        /// Which.
        what: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The unit.
    #[error("failed to run {PROGRAM}")]
    Run(#[from] SystemdError),
    /// It refused.
    #[error("{PROGRAM} failed: {0}")]
    Refused(String),
}

impl SealError {
    /// As an answer about an app's secrets.
    pub fn to_body(&self, app: &AppName) -> ErrorBody {
        self.body(
            format!("the secrets of {app} cannot be opened on this host"),
            format!(
                "if its key is lost, set them again, all of them in one call: deployd-ctl secrets set NAME… -a {app}"
            ),
        )
    }

    /// As an answer about a file.
    pub fn to_body_of(&self, app: &AppName, path: &str) -> ErrorBody {
        let hint = format!("see on the host: journalctl -u {}", unit(app));
        self.body(format!("a secret cannot be sealed into {path}"), hint)
    }

    fn body(&self, message: String, hint: String) -> ErrorBody {
        let hint = match self {
            Self::Old(_) | Self::NoSystemd => {
                "upgrade systemd, or allow files that only root reads: secrets = \"plaintext-0600\" in \
                 /etc/deployd/agent.toml"
                    .to_owned()
            }
            _ => hint,
        };
        let body = ErrorBody::new(ErrorCode::SecretUnreadable, message, hint).cause("why", self.to_string());
        crate::effects::with_chain(body, self)
    }
}

/// Seals in the form of this host's config, opens in either.
#[derive(Debug)]
pub(super) struct Sealer {
    systemd: Option<Systemd>,
    form: Form,
}

impl Sealer {
    pub(super) fn new(systemd: Option<Systemd>, form: Form) -> Self {
        Self { systemd, form }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// What the file of a credential with this name holds.
    pub(super) async fn seal(
        &self,
        app: &AppName,
        id: &str,
        plain: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if self.form == Form::Plain {
            return Ok(Zeroizing::new(plain.to_vec()));
        }
        let words = [&format!("--name={id}"), "--with-key=host", "encrypt", "-", "-"];
        self.run(app, &words, Some(plain)).await
    }

    /// The value in a file.
    pub(super) async fn open(
        &self,
        app: &AppName,
        form: Form,
        id: &str,
        path: &Path,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if form == Form::Plain {
            let read = std::fs::read(path).map(Zeroizing::new);
            return read.map_err(|source| SealError::Io { what: path.to_owned(), source });
        }
        let words = [&format!("--name={id}"), "decrypt", &path.to_string_lossy(), "-"];
        self.run(app, &words, None).await
    }

    async fn run(
        &self,
        app: &AppName,
        words: &[&str],
        input: Option<&[u8]>,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let systemd = self.systemd.as_ref().ok_or(SealError::NoSystemd)?;
        let version = systemd.version().await?;
        if major(&version).is_some_and(|v| v < SYSTEMD_MIN) {
            return Err(SealError::Old(version));
        }
        let memory = |source| SealError::Io { what: PathBuf::from("memory"), source };
        let (mut out, mut said) = (Memory::empty().map_err(memory)?, Memory::empty().map_err(memory)?);
        let mut properties = vec![
            out.property("StandardOutputFileDescriptor").map_err(memory)?,
            said.property("StandardErrorFileDescriptor").map_err(memory)?,
        ];
        if let Some(input) = input {
            let input = Memory::of(input).map_err(memory)?;
            properties.push(input.property("StandardInputFileDescriptor").map_err(memory)?);
        }
        let words = std::iter::once(PROGRAM).chain(words.iter().copied()).map(str::to_owned).collect();
        let spec = TransientSpec { words, properties, timeout: LIMIT, ..TransientSpec::default() };
        let outcome = systemd.run_transient(&unit(app), &spec, Leftover::Stop).await?;
        if outcome.ended == Ended::Exited(0) {
            return out.read().map_err(memory);
        }
        let said = said.read().map_err(memory)?;
        let said = String::from_utf8_lossy(&said);
        Err(SealError::Refused(format!("{:?}, {}", outcome.ended, said.trim().replace('\n', "; "))))
    }
}

fn major(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A file without a name, in memory.
struct Memory(File);

impl Memory {
    fn empty() -> io::Result<Self> {
        Ok(Self(File::from(memfd_create("deployd-secret", MFdFlags::MFD_CLOEXEC)?)))
    }

    /// With this content, to be read from its begin.
    fn of(content: &[u8]) -> io::Result<Self> {
        let mut memory = Self::empty()?;
        memory.0.write_all(content)?;
        memory.0.seek(SeekFrom::Start(0))?;
        Ok(memory)
    }

    fn property(&self, name: &str) -> io::Result<Property> {
        let fd: OwnedFd = self.0.try_clone()?.into();
        Ok(Property::new(name, PropertyValue::Descriptor(Arc::new(fd))))
    }

    fn read(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        self.0.seek(SeekFrom::Start(0))?;
        let size = self.0.metadata()?.len().min(OUTPUT_MAX);
        // In one piece, so that no copy of it stays behind.
        let mut content = Zeroizing::new(Vec::with_capacity(size as usize + 1));
        (&self.0).take(size).read_to_end(&mut content)?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_systemd_says_them() {
        for (text, number) in [("252.39-1~deb12u2", Some(252)), ("257", Some(257)), ("v250", None)] {
            assert_eq!(major(text), number);
        }
    }

    #[test]
    fn memory_is_read_from_its_begin() {
        let mut memory = Memory::of(b"secret\0bytes").unwrap();
        assert_eq!(memory.read().unwrap().as_slice(), b"secret\0bytes");
        assert_eq!(memory.read().unwrap().as_slice(), b"secret\0bytes");
    }

    #[tokio::test]
    async fn without_systemd_the_answer_names_the_way_out() {
        let sealer = Sealer::new(None, Form::Sealed);
        let app: AppName = "shop".parse().unwrap();
        let body = sealer.seal(&app, "secrets", b"hunter2").await.unwrap_err().to_body_of(&app, "/x.cred");
        assert_eq!(body.code, ErrorCode::SecretUnreadable);
        assert!(body.hint.contains("plaintext-0600") && !format!("{body:?}").contains("hunter2"), "{body:?}");
    }
}
