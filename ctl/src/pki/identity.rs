//! The identity that calls are made with: certificate, key and CA, in one file or in one line.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deployd_api::ids::Timestamp;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::facts::{Facts, days_left};
use super::{Home, answer, home, invalid};
use crate::error::CtlError;

/// What a line that is an identity decodes to.
const BEGIN: &[u8] = b"-----BEGIN ";
/// Begins the line, behind the blocks, with the recipient that secrets are encrypted to beside the hosts.
const RECOVERY: &str = "# recovery: ";

/// An identity. Its `Debug` has no key.
pub(crate) struct Identity {
    /// Where it is from, for people.
    pub(crate) source: String,
    /// The folder of the files beside it; `None` when it came as a line.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) facts: Facts,
    /// The fleet's recovery recipient, if whoever issued it had it.
    pub(crate) recovery: Option<String>,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "identity {} of {}", self.facts.name, self.source)
    }
}

/// The text of an identity: these blocks, and whom its owner encrypts secrets to.
pub(crate) fn text(blocks: &[&str], home: &Home) -> Result<Zeroizing<String>, CtlError> {
    let recovery = home.text(home::RECOVERY)?;
    Ok(joined(blocks, recovery.as_deref()))
}

/// The same, of a recipient that is at hand.
pub(crate) fn joined(blocks: &[&str], recovery: Option<&str>) -> Zeroizing<String> {
    let line = recovery.map(|recipient| format!("{RECOVERY}{}\n", recipient.trim())).unwrap_or_default();
    // At once as long as it gets: no copy stays behind.
    let length = blocks.iter().map(|block| block.len()).sum::<usize>() + line.len();
    let mut text = Zeroizing::new(String::with_capacity(length));
    blocks.iter().copied().chain([line.as_str()]).for_each(|part| text.push_str(part));
    text
}

impl Identity {
    /// The identity of this command: what the flag or `DEPLOYD_IDENTITY` says, else that of the operator's folder.
    pub(crate) fn find(given: Option<&str>) -> Result<Self, CtlError> {
        if let Some(given) = given.map(str::trim).filter(|g| !g.is_empty()) {
            let decoded = STANDARD.decode(given).ok().map(Zeroizing::new);
            return match decoded.filter(|text| text.starts_with(BEGIN)) {
                Some(text) => Self::parse(&text, "DEPLOYD_IDENTITY", None),
                None => Self::read(Path::new(given)),
            };
        }
        Self::read(&Home::find()?.path(home::IDENTITY))
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, CtlError> {
        // A line that lost its end is no path, and must not be printed as one.
        let shown = path.display().to_string();
        let shown = if shown.len() > 512 { "DEPLOYD_IDENTITY".to_owned() } else { shown };
        let text = fs::read(path).map(Zeroizing::new).map_err(|e| {
            let next = "an admin makes one: deployd-ctl pki issue NAME --role ROLE; for a new fleet: \
                        deployd-ctl pki init; on the host itself: --local";
            answer(
                invalid("there is no identity to call hosts with", next)
                    .cause("what", e.kind().to_string())
                    .cause("where", shown.clone()),
            )
        })?;
        Self::parse(&text, &shown, path.parent().map(Path::to_owned))
    }

    /// Reads its text: the blocks may stand in any order, but the certificate before that of the CA.
    fn parse(text: &[u8], source: &str, folder: Option<PathBuf>) -> Result<Self, CtlError> {
        let wrong = |what: String| {
            let next = "it must have a certificate, its key and the CA's certificate, as pki issue writes it";
            answer(invalid(format!("{source} is not an identity"), next).cause("what", what))
        };
        let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
        let mut certificates = certificates.map_err(|e| wrong(e.to_string()))?.into_iter();
        let (Some(certificate), Some(ca)) = (certificates.next(), certificates.next()) else {
            return Err(wrong("it has no two certificates".to_owned()));
        };
        let key =
            PrivateKeyDer::from_pem_slice(text).map_err(|_| wrong("it has no private key".to_owned()))?;
        let facts = Facts::of(&certificate).map_err(wrong)?;
        let lines = String::from_utf8_lossy(text);
        let recovery =
            lines.lines().find_map(|line| line.strip_prefix(RECOVERY)).map(|r| r.trim().to_owned());
        Ok(Self { source: source.to_owned(), folder, facts, recovery, certificate, ca, key })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Refuses an identity that no host would take, before any is called.
    pub(crate) fn must_be_valid(&self, now: Timestamp) -> Result<(), CtlError> {
        let facts = &self.facts;
        let refuse = |message: String, hint: &str| {
            let place = self.source.clone();
            Err(answer(invalid(message, hint).about(facts.name.clone()).cause("where", place)))
        };
        if facts.host.is_some() {
            let message = format!("the certificate of {} is a host's, and a host's is no client", facts.name);
            return refuse(message, "use an operator's: deployd-ctl pki issue NAME --role ROLE");
        }
        if now > facts.not_after {
            let ago = -days_left(facts.not_after, now) - 1;
            let message = format!("your identity {} expired {ago} d ago", facts.name);
            return refuse(
                message,
                "where the CA is: deployd-ctl pki renew; elsewhere an admin issues another",
            );
        }
        if now < facts.not_before {
            let message = format!("your identity {} is not valid yet", facts.name);
            return refuse(message, "set the clock of this machine: timedatectl");
        }
        Ok(())
    }
}
