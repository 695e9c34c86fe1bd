//! Where the passphrase of the CA comes from: the terminal, or `DEPLOYD_PASSPHRASE` for tests and automation. And how
//! anything is asked that is not to be seen.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};

use age::secrecy::{ExposeSecret, SecretString};
use deployd_api::secret::VALUE_MAX;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

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
    hidden(text).map_err(|_| no_terminal())?.ok_or_else(stopped)
}

/// Asks on the terminal for what is not to be seen; `None` is Ctrl-C.
pub(crate) fn hidden(text: &str) -> io::Result<Option<SecretString>> {
    ask_on(&OpenOptions::new().read(true).write(true).open("/dev/tty")?, text)
}

/// Ctrl-C at a question.
pub(crate) fn stopped() -> CtlError {
    CtlError::Detached("ended by Ctrl-C; nothing was changed".to_owned())
}

/// A line without its echo; `None` is Ctrl-C. The signal is off meanwhile: others wait for it in this process, and
/// would leave the terminal as it is.
fn ask_on(mut terminal: &File, text: &str) -> io::Result<Option<SecretString>> {
    // Before the question: what is typed at once is neither shown nor thrown away.
    let quiet = Quiet::new(terminal)?;
    terminal.write_all(text.as_bytes())?;
    let line = read_line(terminal);
    drop(quiet);
    terminal.write_all(b"\n")?;
    line
}

#[expect(clippy::unbuffered_bytes, reason = "a buffer would keep a copy of the passphrase")]
fn read_line(from: impl Read) -> io::Result<Option<SecretString>> {
    // So long that it never moves and leaves a copy behind, and that a value which is too long is seen to be.
    let mut line = Zeroizing::new(Vec::with_capacity(VALUE_MAX + 1));
    for byte in from.bytes() {
        match byte? {
            3 => return Ok(None),
            b'\n' | b'\r' | 4 => break,
            // Backspace takes back a whole character.
            8 | 127 => while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
            // Ctrl-U: the whole line.
            21 => line.clear(),
            byte if line.len() < line.capacity() => line.push(byte),
            _ => {}
        }
    }
    let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
    Ok(Some(SecretString::from(text.to_owned())))
}

/// A terminal that shows nothing and gives each byte, until this is dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn new(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

fn usage(message: &str, hint: &str) -> CtlError {
    CtlError::Usage { message: message.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_people_type_it() {
        for (typed, want) in [
            ("correct horse\nmore", Some("correct horse")),
            ("wrong\u{15}right\r", Some("right")),
            ("a\u{e9}\u{7f}b\n", Some("ab")),
            ("\u{7f}\n", Some("")),
            ("abc\u{3}", None),
            ("end of file", Some("end of file")),
        ] {
            let read = read_line(typed.as_bytes()).unwrap();
            assert_eq!(read.as_ref().map(ExposeSecret::expose_secret), want, "{typed:?}");
        }
    }
}
