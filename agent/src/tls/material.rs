//! The files of the host's TLS folder, checked against one another, and the server's config made from them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use deployd_api::ids::{HostName, Timestamp};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use super::certificate::{Certificate, Revoked, Usage};
use super::{Peer, TlsError, provider, unix_time};

/// The host's certificate.
pub const HOST_CERTIFICATE: &str = "host.pem";
/// The host's key; it never leaves the host.
pub const HOST_KEY: &str = "host.key";
/// The certificate of the fleet's CA.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The list of revoked certificates.
pub const REVOKED: &str = "crl.pem";

/// What the files hold, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// The text of each: host, CA, list of revoked ones, key.
    pub host: String,
    /// The certificate of the fleet's CA.
    pub ca: String,
    /// The list of revoked certificates.
    pub revoked: String,
    /// The key of the host.
    pub key: Zeroizing<String>,
}

/// Whether an expired certificate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// It is: something new is taken in.
    Refused,
    /// It is not: whoever can tell that it has expired must be answered to mend it.
    Told,
}

/// Files that fit together, ready to serve with.
#[derive(Debug)]
pub struct Loaded {
    /// The server's config.
    pub config: Arc<ServerConfig>,
    /// The host's certificate.
    pub certificate: Certificate,
    /// The host's name.
    pub host: HostName,
    /// Whether the list of revoked ones names the host itself.
    pub is_revoked: bool,
    /// The revoked ones.
    pub revoked: Revoked,
    /// What it was made of.
    pub material: Material,
}

impl Material {
    /// Reads the folder. `None` when there is no certificate: the host is not enrolled.
    pub fn read(dir: &Path) -> Result<Option<Self>, TlsError> {
        let host = match read(dir, HOST_CERTIFICATE) {
            Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        Ok(Some(Self {
            host,
            ca: read(dir, CA_CERTIFICATE)?,
            revoked: read(dir, REVOKED)?,
            key: Zeroizing::new(read(dir, HOST_KEY)?),
        }))
    }

    /// Checks everything: that the parts fit, and that a caller of the same fleet would believe this host.
    pub fn load(self, now: Timestamp, expired: Expired) -> Result<Loaded, TlsError> {
        let chain: Vec<CertificateDer<'static>> = certificates(&self.host, "the host's certificate")?;
        let ca: Vec<CertificateDer<'static>> = certificates(&self.ca, "the CA's certificate")?;
        let list = CertificateRevocationListDer::from_pem_slice(self.revoked.as_bytes())
            .map_err(|e| malformed("the list of revoked certificates", e))?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| malformed("the host's key", e))?;
        let certificate = Certificate::read(&chain[0])?;
        let host = host_of(&certificate)?;
        let revoked = Revoked::read(&list)?;
        let roots = Arc::new(roots(ca)?);
        let at = match expired {
            Expired::Refused => now,
            Expired::Told => Timestamp(now.0.clamp(certificate.not_before.0, certificate.not_after.0)),
        };
        let found = prove(&roots, &list, &chain, &host, at);
        let is_revoked = match (found, expired) {
            (Ok(()), _) => false,
            (Err(rustls::Error::InvalidCertificate(CertificateError::Revoked)), Expired::Told) => true,
            (Err(e), _) => return Err(unfit("the host's certificate is not good", e)),
        };
        let config = server(roots, list, chain, key)?;
        Ok(Loaded { config: Arc::new(config), certificate, host, is_revoked, revoked, material: self })
    }
}

impl Loaded {
    /// Whether a caller that was let in may go on.
    pub fn admits(&self, peer: &Peer, ca: &str, now: Timestamp) -> Result<(), &'static str> {
        if self.revoked.serials.contains(&peer.serial) {
            return Err("the certificate was revoked");
        }
        if peer.not_after < now {
            return Err("the certificate has expired");
        }
        if self.material.ca != ca {
            return Err("the certificate is of another fleet");
        }
        Ok(())
    }
}

fn read(dir: &Path, name: &str) -> Result<String, TlsError> {
    let path = dir.join(name);
    std::fs::read_to_string(&path).map_err(|source| TlsError::Read { path, source })
}

fn malformed(what: &'static str, why: impl std::fmt::Display) -> TlsError {
    TlsError::Malformed { what, why: why.to_string() }
}

fn unfit(what: &'static str, why: impl std::fmt::Display) -> TlsError {
    TlsError::Unfit { what, why: why.to_string() }
}

/// At least one.
fn certificates(text: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|e| malformed(what, e))?;
    if found.is_empty() {
        return Err(malformed(what, "there is no CERTIFICATE block"));
    }
    Ok(found)
}

/// A certificate of a host, and of nothing else.
fn host_of(certificate: &Certificate) -> Result<HostName, TlsError> {
    let what = "the certificate is not a host's";
    if certificate.usage != Some(Usage::Server) {
        return Err(unfit(what, "it is not made for servers alone"));
    }
    certificate.host().ok_or_else(|| unfit(what, "it has no URI deployd://host/NAME"))
}

fn roots(ca: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate).map_err(|e| unfit("the CA's certificate is not good", e))?;
    }
    Ok(roots)
}

/// What a caller will do with the host's certificate.
fn prove(
    roots: &Arc<RootCertStore>,
    list: &CertificateRevocationListDer<'static>,
    chain: &[CertificateDer<'static>],
    host: &HostName,
    at: Timestamp,
) -> Result<(), rustls::Error> {
    let wrong = |e: &dyn std::fmt::Display| rustls::Error::General(e.to_string());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider())
        .with_crls([list.clone()])
        .only_check_end_entity_revocation()
        .build()
        .map_err(|e| wrong(&e))?;
    let name = ServerName::try_from(host.as_str()).map_err(|e| wrong(&e))?;
    verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], unix_time(at)).map(|_| ())
}

fn server(
    roots: Arc<RootCertStore>,
    list: CertificateRevocationListDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let wrong = |e: rustls::Error| unfit("the certificate does not fit the host's key", e);
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
        .and_then(|pair| pair.keys_match())
        .map_err(wrong)?;
    // A list past its time still says who is revoked; that it is old is told, and refuses nobody.
    let callers = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .with_crls([list])
        .only_check_end_entity_revocation()
        .build()
        .map_err(|e| unfit("callers cannot be told apart", e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(wrong)?
        .with_client_cert_verifier(callers)
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not look at the list of revoked certificates.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}
