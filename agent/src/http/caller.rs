//! Who calls: a certificate's holder over the network, or root of this host.

use std::net::SocketAddr;

use deployd_api::access::Role;
use deployd_api::release::Origin;

use crate::tls::Peer;

/// Whom a request is from. Each has one, as an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The certificate's name; `root` on the local socket.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Where it calls from; `None` on the local socket.
    pub from: Option<SocketAddr>,
}

impl Caller {
    /// Root of this host, which may do everything.
    pub fn root() -> Self {
        Self { name: "root".to_owned(), roles: vec![Role::Admin], from: None }
    }

    /// The holder of a certificate.
    pub fn remote(peer: &Peer, from: SocketAddr) -> Self {
        Self { name: peer.name.clone(), roles: peer.roles.clone(), from: Some(from) }
    }

    /// Who did it, for the records: a certificate's name, whatever the request says; of root's requests, what they
    /// say.
    pub fn by(&self, said: String) -> String {
        if self.from.is_some() || said.is_empty() { self.name.clone() } else { said }
    }

    /// The same, of a request's origin.
    #[must_use]
    pub fn origin(&self, said: Origin) -> Origin {
        Origin { by: self.by(said.by), ..said }
    }

    /// Its roles, in words.
    pub fn roles_told(&self) -> String {
        if self.roles.is_empty() {
            return "no role".to_owned();
        }
        self.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Where it calls from, in words.
    pub fn from_told(&self) -> String {
        self.from.map_or_else(|| "this host".to_owned(), |from| from.to_string())
    }
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::Timestamp;

    use super::*;

    #[test]
    fn a_certificate_s_name_wins_and_root_may_speak_for_somebody() {
        let peer = Peer { name: "ops-1".into(), roles: vec![], serial: vec![1], not_after: Timestamp(0) };
        let remote = Caller::remote(&peer, "10.0.0.9:1".parse().unwrap());
        let said = Origin { by: "somebody".into(), git: Some("8c1f2ab".into()) };
        assert_eq!(remote.origin(said.clone()).by, "ops-1");
        assert_eq!(remote.origin(said.clone()).git.as_deref(), Some("8c1f2ab"));
        assert_eq!(
            (Caller::root().origin(said).by, Caller::root().by(String::new())),
            ("somebody".into(), "root".into())
        );
    }
}
