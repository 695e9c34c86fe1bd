//! Certificates of the rig's own: right ones, and each kind of wrong one. They follow what the documentation says of
//! a fleet's certificates; nothing of deployd makes them.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A person or a job, and its roles: `admin`, `viewer`, `deployer/shop`.
    Client(String, Vec<String>),
    /// A host by its name.
    Host(String),
}

/// A certificate that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    usage: Usage,
    begins: SystemTime,
    ends: SystemTime,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The key, PEM.
    pub key: String,
    /// The serial number.
    pub serial: Vec<u8>,
}

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    /// How many hours the clock of its machine is ahead.
    ahead: i64,
}

impl Usage {
    /// As ctl would ask for it: valid since yesterday, for a month.
    pub fn usual(self) -> Wanted {
        let now = SystemTime::now();
        let begins = now - Duration::from_secs(25 * HOUR);
        Wanted { usage: self, begins, ends: now + Duration::from_secs(30 * DAY) }
    }
}

impl Wanted {
    /// One whose time begins and ends so many hours from now.
    #[must_use]
    pub fn between(mut self, begins: i64, ends: i64) -> Self {
        let now = SystemTime::now();
        (self.begins, self.ends) = (moved(now, begins), moved(now, ends));
        self
    }

    fn fill(&self, params: &mut CertificateParams, serial: &[u8], ahead: i64) -> Result<()> {
        let (name, purpose) = match &self.usage {
            Usage::Client(name, _) => (name, ExtendedKeyUsagePurpose::ClientAuth),
            Usage::Host(name) => (name, ExtendedKeyUsagePurpose::ServerAuth),
        };
        params.subject_alt_names = match &self.usage {
            Usage::Client(_, roles) => {
                let uri = |role: &String| Ok(SanType::URI(format!("deployd://role/{role}").try_into()?));
                roles.iter().map(uri).collect::<Result<_>>()?
            }
            Usage::Host(name) => vec![
                SanType::DnsName(name.clone().try_into()?),
                SanType::URI(format!("deployd://host/{name}").try_into()?),
            ],
        };
        params.distinguished_name = named(name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = moved(self.begins, ahead).into();
        params.not_after = moved(self.ends, ahead).into();
        Ok(())
    }
}

impl Identity {
    /// The file of an operator: certificate, key, and the authority's certificate.
    pub fn file(&self, authority: &Authority) -> String {
        format!("{}{}{}", self.certificate, self.key, authority.certificate())
    }
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(2 * DAY)).into();
        params.not_after = (now + Duration::from_secs(365 * DAY)).into();
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate, ahead: 0 })
    }

    /// From now on it signs on a machine whose clock is so many hours ahead (behind, when negative).
    pub fn set_clock(&mut self, ahead: i64) {
        self.ahead = ahead;
    }

    fn now(&self) -> SystemTime {
        moved(SystemTime::now(), self.ahead)
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.certificate.clone()
    }

    /// Issues a certificate with a key of its own.
    pub fn issue(&self, wanted: &Wanted) -> Result<Identity> {
        let (key, serial) = (KeyPair::generate()?, serial()?);
        let mut params = CertificateParams::default();
        wanted.fill(&mut params, &serial, self.ahead)?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem(), serial })
    }

    /// Answers a request: only its key is taken over.
    pub fn sign(&self, request: &str, wanted: &Wanted) -> Result<String> {
        let mut request =
            CertificateSigningRequestParams::from_pem(request).context("the request is none")?;
        wanted.fill(&mut request.params, &serial()?, self.ahead)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// The list of these certificates as revoked, PEM.
    pub fn revoke(&self, serials: &[&[u8]]) -> Result<String> {
        let now = self.now();
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(HOUR)).into(),
            next_update: (now + Duration::from_secs(30 * DAY)).into(),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

fn moved(time: SystemTime, hours: i64) -> SystemTime {
    let span = Duration::from_secs(hours.unsigned_abs() * HOUR);
    if hours < 0 { time - span } else { time + span }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Sixteen bytes; the first bit is 0, or the number would be negative.
fn serial() -> Result<Vec<u8>> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_and_lists_signed() -> Result<()> {
        let authority = Authority::new("rig")?;
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?.pem()?;
        let certificate = authority.sign(&request, &Usage::Host("web1".to_owned()).usual())?;
        assert!(certificate.contains("BEGIN CERTIFICATE"));
        let client = authority.issue(&Usage::Client("a".to_owned(), vec!["viewer".to_owned()]).usual())?;
        assert_eq!(client.file(&authority).matches("-----BEGIN ").count(), 3);
        assert!(authority.revoke(&[&client.serial])?.contains("X509 CRL"));
        Ok(())
    }
}
