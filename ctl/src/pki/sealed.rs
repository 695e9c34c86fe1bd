//! age: files under a passphrase, and the recovery key of secrets.

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, scrypt, x25519};
use zeroize::Zeroizing;

use super::{answer, broken, invalid};
use crate::error::CtlError;

/// 2^17 blocks of 1 KiB: a good part of a second, and memory that every laptop has.
const WORK: u8 = 17;
/// What is opened at most; files of ours have [`WORK`].
const WORK_MAX: u8 = 22;

/// Encrypts under a passphrase, as armored text.
pub(crate) fn seal(plain: &[u8], passphrase: &SecretString) -> Result<Vec<u8>, CtlError> {
    let mut recipient = scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK);
    let text = age::encrypt_and_armor(&recipient, plain).map_err(|e| broken("encrypt", e))?;
    Ok(text.into_bytes())
}

/// Decrypts what [`seal`] made. `name` is the file, for the error.
pub(crate) fn open(
    sealed: &[u8],
    passphrase: &SecretString,
    name: &str,
) -> Result<Zeroizing<Vec<u8>>, CtlError> {
    let mut identity = scrypt::Identity::new(passphrase.clone());
    identity.set_max_work_factor(WORK_MAX);
    age::decrypt(&identity, sealed).map(Zeroizing::new).map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => answer(invalid(
            format!("this passphrase does not open {name}"),
            "run it again with the right one",
        )),
        other => broken(&format!("open {name}"), other),
    })
}

/// A new recovery key: the recipient that everybody may know, and the key.
pub(crate) fn recovery() -> (String, SecretString) {
    let key = x25519::Identity::generate();
    (key.to_public().to_string(), key.to_string())
}

/// The text of a recovery key's file, as the program `age` reads it.
pub(crate) fn recovery_file(public: &str, key: &SecretString) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "# recovery key of a deployd fleet\n# public key: {public}\n{}\n",
        key.expose_secret()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_passphrase_opens() {
        let right = SecretString::from("correct horse".to_owned());
        let sealed = seal(b"key", &right).unwrap();
        assert!(sealed.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----"));
        assert_eq!(open(&sealed, &right, "ca.key.age").unwrap().as_slice(), b"key");
        let wrong = SecretString::from("battery".to_owned());
        let error = open(&sealed, &wrong, "ca.key.age").unwrap_err();
        assert_eq!(error.to_string(), "certificate_invalid: this passphrase does not open ca.key.age");
        assert!(open(b"nonsense", &right, "ca.key.age").unwrap_err().to_string().contains("cannot open"));
    }

    #[test]
    fn the_recovery_key_is_one_of_age() {
        let (public, key) = recovery();
        let text = recovery_file(&public, &key);
        let parsed: x25519::Identity = text.lines().last().unwrap().parse().unwrap();
        assert_eq!(parsed.to_public().to_string(), public);
    }
}
