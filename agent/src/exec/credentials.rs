//! The secrets of the release, from the credential that PID 1 opened for this process: variables of the program.
//!
//! A secret with a credential of its own is a file, and no variable. Pure but for reading that folder.

use super::Error;
use super::variables::Variable;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

/// The credential with all secrets: JSON, name → base64.
const BUNDLE: &str = "secrets";

/// The variables of the credentials folder; none when the release has no secrets.
pub(crate) fn read(folder: Option<&OsString>) -> Result<Vec<Variable>, Error> {
    let Some(folder) = folder.map(Path::new) else { return Ok(Vec::new()) };
    let bundle = match std::fs::read(folder.join(BUNDLE)) {
        Ok(bundle) => bundle,
        // A credential of the operator's own, from a drop-in.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Credential(source)),
    };
    variables(&bundle, |name| folder.join(name).exists())
}

/// An error never shows a part of the bundle.
fn variables(bundle: &[u8], is_file: impl Fn(&str) -> bool) -> Result<Vec<Variable>, Error> {
    let values: BTreeMap<String, String> =
        serde_json::from_slice(bundle).map_err(|_| Error::Bundle(BUNDLE.to_owned()))?;
    let mut variables = Vec::new();
    for (name, value) in values.into_iter().filter(|(name, _)| !is_file(name)) {
        let value = STANDARD.decode(value).map_err(|_| Error::Bundle(name.clone()))?;
        if value.contains(&0) {
            return Err(Error::SecretNul(name));
        }
        variables.push((name.into(), OsString::from_vec(value)));
    }
    Ok(variables)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_a_variable_byte_by_byte() {
        let bundle = br#"{"A": "eA==", "KEY": "eA==", "LINES": "YQpi", "RAW": "//4="}"#;
        let found = variables(bundle, |name| name == "KEY").unwrap();
        let text: Vec<_> = found.iter().map(|(n, v)| (n.to_str().unwrap(), v.as_encoded_bytes())).collect();
        assert_eq!(text, [("A", &b"x"[..]), ("LINES", b"a\nb"), ("RAW", b"\xff\xfe")]);
    }

    #[test]
    fn what_cannot_be_used_is_said_without_a_value() {
        let no_file = |_: &str| false;
        assert!(
            matches!(variables(br#"{"A": "eAB4"}"#, no_file), Err(Error::SecretNul(name)) if name == "A")
        );
        for bad in [&b"hunter2"[..], br#"{"A": "hunter2!"}"#, br#"["hunter2"]"#] {
            let said = variables(bad, no_file).unwrap_err().to_string();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn without_a_bundle_there_are_none() {
        assert_eq!(read(None).unwrap(), []);
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().as_os_str().to_owned();
        assert_eq!(read(Some(&folder)).unwrap(), []);
        std::fs::write(dir.path().join(BUNDLE), br#"{"A": "eA==", "B": "eQ=="}"#).unwrap();
        std::fs::write(dir.path().join("B"), "y").unwrap();
        assert_eq!(read(Some(&folder)).unwrap(), [("A".into(), "x".into())]);
    }
}
