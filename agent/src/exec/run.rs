//! `run`: becomes the program, with its listeners where it looks for them.
//!
//! The process id stays, so MAINPID, NOTIFY_SOCKET and LISTEN_PID stay right. SIGPIPE stays ignored, as
//! systemd starts services (std's own exec would reset it), which is why this calls `execvpe` itself.

use super::arguments::Run;
use super::{Error, credentials, descriptors, variables};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt as _;

/// Returns only when the program could not be started.
pub(crate) fn run(request: &Run) -> Result<(), Error> {
    let placed = descriptors::arrange(&request.listeners)?;
    let words = variables::words(request, &placed)?;
    let secrets = credentials::read(std::env::var_os("CREDENTIALS_DIRECTORY").as_ref())?;
    // A secret wins: that the spec sets a variable of its name is refused before anything is started.
    let own = std::env::vars_os().filter(|(name, _)| !secrets.iter().any(|(secret, _)| secret == name));
    let own: Vec<_> = own.chain(secrets.clone()).collect();
    let environment = variables::environment(request, &placed, own.into_iter(), std::process::id())?;
    let pairs = environment.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    become_program(words, pairs.collect())
}

/// Replaces this process.
pub(crate) fn become_program(words: Vec<OsString>, environment: Vec<OsString>) -> Result<(), Error> {
    let words = c_strings(words)?;
    let environment = c_strings(environment)?;
    let program = words.first().cloned().unwrap_or_default();
    let Err(source) = nix::unistd::execvpe(&program, &words, &environment);
    Err(Error::Exec { program: program.to_string_lossy().into_owned(), source })
}

fn c_strings(texts: Vec<OsString>) -> Result<Vec<CString>, Error> {
    texts.into_iter().map(|text| CString::new(text.into_vec()).map_err(Error::Nul)).collect()
}
