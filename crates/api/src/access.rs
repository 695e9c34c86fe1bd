//! Who may do what: roles, as certificates carry them, and what a call needs.
//!
//! A certificate of a person or a job names its roles in URI SANs, `deployd://role/deployer/shop`; a host's
//! certificate names the host, `deployd://host/web1`, and is no client. There is no other source of rights
//! but root of the host itself, on its local socket.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{AppName, HostName, InvalidId};

/// What URIs of roles begin with.
const ROLE_URI: &str = "deployd://role/";
/// What URIs of hosts begin with.
const HOST_URI: &str = "deployd://host/";

/// A right that a certificate gives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub enum Role {
    /// Sees everything but secrets, changes nothing.
    Viewer,
    /// Sees everything, and does to this app what there is to do: push, roll back, secrets, commands.
    Deployer(AppName),
    /// May do everything.
    Admin,
}

/// What a call needs. Each route has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Any role.
    View,
    /// To deploy this app.
    Deploy(AppName),
    /// Everything.
    Administer,
}

impl Role {
    /// Whether it is enough.
    pub fn allows(&self, need: &Need) -> bool {
        match (self, need) {
            (Self::Admin, _) | (_, Need::View) => true,
            (Self::Deployer(own), Need::Deploy(app)) => own == app,
            (Self::Viewer, Need::Deploy(_)) | (_, Need::Administer) => false,
        }
    }

    /// As a certificate names it.
    pub fn uri(&self) -> String {
        format!("{ROLE_URI}{self}")
    }

    /// The role of a certificate's URI, if it names one. A word that this version does not know gives nothing.
    pub fn of_uri(uri: &str) -> Option<Self> {
        uri.strip_prefix(ROLE_URI)?.parse().ok()
    }
}

/// As the certificate of a host names it.
pub fn host_uri(host: &HostName) -> String {
    format!("{HOST_URI}{host}")
}

/// The host that a certificate's URI names.
pub fn host_of_uri(uri: &str) -> Option<HostName> {
    uri.strip_prefix(HOST_URI)?.parse().ok()
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Viewer => f.write_str("viewer"),
            Self::Deployer(app) => write!(f, "deployer/{app}"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl FromStr for Role {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        match s {
            "viewer" => Ok(Self::Viewer),
            "admin" => Ok(Self::Admin),
            _ => {
                let reason = "roles are viewer, deployer/APP and admin";
                let invalid = || InvalidId { kind: "role", value: s.to_owned(), reason };
                let app = s.strip_prefix("deployer/").ok_or_else(invalid)?;
                Ok(Self::Deployer(app.parse().map_err(|_| invalid())?))
            }
        }
    }
}

impl TryFrom<String> for Role {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Role> for String {
    fn from(r: Role) -> String {
        r.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_print_and_parse() {
        for text in ["viewer", "admin", "deployer/shop"] {
            let role: Role = text.parse().unwrap();
            assert_eq!((role.to_string().as_str(), Role::of_uri(&role.uri())), (text, Some(role.clone())));
        }
        for bad in ["", "Admin", "deployer", "deployer/", "deployer/*", "deployer/A", "deployer/shop/x"] {
            assert!(bad.parse::<Role>().is_err(), "{bad}");
        }
        assert_eq!(Role::of_uri("deployd://host/web1"), None);
        assert_eq!(Role::of_uri("https://role/admin"), None);
    }

    #[test]
    fn a_role_allows_what_its_table_says() {
        let (shop, blog): (AppName, AppName) = ("shop".parse().unwrap(), "blog".parse().unwrap());
        let needs = [Need::View, Need::Deploy(shop.clone()), Need::Deploy(blog), Need::Administer];
        for (role, allowed) in [
            (Role::Viewer, [true, false, false, false]),
            (Role::Deployer(shop), [true, true, false, false]),
            (Role::Admin, [true, true, true, true]),
        ] {
            assert_eq!(needs.each_ref().map(|need| role.allows(need)), allowed, "{role}");
        }
    }
}
