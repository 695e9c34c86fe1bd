//! Checked newtypes for every name and number that crosses a boundary.
//!
//! A value of one of these types is valid: parsing is the only way to make one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid id. The message says what was wrong and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {kind}: {reason}")]
pub struct InvalidId {
    /// What kind of id was expected, in words.
    pub kind: &'static str,
    /// The text that was given.
    pub value: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

/// Longest name of an app, process, listener or check. Unit names hold two of them and a label, and
/// a user name (`dpl-<app>`) may have 32 bytes.
pub const NAME_MAX: usize = 20;

fn check_name(kind: &'static str, value: &str) -> Result<(), InvalidId> {
    let fail = |reason| Err(InvalidId { kind, value: value.to_owned(), reason });
    if value.is_empty() || value.len() > NAME_MAX {
        return fail("it must have 1 to 20 characters");
    }
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return fail("only a-z, 0-9 and - are allowed");
    }
    if !value.as_bytes()[0].is_ascii_lowercase() {
        return fail("it must begin with a letter");
    }
    if value.ends_with('-') || value.contains("--") {
        return fail("- may stand neither twice in a row nor at the end");
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[a-z](-?[a-z0-9])*$", "maxLength" = 20)))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as it stands in unit names: `-` nests slices and would make `a-b`/`c` collide
            /// with `a`/`b-c`, so it becomes `_`.
            pub fn unit_part(&self) -> String {
                self.0.replace('-', "_")
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                check_name($kind, s)?;
                Ok(Self(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(s: String) -> Result<Self, InvalidId> {
                check_name($kind, &s)?;
                Ok(Self(s))
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The name of an app: `[a-z][a-z0-9-]{0,19}`, no `--`, no `-` at the end.
    AppName,
    "app name"
);
name_type!(
    /// The name of a process group of an app, by the same rule.
    ProcessName,
    "process name"
);
name_type!(
    /// The name of a listener of an app, by the same rule. It is also the `FileDescriptorName=`.
    ListenerName,
    "listener name"
);
name_type!(
    /// The name of a check of an app, by the same rule.
    CheckName,
    "check name"
);

/// The name of a host in `fleet.toml` and in its certificate, where it is a DNS name: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`,
/// at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength" = 63)))]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let fail = |reason| Err(InvalidId { kind: "host name", value: s.to_owned(), reason });
        if s.is_empty() || s.len() > 63 {
            return fail("it must have 1 to 63 characters");
        }
        if !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return fail("only a-z, 0-9 and - are allowed");
        }
        if s.starts_with('-') || s.ends_with('-') {
            return fail("- may stand neither at the beginning nor at the end");
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for HostName {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<HostName> for String {
    fn from(n: HostName) -> String {
        n.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The label of a release, `v42`: short, ordered, given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^v[1-9][0-9]*$")))]
#[serde(try_from = "String", into = "String")]
pub struct Label(u32);

impl Label {
    /// The label with this number; labels begin at `v1`.
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number after the `v`.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The label that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The first label of an app.
    pub const FIRST: Self = Self(1);
}

impl FromStr for Label {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let fail =
            || InvalidId { kind: "release label", value: s.to_owned(), reason: "labels are v1, v2, …" };
        let digits = s.strip_prefix('v').ok_or_else(fail)?;
        if digits.is_empty() || digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail());
        }
        digits.parse().ok().and_then(Self::new).ok_or_else(fail)
    }
}

impl TryFrom<String> for Label {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Label> for String {
    fn from(l: Label) -> String {
        l.to_string()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A BLAKE3 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[0-9a-f]{64}$")))]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A digest from its raw 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits: enough for people and folder names.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let fail =
            || InvalidId { kind: "digest", value: s.to_owned(), reason: "it must be 64 hexadecimal digits" };
        if s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(fail());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| fail())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

/// The client-made id of a mutating call. Sending the same id again returns the same deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("pattern" = "^[A-Za-z0-9-]{16,64}$")))]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId(String);

impl DeploymentId {
    /// An id from 16 random bytes: 32 hexadecimal digits.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight characters, for people.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl FromStr for DeploymentId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let ok = (16..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !ok {
            let reason = "it must have 16 to 64 letters, digits or -";
            return Err(InvalidId { kind: "deployment id", value: s.to_owned(), reason });
        }
        Ok(Self(s.to_owned()))
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        s.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(d: DeploymentId) -> String {
        d.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A moment, in milliseconds since the Unix epoch. Time is always an argument: nothing here reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to this moment; 0 when the clock went backwards.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "shop", "a-b", "a1", "abcdefghij0123456789"] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in
            ["", "A", "1a", "-a", "a-", "a--b", "a_b", "a.b", "ä", "abcdefghij01234567890", "a/b", "a b"]
        {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn unit_parts_never_hold_a_dash() {
        assert_eq!("my-app".parse::<AppName>().unwrap().unit_part(), "my_app");
    }

    #[test]
    fn labels_parse_only_in_their_one_form() {
        assert_eq!("v42".parse::<Label>().unwrap().number(), 42);
        for bad in ["", "v", "v0", "v01", "42", "v-1", "v4294967296", "V1"] {
            assert!(bad.parse::<Label>().is_err(), "{bad}");
        }
        assert!(Label::FIRST < Label::FIRST.next());
    }

    #[test]
    fn digests_round_trip() {
        let d = Digest::of(b"x");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert!(d.to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
