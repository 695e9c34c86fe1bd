//! Secrets on the wire: names, values that never print, versions.
//!
//! A value goes from a person to the hosts of the app over mTLS and is sealed there; it never comes back. What
//! travels in the other direction are names, versions, and what only the recovery key opens.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ids::{InvalidId, Timestamp};

/// Largest value.
pub const VALUE_MAX: usize = 64 << 10;
/// Most bytes that the credentials of an app may have together: systemd gives a unit 1 MiB, some of which is left to
/// it. Each value counts twice, as base64 among all of them and as a file of its own, which a spec may ask for.
pub const ALL_MAX: usize = (1 << 20) - (64 << 10);
/// Most secrets of an app.
pub const NAMES_MAX: usize = 256;
/// Most names that a host remembers of an app, with those that were unset.
pub const KNOWN_MAX: usize = 4096;
/// Most bytes of a value for the recovery key: the largest one, encrypted and armoured.
pub const RECOVERY_MAX: usize = 128 << 10;

/// Names that mean something to systemd, the shell or deployd (`secrets` is the credential of all of them).
const RESERVED: [&str; 7] =
    ["PATH", "HOME", "SHELL", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "secrets"];

/// The name of a secret, and of the variable that it becomes: `[A-Za-z_][A-Za-z0-9_]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[A-Za-z_][A-Za-z0-9_]{0,63}$")))]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fail = |reason| Err(InvalidId { kind: "name of a secret", value: s.to_owned(), reason });
        if s.is_empty() || s.len() > 64 {
            return fail("it must have 1 to 64 characters");
        }
        if !s.bytes().all(word) || s.as_bytes()[0].is_ascii_digit() {
            return fail("only letters, digits and _ are allowed, and no digit at the beginning");
        }
        if ["LISTEN_", "DEPLOYD_", "LD_"].iter().any(|p| s.starts_with(p)) || RESERVED.contains(&s) {
            return fail("this name has a meaning of its own for systemd or deployd");
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for SecretName {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<SecretName> for String {
    fn from(n: SecretName) -> String {
        n.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value: bytes that are wiped when dropped and never printed. Base64 on the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// A value of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for whoever seals or delivers them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

impl TryFrom<String> for SecretValue {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        let text = Zeroizing::new(s);
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| InvalidId {
            kind: "value of a secret",
            value: "(not shown)".to_owned(),
            reason: "it must be base64",
        })?;
        Ok(Self::new(bytes))
    }
}

impl From<SecretValue> for String {
    fn from(v: SecretValue) -> String {
        STANDARD.encode(&*v.0)
    }
}

/// `POST /v1/apps/{app}/secrets`: set and remove, at once. The app may not be known yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretsRequest {
    /// New values, with the version that every host gives them.
    #[serde(default)]
    pub set: BTreeMap<SecretName, NewSecret>,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<SecretName>,
    /// Who.
    #[serde(default)]
    pub by: String,
}

/// A new value of a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSecret {
    /// 1 + the highest version on any host; a host refuses one that it has already.
    pub version: u32,
    /// The value.
    pub value: SecretValue,
    /// The same value encrypted to the fleet's recovery recipient (age, ASCII-armoured): only the key that
    /// `pki init` made opens it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
}

/// `GET /v1/apps/{app}/secrets`: a secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SecretRow {
    /// Its name.
    pub name: SecretName,
    /// Its version.
    pub version: u32,
    /// When it was set.
    pub set: Timestamp,
    /// Who set it.
    pub by: String,
    /// Whether the live release has this version.
    pub live: bool,
    /// Whether it was unset: its version is kept, so that no later value ever has the same one.
    #[serde(default)]
    pub removed: bool,
    /// Its value, encrypted to the fleet's recovery recipient, if it was set with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_print_and_survive_the_wire() {
        let value = SecretValue::new(vec![0, 255, b'x']);
        assert_eq!(format!("{value:?}"), "SecretValue(…)");
        let wire = serde_json::to_string(&value).unwrap();
        assert_eq!(serde_json::from_str::<SecretValue>(&wire).unwrap(), value);
        let error = serde_json::from_str::<SecretValue>("\"hunter2!\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn names_are_those_of_variables() {
        for good in ["A", "DATABASE_URL", "_x9", "PORT"] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in
            ["", "9A", "A-B", "A B", "LD_PRELOAD", "LISTEN_FDS", "DEPLOYD_APP", "PATH", "A=B", "secrets"]
        {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }
}
