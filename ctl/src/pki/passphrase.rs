//! Where the passphrase of the CA comes from: the terminal, or `DEPLOYD_PASSPHRASE` for tests and automation.

use std::io::{self, IsTerminal};

use age::secrecy::{ExposeSecret, SecretString};

use crate::error::CtlError;

const VARIABLE: &str = "DEPLOYD_PASSPHRASE";
/// Shorter ones are refused for a new CA.
const LENGTH_MIN: usize = 8;

/// The passphrase of a CA that exists.
pub(crate) fn ask(what: &str) -> Result<SecretString, CtlError> {
    match given() {
        Some(passphrase) => Ok(passphrase),
        None => prompt(&format!("Passphrase of {what}: ")),
    }
}

/// A new one, typed twice.
pub(crate) fn choose(what: &str) -> Result<SecretString, CtlError> {
    if let Some(passphrase) = given() {
        check(&passphrase)?;
        return Ok(passphrase);
    }
    let first = prompt(&format!("New passphrase for {what}: "))?;
    check(&first)?;
    let second = prompt("The same again: ")?;
    if first.expose_secret() == second.expose_secret() {
        return Ok(first);
    }
    Err(usage("the two passphrases differ; nothing was made", "run it again"))
}

fn check(passphrase: &SecretString) -> Result<(), CtlError> {
    if passphrase.expose_secret().chars().count() >= LENGTH_MIN {
        return Ok(());
    }
    let message = format!("the passphrase has fewer than {LENGTH_MIN} characters; nothing was made");
    Err(usage(&message, "several words are easy to type and hard to guess"))
}

fn given() -> Option<SecretString> {
    std::env::var(VARIABLE).ok().filter(|p| !p.is_empty()).map(SecretString::from)
}

/// Reads it from the terminal, also when stdin is something else.
fn prompt(text: &str) -> Result<SecretString, CtlError> {
    let no_terminal = || {
        let hint = format!("run it in a terminal, or set {VARIABLE} where no person is");
        usage("the passphrase of the CA is needed, and there is no terminal to ask", &hint)
    };
    if !io::stderr().is_terminal() {
        return Err(no_terminal());
    }
    rpassword::prompt_password(text).map(SecretString::from).map_err(|_| no_terminal())
}

fn usage(message: &str, hint: &str) -> CtlError {
    CtlError::Usage { message: message.to_owned(), hint: hint.to_owned() }
}
