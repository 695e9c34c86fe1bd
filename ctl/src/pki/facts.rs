//! What a certificate says, for people and for decisions.

use deployd_api::access::{Role, host_of_uri};
use deployd_api::ids::{HostName, Timestamp};
use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A certificate, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// The common name.
    pub(crate) name: String,
    /// In hexadecimal digits.
    pub(crate) serial: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// What an operator may do.
    pub(crate) roles: Vec<Role>,
    /// The host it is of.
    pub(crate) host: Option<HostName>,
    /// Common name of the CA.
    pub(crate) issuer: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) fingerprint: String,
}

impl Facts {
    /// Reads a certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
        let moment = |seconds: i64| Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        let common = |name: &x509_parser::x509::X509Name<'_>| {
            let first = name.iter_common_name().next().and_then(|n| n.as_str().ok());
            first.unwrap_or_default().to_owned()
        };
        let names = parsed.subject_alternative_name().map_err(|e| e.to_string())?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        Ok(Self {
            name: common(parsed.subject()),
            serial: serial(parsed.raw_serial()),
            not_before: moment(parsed.validity().not_before.timestamp()),
            not_after: moment(parsed.validity().not_after.timestamp()),
            roles: uris.iter().filter_map(|uri| Role::of_uri(uri)).collect(),
            host: uris.iter().find_map(|uri| host_of_uri(uri)),
            issuer: common(parsed.issuer()),
            fingerprint: hex(digest(&SHA256, certificate).as_ref()),
        })
    }

    /// `viewer, deployer/shop`.
    pub(crate) fn roles_text(&self) -> String {
        self.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Whole days from now until then; negative when it was before.
pub(crate) fn days_left(until: Timestamp, now: Timestamp) -> i64 {
    if until.0 >= now.0 {
        (until.since_ms(now) / DAY_MS) as i64
    } else {
        -((now.since_ms(until) / DAY_MS) as i64) - 1
    }
}

/// `88 d`, or `ended`.
pub(crate) fn days_text(until: Timestamp, now: Timestamp) -> String {
    match days_left(until, now) {
        0.. => format!("{} d", days_left(until, now)),
        _ => "ended".to_owned(),
    }
}

/// A serial number in the form that we write everywhere: hexadecimal, without the zero that DER puts before a
/// high first bit.
pub(crate) fn serial(raw: &[u8]) -> String {
    let start = raw.iter().position(|b| *b != 0).unwrap_or(raw.len());
    hex(&raw[start..])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or('0');
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// From hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let even = text.len().is_multiple_of(2) && text.is_ascii();
    let pairs = (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok());
    if even { pairs.collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_negative_when_past() {
        let day = |n: u64| Timestamp(n * DAY_MS);
        for (until, now, want) in
            [(day(10), day(3), 7), (Timestamp(1), Timestamp(0), 0), (day(3), day(3), 0), (day(3), day(5), -3)]
        {
            assert_eq!(days_left(until, now), want);
        }
        assert_eq!(days_text(day(2), day(5)), "ended");
    }

    #[test]
    fn serials_have_one_form() {
        assert_eq!(serial(&[0, 0x80, 1]), "8001");
        assert_eq!(unhex("8001"), Some(vec![0x80, 1]));
        assert_eq!((unhex("8"), unhex("zz")), (None, None));
    }
}
