//! What a certificate or a list of revoked ones says. Reading only: whether it is to be believed is the verifier's.

use std::collections::BTreeSet;

use deployd_api::access;
use deployd_api::fleet::CertificateInfo;
use deployd_api::ids::{HostName, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::TlsError;

/// The number of a certificate, without zeros in front: two ways to write it are one.
pub type Serial = Vec<u8>;

/// What the parts of a certificate are that we go by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub name: Option<String>,
    /// Its URIs.
    pub uris: Vec<String>,
    /// What it may be used for, if it says so.
    pub usage: Option<Usage>,
    /// Its number.
    pub serial: Serial,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Only to call.
    Client,
    /// Only to be called.
    Server,
    /// Both, or something else as well.
    Other,
}

impl Certificate {
    /// Reads it.
    pub fn read(der: &[u8]) -> Result<Self, TlsError> {
        let fail = |why: String| TlsError::Malformed { what: "the certificate", why };
        let (_, parsed) = X509Certificate::from_der(der).map_err(|e| fail(e.to_string()))?;
        let subject = parsed.subject().iter_common_name().next();
        let name = subject.and_then(|name| name.as_str().ok()).map(str::to_owned);
        let names = parsed.subject_alternative_name().map_err(|e| fail(e.to_string()))?;
        let names = names.map(|found| found.value.general_names.as_slice()).unwrap_or_default();
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        };
        let usage = parsed.extended_key_usage().map_err(|e| fail(e.to_string()))?.map(|found| {
            let more = found.value.any || !found.value.other.is_empty();
            match (found.value.client_auth, found.value.server_auth) {
                (true, false) if !more => Usage::Client,
                (false, true) if !more => Usage::Server,
                _ => Usage::Other,
            }
        });
        Ok(Self {
            name,
            uris: names.iter().filter_map(uri).collect(),
            usage,
            serial: serial(parsed.raw_serial()),
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
        })
    }

    /// The host that it is of.
    pub fn host(&self) -> Option<HostName> {
        self.uris.iter().find_map(|uri| access::host_of_uri(uri))
    }

    /// For people.
    pub fn info(&self) -> CertificateInfo {
        CertificateInfo { serial: hex(&self.serial), not_before: self.not_before, not_after: self.not_after }
    }
}

/// What a list of revoked certificates says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Its number, which grows.
    pub number: Serial,
    /// When it was made.
    pub made: Timestamp,
    /// When the next one was to come.
    pub next: Option<Timestamp>,
    /// The numbers of the certificates.
    pub serials: BTreeSet<Serial>,
}

impl Revoked {
    /// Reads it.
    pub fn read(der: &[u8]) -> Result<Self, TlsError> {
        let fail = |why: String| TlsError::Malformed { what: "the list of revoked certificates", why };
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            number: parsed.crl_number().map(|number| serial(&number.to_bytes_be())).unwrap_or_default(),
            made: moment(parsed.last_update()),
            next: parsed.next_update().map(moment),
            serials: parsed.iter_revoked_certificates().map(|one| serial(one.raw_serial())).collect(),
        })
    }

    /// Whether it would forgive what a newer one may have revoked.
    pub fn is_older_than(&self, other: &Self) -> bool {
        let rank = |list: &Self| (list.number.len(), list.number.clone());
        rank(self) < rank(other)
    }
}

fn serial(raw: &[u8]) -> Serial {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].to_vec()
}

/// As hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Years before 1970 are the beginning of time.
fn moment(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}
