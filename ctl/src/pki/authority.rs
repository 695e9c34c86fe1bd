//! The CA of a fleet: made once, opened with its passphrase, signing certificates and the list of revoked ones.
//!
//! Of a request only the public key is taken: names, roles and uses are what the operator asked for.

use std::time::Duration;

use age::secrecy::SecretString;
use deployd_api::access::{Role, host_uri};
use deployd_api::ids::{HostName, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::facts::{Facts, unhex};
use super::issued::{self, Issued};
use super::{Home, answer, broken, home, invalid, sealed};
use crate::error::CtlError;

const DAY: Duration = Duration::from_hours(24);
/// Certificates begin this long ago: clocks differ.
const BACK: Duration = Duration::from_hours(25);
/// How long a host's certificate holds.
pub(crate) const HOST_TTL: Duration = DAY.saturating_mul(90);
/// How long an operator's does, unless they say otherwise.
pub(crate) const OPERATOR_TTL: Duration = DAY.saturating_mul(365);
/// How long the CA does, and its lists.
const CA_TTL: Duration = DAY.saturating_mul(3650);

/// A CA whose key is open.
pub(crate) struct Authority {
    home: Home,
    ca_pem: String,
    ca_ends: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CA of {}", self.home.shown())
    }
}

/// A new fleet's CA, not yet written.
pub(crate) struct NewAuthority {
    pub(crate) authority: Authority,
    /// Its key, to be encrypted.
    pub(crate) key_pem: Zeroizing<String>,
}

/// A certificate, just signed.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) pem: String,
    pub(crate) facts: Facts,
}

impl Authority {
    /// Makes one. Nothing is written.
    pub(crate) fn create(home: &Home, fleet: &str, now: Timestamp) -> Result<NewAuthority, CtlError> {
        let key = new_key()?;
        let mut params = blank(fleet, now, CA_TTL)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(|e| broken("make the CA", e))?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let authority = Self::with(home, certificate.pem(), key)?;
        Ok(NewAuthority { authority, key_pem })
    }

    /// Opens the CA of this folder.
    pub(crate) fn open(home: &Home, passphrase: &SecretString) -> Result<Self, CtlError> {
        let (ca_pem, key) = Self::files(home)?;
        let name = home.path(home::CA_KEY).display().to_string();
        let plain = sealed::open(&key, passphrase, &name)?;
        let text = std::str::from_utf8(&plain).map_err(|e| broken("read the key of the CA", e))?;
        let key = KeyPair::from_pem(text).map_err(|e| broken("read the key of the CA", e))?;
        Self::with(home, ca_pem, key)
    }

    /// The files of a CA; told before anybody types a passphrase.
    pub(crate) fn files(home: &Home) -> Result<(String, Vec<u8>), CtlError> {
        match (home.text(home::CA)?, home.read(home::CA_KEY)?) {
            (Some(ca), Some(key)) => Ok((ca, key)),
            _ => Err(answer(
                invalid(
                    "the CA of the fleet is not here",
                    "run it where it is, with DEPLOYD_HOME if it has another folder; for a new fleet: \
                     deployd-ctl pki init",
                )
                .cause("where", format!("{} and {}", home.path(home::CA).display(), home::CA_KEY)),
            )),
        }
    }

    fn with(home: &Home, ca_pem: String, key: KeyPair) -> Result<Self, CtlError> {
        let wrong = |e: rcgen::Error| broken("read the CA", e);
        let facts = certificate_facts(&ca_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(wrong)?;
        Ok(Self { home: home.clone(), ca_pem, ca_ends: facts.not_after, issuer })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// An operator's certificate for this key.
    pub(crate) fn operator(
        &self,
        name: &str,
        roles: &[Role],
        ttl: Duration,
        key: &impl PublicKeyData,
        now: Timestamp,
    ) -> Result<Signed, CtlError> {
        let mut params = blank(name, now, ttl)?;
        for role in roles {
            let uri = role.uri().try_into().map_err(|e| broken("name a role", e))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, key)
    }

    /// A host's certificate for the key of its request.
    pub(crate) fn host(&self, name: &HostName, request: &str, now: Timestamp) -> Result<Signed, CtlError> {
        let key = public_key(request)?;
        let mut params = blank(name.as_str(), now, HOST_TTL)?;
        let dns = name.as_str().try_into().map_err(|e| broken("name the host", e))?;
        let uri = host_uri(name).try_into().map_err(|e| broken("name the host", e))?;
        params.subject_alt_names = vec![SanType::DnsName(dns), SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, &key)
    }

    /// What a host installs: its certificate, the CA's, the list of what is revoked.
    pub(crate) fn bundle(&self, signed: &Signed) -> Result<String, CtlError> {
        let crl = self.home.text(home::CRL)?;
        let crl =
            crl.ok_or_else(|| broken("read the list of revoked certificates", "crl.pem is not there"))?;
        Ok([&signed.pem, &self.ca_pem, &crl].map(|part| part.trim_end().to_owned() + "\n").concat())
    }

    fn sign(&self, mut params: CertificateParams, key: &impl PublicKeyData) -> Result<Signed, CtlError> {
        // Nothing outlives the CA.
        let ends = moment(self.ca_ends);
        params.not_after = params.not_after.min(ends);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|e| broken("sign", e))?;
        let facts = facts_of(&certificate)?;
        Ok(Signed { pem: certificate.pem(), facts })
    }

    /// Writes down that it was issued. Before it is handed out: what is not in the list cannot be revoked.
    pub(crate) fn record(&self, signed: &Signed) -> Result<(), CtlError> {
        issued::add(&self.home, Issued::of(&signed.facts))
    }

    /// The list of what is revoked, as PEM.
    pub(crate) fn revocations(&self, list: &[Issued], now: Timestamp) -> Result<String, CtlError> {
        let revoked = |issued: &Issued| {
            let serial = SerialNumber::from(unhex(&issued.serial)?);
            let time = moment(issued.revoked?);
            Some(RevokedCertParams {
                serial_number: serial,
                revocation_time: time,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: moment(now) - BACK,
            next_update: moment(now) + CA_TTL,
            crl_number: SerialNumber::from(now.0),
            issuing_distribution_point: None,
            revoked_certs: list.iter().filter_map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&self.issuer).and_then(|list| list.pem());
        signed.map_err(|e| broken("sign the list of revoked certificates", e))
    }
}

/// A key for somebody, P-256.
pub(crate) fn new_key() -> Result<KeyPair, CtlError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| broken("make a key", e))
}

/// The public key of a request, whose signature proves that the asker has the other half.
pub(crate) fn public_key(request: &str) -> Result<rcgen::PublicKey, CtlError> {
    let parsed = CertificateSigningRequestParams::from_pem(request);
    parsed.map(|p| p.public_key).map_err(|e| {
        let next =
            "it must begin with -----BEGIN CERTIFICATE REQUEST-----; on a host: deployd enroll request NAME";
        answer(invalid("this is no certificate request", next).cause("what", e.to_string()))
    })
}

/// What the first certificate of a PEM text says.
pub(crate) fn certificate_facts(pem: &str) -> Result<Facts, CtlError> {
    use rustls_pki_types::pem::PemObject;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|e| broken("read a certificate", e))?;
    Facts::of(&der).map_err(|e| broken("read a certificate", e))
}

fn facts_of(certificate: &Certificate) -> Result<Facts, CtlError> {
    Facts::of(certificate.der()).map_err(|e| broken("read what was signed", e))
}

/// A certificate of this name and these days, for no use yet.
fn blank(name: &str, now: Timestamp, ttl: Duration) -> Result<CertificateParams, CtlError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from(serial()?));
    params.not_before = moment(now) - BACK;
    params.not_after = moment(now) + ttl;
    Ok(params)
}

/// 16 random bytes; the first bit is 0, so that no reader takes it for a negative number.
fn serial() -> Result<Vec<u8>, CtlError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|e| broken("make a serial number", e))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(bytes.to_vec())
}

/// Certificates know seconds.
fn moment(at: Timestamp) -> OffsetDateTime {
    date_time_ymd(1970, 1, 1) + Duration::from_secs(at.0 / 1000)
}
