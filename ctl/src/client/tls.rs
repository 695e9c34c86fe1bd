//! The TLS of an operator: TLS 1.3 with the identity's certificate, hosts by the fleet's CA; and what it
//! means when one side refuses the other.

use std::error::Error;
use std::io;
use std::sync::Arc;

use deployd_api::error::{ErrorBody, ErrorCode};
use rustls::client::WebPkiServerVerifier;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::CertificateRevocationListDer;

use crate::error::CtlError;
use crate::fleet::Address;
use crate::pki::Identity;

/// The TLS of this identity. Hosts whose certificate the list revokes are refused.
pub(crate) fn config(
    identity: &Identity,
    revoked: Option<CertificateRevocationListDer<'static>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca().clone())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(revoked)
        .allow_unknown_revocation_status()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.key())?;
    // A resumed session would not see that a certificate was revoked.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What TLS said, anywhere among the causes of an error.
pub(super) fn cause_of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next: Option<&'e (dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // `io::Error` shows as its source what its content has as source, not the content itself.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// A refusal, told as what, where, why and next.
pub(super) fn refused(host: &str, address: &Address, cause: &rustls::Error) -> CtlError {
    let (message, why, hint) = match cause {
        rustls::Error::InvalidCertificate(problem) => of_host(host, problem),
        rustls::Error::AlertReceived(alert) => of_caller(host, *alert),
        other => (
            format!("no TLS with {host}"),
            other.to_string(),
            format!("is it the agent's port? On {host}: systemctl status deployd.socket"),
        ),
    };
    let body = ErrorBody::new(ErrorCode::CertificateInvalid, message, hint)
        .about(host)
        .cause("what", why)
        .cause("where", format!("{host}, {address}"));
    CtlError::Answer(Box::new(body))
}

type Told = (String, String, String);

/// The host's certificate is not what it must be.
fn of_host(host: &str, problem: &CertificateError) -> Told {
    use CertificateError as E;
    let renew = format!("deployd-ctl hosts add {host} --ssh root@ADDRESS gives it a new one");
    match problem {
        E::UnknownIssuer | E::BadSignature => (
            format!("{host} is not a host of your fleet"),
            "its certificate was not signed by the CA of your identity".to_owned(),
            "look at the address in fleet.toml, and whose identity you use: deployd-ctl pki show".to_owned(),
        ),
        E::NotValidForName => wrong_name(host, &[]),
        E::NotValidForNameContext { presented, .. } => wrong_name(host, presented),
        E::Expired | E::ExpiredContext { .. } => {
            (format!("the certificate of {host} has expired"), problem.to_string(), renew)
        }
        E::NotValidYet | E::NotValidYetContext { .. } => (
            format!("the certificate of {host} is not valid yet"),
            problem.to_string(),
            "compare the clocks of this machine and of the host: timedatectl".to_owned(),
        ),
        E::Revoked => (
            format!("the certificate of {host} is revoked"),
            "the list of revoked certificates beside your identity has it".to_owned(),
            renew,
        ),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            (format!("{host} shows a certificate that is not a host's"), problem.to_string(), renew)
        }
        _ => (format!("the certificate of {host} is not valid"), problem.to_string(), renew),
    }
}

fn wrong_name(host: &str, presented: &[String]) -> Told {
    let names: Vec<&str> = presented
        .iter()
        .map(|name| name.strip_prefix("DnsName(\"").and_then(|n| n.strip_suffix("\")")).unwrap_or(name))
        .collect();
    let why = match names[..] {
        [] => "its certificate has another name".to_owned(),
        _ => format!("its certificate is that of {}", names.join(", ")),
    };
    let hint = "correct the address in fleet.toml: another host answers there".to_owned();
    (format!("what answers is not {host}"), why, hint)
}

/// The host refused our certificate.
fn of_caller(host: &str, alert: AlertDescription) -> Told {
    use AlertDescription as A;
    let renew = "an admin issues another: deployd-ctl pki issue NAME --role ROLE".to_owned();
    let told = |message: String, why: &str, hint: String| (message, why.to_owned(), hint);
    match alert {
        A::CertificateRevoked => {
            told(format!("{host} refused your identity: it is revoked"), "certificate_revoked", renew)
        }
        A::CertificateExpired => told(
            format!("{host} refused your identity: it has expired, by the host's clock"),
            "certificate_expired",
            "deployd-ctl pki show; if it has days left, compare the clocks: timedatectl".to_owned(),
        ),
        A::UnknownCA | A::DecryptError => told(
            format!("{host} refused your identity: another CA signed it"),
            "unknown_ca: the host belongs to another fleet than your identity",
            "see whose identity you use: deployd-ctl pki show".to_owned(),
        ),
        A::CertificateRequired => {
            told(format!("{host} wants a certificate and got none"), "certificate_required", renew)
        }
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied => told(
            format!("{host} refused your identity"),
            "the certificate is not one of an operator: a host's is no client",
            renew,
        ),
        other => (
            format!("{host} ended the TLS handshake"),
            format!("alert {other:?}"),
            "compare the versions: deployd-ctl --version, deployd --version".to_owned(),
        ),
    }
}
