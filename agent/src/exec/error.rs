//! Why the trampoline gave up: one variant for each thing it attempts.

use deployd_handoff::passed;
use nix::errno::Errno;
use std::path::PathBuf;

/// A failure of the trampoline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}; usage: deployd-exec run|proxy|lend|relay ...")]
    Usage(String),
    #[error("read the passed sockets")]
    Passed(#[source] passed::Error),
    #[error("listener {name} was not passed by its .socket unit (passed: {passed})")]
    NotPassed { name: String, passed: String },
    #[error("give listener {name} its number {wanted}")]
    Place { name: String, wanted: i32, source: Errno },
    #[error("listener {name} got number {got} and not {wanted}, which is in use")]
    Occupied { name: String, wanted: i32, got: i32 },
    #[error("{0} needs --shim PATH")]
    NoShim(String),
    #[error("{{fd:{0}}} names no listener with handoff = \"arg\"")]
    UnknownWord(String),
    #[error("the listeners {0} and {1} cannot both be standard input")]
    TwoInputs(String, String),
    #[error("an argument or a variable holds a NUL byte")]
    Nul(#[source] std::ffi::NulError),
    #[error("read the release's secrets")]
    Credential(#[source] std::io::Error),
    #[error("the release's secrets cannot be understood ({0}): set them again and push")]
    Bundle(String),
    #[error(
        "the secret {0} holds a NUL byte and cannot be a variable: name it in [secrets] files of the spec"
    )]
    SecretNul(String),
    #[error("start {program}")]
    Exec { program: String, source: Errno },
    #[error("reach the agent at {}", path.display())]
    Connect { path: PathBuf, source: Errno },
    #[error("talk to the agent")]
    Talk(#[source] Errno),
    #[error("the agent answered: {0}")]
    Answer(String),
    #[error("{0} sent no listener to relay from")]
    NoListener(String),
    #[error("wait for connections")]
    Wait(#[source] std::io::Error),
}
