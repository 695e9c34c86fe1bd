//! A generation's values, and their form inside the credential: JSON, name → base64.
//!
//! It is written by hand so that there is exactly one copy of it, which is wiped when dropped.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deployd_api::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

/// What a name takes besides its letters and its value: quotes, colon, comma.
const PER_ENTRY: usize = 6;

/// Values by name. Its `Debug` shows none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle(pub BTreeMap<SecretName, SecretValue>);

impl Bundle {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&SecretValue> {
        self.0.iter().find(|(n, _)| n.as_str() == name).map(|(_, value)| value)
    }

    /// Bytes that its credentials take at most: all of them in one, and each in one of its own.
    pub fn size(&self) -> usize {
        let own = |(n, v): (&SecretName, &SecretValue)| n.as_str().len() + v.reveal().len();
        self.json_size() + self.0.iter().map(own).sum::<usize>()
    }

    fn json_size(&self) -> usize {
        let entry = |(n, v): (&SecretName, &SecretValue)| {
            PER_ENTRY + n.as_str().len() + v.reveal().len().div_ceil(3) * 4
        };
        2 + self.0.iter().map(entry).sum::<usize>()
    }

    /// As it stands in the credential.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Never grown: growing would leave a copy behind.
        let mut json = Zeroizing::new(String::with_capacity(self.json_size()));
        json.push('{');
        for (i, (name, value)) in self.0.iter().enumerate() {
            json.push_str(if i == 0 { "\"" } else { ",\"" });
            // Names are letters, digits and `_`: nothing to escape.
            json.push_str(name.as_str());
            json.push_str("\":\"");
            STANDARD.encode_string(value.reveal(), &mut json);
            json.push('"');
        }
        json.push('}');
        Zeroizing::new(std::mem::take(&mut *json).into_bytes())
    }

    /// What [`Self::to_json`] made; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_survives_its_json() {
        let value = |bytes: &[u8]| SecretValue::new(bytes.to_vec());
        let one = Bundle(BTreeMap::from([("A".parse().unwrap(), value(b"x"))]));
        assert_eq!(one.to_json().as_slice(), br#"{"A":"eA=="}"#);
        let many = [("A", &b""[..]), ("B_2", b"a\nb\0c"), ("C", &[0xff; 1000]), ("D", b"\"quoted\"")];
        let many = Bundle(many.iter().map(|(n, v)| (n.parse().unwrap(), value(v))).collect());
        for bundle in [Bundle::default(), one, many] {
            let json = bundle.to_json();
            assert!(json.len() <= json.capacity());
            assert_eq!(Bundle::from_json(&json), Some(bundle));
        }
        assert_eq!(Bundle::from_json(b"{\"A\":\"!\"}"), None);
        assert_eq!(Bundle::from_json(b"hunter2"), None);
    }
}
