//! Enrolment: the host makes its key and a request for a certificate; an operator signs it; the answer is taken in.
//!
//! The key never leaves the host. Nothing is written before everything was checked, and each file is replaced whole.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use deployd_api::fleet::CertificateInfo;
use deployd_api::ids::{HostName, Timestamp};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use zeroize::Zeroizing;

use super::TlsError;
use super::certificate::{Certificate, Revoked, hex};
use super::material::{CA_CERTIFICATE, Expired, HOST_CERTIFICATE, HOST_KEY, Material, REVOKED};
use crate::store::atomic;

/// Largest answer to a request: three PEM blocks, of which the list of revoked ones may be long.
pub const BUNDLE_MAX: u64 = 8 << 20;

/// The host's request for a certificate with this name, as PEM. Makes the key if there is none.
pub fn request(dir: &Path, name: &HostName) -> Result<String, TlsError> {
    let make = |e: rcgen::Error| TlsError::Make { what: "a request", why: e.to_string() };
    let key = key(dir)?;
    let pair = KeyPair::from_pem(&key)
        .map_err(|e| TlsError::Malformed { what: "the host's key", why: e.to_string() })?;
    let mut params = CertificateParams::new([name.as_str().to_owned()]).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.serialize_request(&pair).and_then(|request| request.pem()).map_err(make)
}

/// Takes the answer in: the host's certificate, the CA's, and the list of revoked ones, in any order. Doing it twice
/// is doing it once.
pub fn install(dir: &Path, bundle: &str, now: Timestamp) -> Result<CertificateInfo, TlsError> {
    let material = unpack(bundle, existing_key(dir)?)?;
    let loaded = material.load(now, Expired::Refused)?;
    let new = &loaded.material;
    // The list in force is that of the same CA, or of another fleet that the host leaves.
    if let Ok(Some(old)) = Material::read(dir)
        && old.ca == new.ca
    {
        not_older(&loaded.revoked, &old.revoked)?;
    }
    // The certificate last: the socket unit waits for it.
    for (name, text) in [(CA_CERTIFICATE, &new.ca), (REVOKED, &new.revoked), (HOST_CERTIFICATE, &new.host)] {
        keep(dir, name, text)?;
    }
    Ok(loaded.certificate.info())
}

/// Takes a new list of revoked certificates in. Gives how many it names.
pub fn install_revoked(dir: &Path, list: &str, now: Timestamp) -> Result<usize, TlsError> {
    let missing = || TlsError::NotEnrolled { path: dir.to_owned() };
    let mut material = Material::read(dir)?.ok_or_else(missing)?;
    let old = std::mem::replace(&mut material.revoked, list.to_owned());
    let loaded = material.load(now, Expired::Told)?;
    not_older(&loaded.revoked, &old)?;
    keep(dir, REVOKED, &loaded.material.revoked)?;
    Ok(loaded.revoked.serials.len())
}

fn keep(dir: &Path, name: &str, text: &str) -> Result<(), TlsError> {
    let path = dir.join(name);
    // What is there already need not be written: the folder is watched.
    if fs::read_to_string(&path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    Ok(atomic::write(&path, text.as_bytes(), 0o644)?)
}

/// A list that cannot be read forgives nobody.
fn not_older(new: &Revoked, old: &str) -> Result<(), TlsError> {
    let old = CertificateRevocationListDer::from_pem_slice(old.as_bytes()).ok();
    let old = old.and_then(|der| Revoked::read(&der).ok());
    match old {
        Some(old) if new.is_older_than(&old) => {
            Err(TlsError::OlderList { new: hex(&new.number), now: hex(&old.number) })
        }
        _ => Ok(()),
    }
}

/// Sorts the blocks of a bundle: of its certificates one is a host's, the others are the CA's.
fn unpack(bundle: &str, key: Zeroizing<String>) -> Result<Material, TlsError> {
    let malformed = |why: String| TlsError::Malformed { what: "the answer to the request", why };
    let (mut host, mut ca, mut revoked) = (String::new(), String::new(), String::new());
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(bundle.as_bytes()) {
        let (kind, der) = block.map_err(|e| malformed(e.to_string()))?;
        match kind {
            SectionKind::Certificate => {
                let is_host = Certificate::read(&CertificateDer::from(der.as_slice()))?.host().is_some();
                let into = if is_host { &mut host } else { &mut ca };
                into.push_str(&pem("CERTIFICATE", &der));
            }
            SectionKind::Crl => revoked.push_str(&pem("X509 CRL", &der)),
            // A key that somebody sent by mistake is not kept.
            _ => return Err(malformed("it has a block that is neither a certificate nor a list".to_owned())),
        }
    }
    for (what, text) in [
        ("no certificate of a host", &host),
        ("no certificate of a CA", &ca),
        ("no list of revoked certificates (X509 CRL)", &revoked),
    ] {
        if text.is_empty() {
            return Err(malformed(format!("it has {what}")));
        }
    }
    Ok(Material { host, ca, revoked, key })
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

fn existing_key(dir: &Path) -> Result<Zeroizing<String>, TlsError> {
    let path = dir.join(HOST_KEY);
    fs::read_to_string(&path).map(Zeroizing::new).map_err(|source| TlsError::Read { path, source })
}

/// The host's key: made once, 0600, in a folder that only root may enter.
fn key(dir: &Path) -> Result<Zeroizing<String>, TlsError> {
    match existing_key(dir) {
        Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let folder = |source| TlsError::Folder { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(folder)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(folder)?;
    let made = KeyPair::generate().map_err(|e| TlsError::Make { what: "a key", why: e.to_string() })?;
    let text = Zeroizing::new(made.serialize_pem());
    atomic::write(&dir.join(HOST_KEY), text.as_bytes(), 0o600)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::clock;
    use crate::tls::pki::Fleet;

    fn web1() -> HostName {
        "web1".parse().unwrap()
    }

    fn files(dir: &Path) -> Vec<(String, u32, String)> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), mode, text)
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_host_is_enrolled_and_doing_it_twice_is_doing_it_once() {
        let (etc, fleet) = (tempfile::tempdir().unwrap(), Fleet::new());
        let dir = etc.path().join("tls");
        let request = request(&dir, &web1()).unwrap();
        assert!(request.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{request}");
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
        let bundle = fleet.bundle(&request, "web1", 5);
        let info = install(&dir, &bundle, clock::now()).unwrap();
        assert_eq!(info.serial, "05");
        let once = files(&dir);
        let modes: Vec<(&str, u32)> = once.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        let wanted = [("ca.pem", 0o644), ("crl.pem", 0o644), ("host.key", 0o600), ("host.pem", 0o644)];
        assert_eq!(modes, wanted);
        assert_eq!(install(&dir, &bundle, clock::now()).unwrap(), info);
        assert_eq!(files(&dir), once);
        // The same key asks again.
        let again = super::request(&dir, &web1()).unwrap();
        install(&dir, &fleet.bundle(&again, "web1", 6), clock::now()).unwrap();
        assert_eq!(files(&dir)[2], once[2]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let (etc, fleet, other) = (tempfile::tempdir().unwrap(), Fleet::new(), Fleet::new());
        let dir = etc.path().join("tls");
        let request = request(&dir, &web1()).unwrap();
        let before = files(&dir);
        let stranger = super::request(&etc.path().join("other"), &web1()).unwrap();
        let host = fleet.sign(&request, "web1", 5, (-1, 90)).pem();
        let (ca, list) = (fleet.ca(), fleet.revoked(1, &[], 30));
        for (why, bundle) in [
            ("neither a certificate nor a list", format!("{host}{ca}{list}{}", before[0].2)),
            ("no list of revoked", format!("{host}{ca}")),
            ("no certificate of a CA", format!("{host}{list}")),
            ("no certificate of a host", format!("{ca}{list}")),
            ("no certificate of a host", "rubbish".to_owned()),
            ("fit the host's key", fleet.bundle(&stranger, "web1", 5)),
            ("not good", format!("{host}{}{list}", other.ca())),
            ("not good", format!("{host}{ca}{}", other.revoked(1, &[], 30))),
            ("not good", format!("{}{ca}{list}", fleet.sign(&request, "web1", 5, (-9, -1)).pem())),
            ("not good", format!("{host}{ca}{}", fleet.revoked(2, &[5], 30))),
        ] {
            let error = install(&dir, &bundle, clock::now()).unwrap_err();
            assert!(error.told().contains(why), "{why}: {}", error.told());
            assert!(!error.body().hint.is_empty());
            assert_eq!(files(&dir), before, "{why}");
        }
    }

    #[test]
    fn an_older_list_forgives_nobody() {
        let (etc, fleet) = (tempfile::tempdir().unwrap(), Fleet::new());
        let dir = etc.path().join("tls");
        assert!(matches!(
            install_revoked(&dir, &fleet.revoked(9, &[], 30), clock::now()),
            Err(TlsError::NotEnrolled { .. })
        ));
        fleet.enroll(&dir, "web1");
        let install = |number, serials: &[u64]| {
            install_revoked(&dir, &fleet.revoked(number, serials, 30), clock::now())
        };
        assert_eq!(install(300, &[77]).unwrap(), 1);
        assert_eq!(install(300, &[77]).unwrap(), 1, "the same once more");
        assert!(matches!(install(299, &[]), Err(TlsError::OlderList { .. })));
        assert_eq!(install(301, &[77, 78]).unwrap(), 2);
        let request = super::request(&dir, &web1()).unwrap();
        let old = fleet.bundle(&request, "web1", 6);
        let refused = super::install(&dir, &old, clock::now());
        assert!(matches!(refused, Err(TlsError::OlderList { .. })), "{refused:?}");
        // A list that names the host itself is believed all the same: it is about others, too.
        assert_eq!(install(302, &[5]).unwrap(), 1);
    }
}
