//! Mutual TLS: the host's certificate, who a caller is, and how both change while the agent runs.
//!
//! | module | does |
//! |---|---|
//! | [`certificate`] | what a certificate or a list of revoked ones says |
//! | [`peer`] | which certificates are callers, and who they are |
//! | [`material`] | the files of `/etc/deployd/tls`, checked against one another; the server's config |
//! | [`trust`] | what is in force: reloaded as a whole or not at all |
//! | [`enroll`] | the host's key, its request for a certificate, the answer |
//! | [`error`] | what was wrong, and what to do |
//!
//! TLS 1.3 only. There are no tickets and no resumed sessions: each handshake looks at the certificate and at the
//! list of revoked ones anew.

pub mod certificate;
pub mod enroll;
pub mod error;
pub mod material;
pub mod peer;
#[cfg(test)]
pub(crate) mod pki;
pub mod trust;

use std::sync::Arc;

use deployd_api::ids::Timestamp;
use rustls::crypto::CryptoProvider;

pub use certificate::Certificate;
pub use error::TlsError;
pub use material::Loaded;
pub use peer::{NotACaller, Peer};
pub use trust::Trust;

/// Where the host's key and certificates are.
pub const TLS_DIR: &str = "/etc/deployd/tls";

/// The one implementation of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A moment as the verifiers take it.
fn unix_time(at: Timestamp) -> rustls_pki_types::UnixTime {
    rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.0))
}
