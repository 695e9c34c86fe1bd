//! Commands in the surroundings of a release: `exec` and `run`, over one upgraded connection.
//!
//! `POST /v1/apps/{app}/commands` with a [`CommandRequest`] and `Upgrade: deployd-command` is answered with 101;
//! from then on both sides send frames: one byte [`FrameKind`], four bytes of length (big-endian), the content.

use serde::{Deserialize, Serialize};

use crate::ids::{DeploymentId, Digest, ProcessName};

/// The protocol's name in `Upgrade:`.
pub const UPGRADE: &str = "deployd-command";
/// Largest content of a frame.
pub const FRAME_MAX: usize = 256 << 10;

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// Client-made id.
    pub id: DeploymentId,
    /// What it is.
    pub kind: CommandKind,
    /// The words; empty is a login shell.
    #[serde(default)]
    pub words: Vec<String>,
    /// The process whose user, sandbox, environment and secrets it gets; default `web`, or the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessName>,
    /// The terminal, if it is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<Terminal>,
    /// Who.
    #[serde(default)]
    pub by: String,
}

impl CommandRequest {
    /// What its unit and its lines in the logs are named by: `run-0a1b2c3d`.
    pub fn short_id(&self) -> String {
        Digest::of(self.id.as_str().as_bytes()).short()
    }
}

/// What happens when the caller goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CommandKind {
    /// `exec`: it ends with its caller.
    Exec,
    /// `console`: as `exec`, of what the release has for it: `bin/NAME remote` of a BEAM release, else a shell.
    Console,
    /// `run`: it goes on to its end; what it writes is in the app's logs as well.
    Run,
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// `$TERM`.
    pub term: String,
    /// Its size.
    pub size: Size,
}

/// The size of a terminal; also the content of [`FrameKind::Resize`], as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// To the command; an empty one is the end of its input.
    Stdin = 0,
    /// From the command.
    Stdout = 1,
    /// From the command.
    Stderr = 2,
    /// To the terminal: a [`Size`].
    Resize = 3,
    /// From the host, the last frame: a [`CommandEnd`].
    End = 4,
}

impl FrameKind {
    /// The kind of a byte.
    pub fn of(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Resize, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Bytes before the content of a frame.
pub const HEADER: usize = 5;

/// What stands before the content of a frame.
pub fn header(kind: FrameKind, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// The kind and length of the frame that begins so; `None` when it is none of ours.
pub fn parse_header([kind, length @ ..]: [u8; HEADER]) -> Option<(FrameKind, usize)> {
    let length = u32::from_be_bytes(length) as usize;
    FrameKind::of(kind).filter(|_| length <= FRAME_MAX).map(|kind| (kind, length))
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum CommandEnd {
    /// It exited.
    Exited {
        /// With this status.
        status: i32,
    },
    /// It was killed.
    Killed {
        /// By this signal.
        signal: i32,
    },
    /// It could not be started, or the host lost it.
    Failed {
        /// Why.
        error: Box<crate::error::ErrorBody>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        for kind in
            [FrameKind::Stdin, FrameKind::Stdout, FrameKind::Stderr, FrameKind::Resize, FrameKind::End]
        {
            for length in [0, 1, 255, 256, FRAME_MAX] {
                let bytes = header(kind, u32::try_from(length).unwrap());
                assert_eq!(parse_header(bytes), Some((kind, length)));
            }
        }
        assert_eq!(parse_header(header(FrameKind::Stdin, u32::try_from(FRAME_MAX).unwrap() + 1)), None);
        assert_eq!(parse_header([5, 0, 0, 0, 0]), None);
    }
}
