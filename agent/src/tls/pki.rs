//! A fleet for tests: a CA, hosts that are enrolled, callers of every kind.

use std::path::Path;

use deployd_api::access::{Role, host_uri};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams,
    CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::enroll;
use crate::driver::clock;

/// A CA with what it has signed.
pub(crate) struct Fleet {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a caller shows.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// How a caller's certificate is made.
pub(crate) struct Caller<'a> {
    pub(crate) name: &'a str,
    pub(crate) uris: Vec<String>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) days: (i64, i64),
    pub(crate) serial: u64,
}

impl<'a> Caller<'a> {
    pub(crate) fn with(name: &'a str, roles: &[Role]) -> Self {
        let uris = roles.iter().map(Role::uri).collect();
        Self { name, uris, usages: vec![ExtendedKeyUsagePurpose::ClientAuth], days: (-1, 30), serial: 77 }
    }
}

fn day(params: &mut CertificateParams, (first, last): (i64, i64)) {
    let now = std::time::SystemTime::now();
    let at = |days: i64| {
        let span = std::time::Duration::from_hours(24 * days.unsigned_abs());
        if days < 0 { now - span } else { now + span }
    };
    params.not_before = at(first).into();
    params.not_after = at(last).into();
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "deployd test fleet");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        day(&mut params, (-2, 3650));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(crate) fn ca(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn ca_der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The list number `number`, that ends in so many days.
    pub(crate) fn revoked(&self, number: u64, serials: &[u64], ends_in: i64) -> String {
        let mut time = CertificateParams::default();
        day(&mut time, (-3, ends_in));
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: time.not_before,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: time.not_before,
            next_update: time.not_after,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The certificate for a host's request.
    pub(crate) fn sign(&self, request: &str, host: &str, serial: u64, days: (i64, i64)) -> Certificate {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        let params = &mut request.params;
        params.subject_alt_names = vec![
            SanType::DnsName(host.try_into().unwrap()),
            SanType::URI(host_uri(&host.parse().unwrap()).try_into().unwrap()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        day(params, days);
        request.signed_by(&self.issuer).unwrap()
    }

    /// The answer to a host's request.
    pub(crate) fn bundle(&self, request: &str, host: &str, serial: u64) -> String {
        let host = self.sign(request, host, serial, (-1, 90)).pem();
        format!("{host}{}{}", self.ca(), self.revoked(1, &[], 30))
    }

    /// Makes a folder that of a host of this fleet.
    pub(crate) fn enroll(&self, dir: &Path, host: &str) {
        let request = enroll::request(dir, &host.parse().unwrap()).unwrap();
        enroll::install(dir, &self.bundle(&request, host, 5), clock::now()).unwrap();
    }

    pub(crate) fn caller(&self, caller: &Caller<'_>) -> Identity {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, caller.name);
        let uri = |uri: &String| SanType::URI(uri.as_str().try_into().unwrap());
        params.subject_alt_names = caller.uris.iter().map(uri).collect();
        params.extended_key_usages.clone_from(&caller.usages);
        params.serial_number = Some(SerialNumber::from(caller.serial));
        day(&mut params, caller.days);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity { chain: vec![certificate.der().clone()], key }
    }

    pub(crate) fn admin(&self) -> Identity {
        self.caller(&Caller::with("ops-1", &[Role::Admin]))
    }
}
