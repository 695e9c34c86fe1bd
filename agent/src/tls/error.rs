//! What can be wrong with keys, certificates and lists of revoked ones.

use std::io;
use std::path::PathBuf;

use deployd_api::error::{ErrorBody, ErrorCode};

use crate::store::atomic::AtomicError;

/// A failure; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("failed to read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("failed to keep what was made")]
    Write(#[from] AtomicError),
    /// The folder could not be made.
    #[error("failed to make {path}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A PEM block is missing or damaged.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What it is instead.
        why: String,
    },
    /// The parts do not belong together, or are not (or no longer) good.
    #[error("{what}: {why}")]
    Unfit {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The list of revoked certificates is older than the one in force: it would forgive somebody.
    #[error("the list of revoked certificates is number {new}, the host has number {now} already")]
    OlderList {
        /// That of the new one.
        new: String,
        /// That of the one in force.
        now: String,
    },
    /// The host has no certificate.
    #[error("this host is not enrolled: it has no certificate in {path}")]
    NotEnrolled {
        /// Where it should be.
        path: PathBuf,
    },
    /// Making a key or a request.
    #[error("failed to make {what}: {why}")]
    Make {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
}

impl TlsError {
    /// What went wrong, with what is behind it, in one line.
    pub fn told(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }

    /// What to do.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::Write(_) | Self::Folder { .. } => {
                "look at the folder on the host: ls -l /etc/deployd/tls"
            }
            Self::Malformed { .. } => {
                "send PEM: the host's certificate, the CA's certificate and the CA's list of revoked ones"
            }
            Self::Unfit { .. } | Self::Make { .. } => {
                "enrol the host again: deployd-ctl hosts add, or deployd enroll request and install on the host"
            }
            Self::OlderList { .. } => {
                "use the fleet's newest crl.pem: another operator has revoked a certificate since"
            }
            Self::NotEnrolled { .. } => {
                "enrol it: deployd-ctl hosts add, or deployd enroll request on the host"
            }
        }
    }

    /// As an answer.
    pub fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code(), self.told(), self.next())
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Read { .. } | Self::Write(_) | Self::Folder { .. } | Self::Make { .. } => {
                ErrorCode::Internal
            }
            Self::Malformed { .. } => ErrorCode::BadRequest,
            Self::Unfit { .. } => ErrorCode::CertificateInvalid,
            Self::OlderList { .. } | Self::NotEnrolled { .. } => ErrorCode::WrongState,
        }
    }
}
