//! Who a caller is: the name and the roles that its certificate gives. What is no caller is nothing else either.

use deployd_api::access::{Role, host_of_uri};
use deployd_api::ids::Timestamp;

use super::certificate::{Certificate, Serial, Usage};

/// Longest name of a caller: it ends up in logs and records.
const NAME_MAX: usize = 64;

/// A caller, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// What it may do. Words of a newer version give nothing.
    pub roles: Vec<Role>,
    /// The number of its certificate.
    pub serial: Serial,
    /// Until when that is valid.
    pub not_after: Timestamp,
}

/// Why a certificate of the fleet is no caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotACaller {
    /// It is that of a host.
    #[error("the certificate is a host's, and hosts are no callers")]
    Host,
    /// It is not made for calling alone.
    #[error("the certificate is not made for clients alone")]
    Usage,
    /// It has no name that could be written down.
    #[error("the certificate names nobody")]
    Nameless,
}

impl Peer {
    /// The caller of a certificate that the fleet's CA has signed.
    pub fn of(certificate: &Certificate) -> Result<Self, NotACaller> {
        if certificate.uris.iter().any(|uri| host_of_uri(uri).is_some()) {
            return Err(NotACaller::Host);
        }
        match certificate.usage {
            Some(Usage::Client) => {}
            Some(Usage::Server) => return Err(NotACaller::Host),
            Some(Usage::Other) | None => return Err(NotACaller::Usage),
        }
        let plain = |name: &&String| {
            (1..=NAME_MAX).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic())
        };
        let name = certificate.name.as_ref().filter(plain).ok_or(NotACaller::Nameless)?;
        Ok(Self {
            name: name.clone(),
            roles: certificate.uris.iter().filter_map(|uri| Role::of_uri(uri)).collect(),
            serial: certificate.serial.clone(),
            not_after: certificate.not_after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: Option<&str>, uris: &[&str], usage: Option<Usage>) -> Certificate {
        Certificate {
            name: name.map(str::to_owned),
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            usage,
            serial: vec![7],
            not_before: Timestamp(0),
            not_after: Timestamp(9),
        }
    }

    #[test]
    fn roles_are_those_of_the_certificate_and_words_of_the_future_give_none() {
        let uris = ["deployd://role/deployer/shop", "deployd://role/janitor", "https://example.org"];
        let peer = Peer::of(&certificate(Some("ci"), &uris, Some(Usage::Client))).unwrap();
        assert_eq!((peer.name.as_str(), peer.roles), ("ci", vec![Role::Deployer("shop".parse().unwrap())]));
    }

    #[test]
    fn what_is_no_caller() {
        let admin = ["deployd://role/admin"];
        let both = ["deployd://role/admin", "deployd://host/web1"];
        for (name, uris, usage, why) in [
            (Some("web1"), &both[1..], Some(Usage::Server), NotACaller::Host),
            (Some("web1"), &both[..], Some(Usage::Client), NotACaller::Host),
            (Some("ops"), &admin[..], Some(Usage::Server), NotACaller::Host),
            (Some("ops"), &admin[..], Some(Usage::Other), NotACaller::Usage),
            (Some("ops"), &admin[..], None, NotACaller::Usage),
            (None, &admin[..], Some(Usage::Client), NotACaller::Nameless),
            (Some(""), &admin[..], Some(Usage::Client), NotACaller::Nameless),
            (Some("ops\nroot"), &admin[..], Some(Usage::Client), NotACaller::Nameless),
        ] {
            assert_eq!(Peer::of(&certificate(name, uris, usage)), Err(why), "{name:?} {uris:?}");
        }
    }
}
