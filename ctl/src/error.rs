//! How a command can fail, with its exit code. Shown by `printer` and `failure`.

use std::io;
use std::path::PathBuf;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;

use crate::artifact::ArtifactError;

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The command line or the folder is not right.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// The spec has errors, already as lines.
    #[error("{0}")]
    Spec(String),
    /// The folder cannot be an artifact.
    #[error("cannot read the artifact")]
    Artifact(#[from] ArtifactError),
    /// The agent refused, or a deployment did not end as asked.
    #[error("{0}")]
    Answer(Box<ErrorBody>),
    /// Nothing listens on the socket.
    #[error("cannot connect to the agent at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// A host of the fleet does not answer.
    #[error("cannot reach {host} at {address}")]
    Unreachable { host: String, address: String, source: io::Error },
    /// The connection broke.
    #[error("the agent went away during {during}")]
    Lost { during: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// The agent sent something that is not of the API.
    #[error("cannot understand the agent's answer to {during}")]
    Wire { during: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Ctrl-C; the text says what goes on.
    #[error("{0}")]
    Detached(String),
    /// The output is gone.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// This process could not be set up.
    #[error("cannot set up")]
    Runtime(#[source] io::Error),
}

impl CtlError {
    /// Whether the agent may be back soon.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Unreachable { .. } | Self::Lost { .. })
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> ExitCode {
        match self {
            Self::Usage { .. } | Self::Spec(_) | Self::Artifact(_) => ExitCode::Usage,
            Self::Answer(body) => body.code.exit(),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::Unauthorized
            }
            Self::Connect { .. } | Self::Unreachable { .. } | Self::Lost { .. } => {
                ErrorCode::AgentUnreachable.exit()
            }
            // `deployd-ctl … | head` has what it wanted.
            Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::Ok,
            Self::Wire { .. } | Self::Output(_) | Self::Runtime(_) => ExitCode::Internal,
            Self::Detached(_) => ExitCode::Detached,
        }
    }

    /// The form that both people and programs are shown.
    pub(crate) fn to_body(&self) -> ErrorBody {
        let body = match self {
            Self::Usage { message, hint } => ErrorBody::new(ErrorCode::BadRequest, message, hint),
            Self::Spec(lines) => {
                let what = if lines.lines().count() == 1 {
                    "the spec has an error".to_owned()
                } else {
                    format!("the spec has {} errors", lines.lines().count())
                };
                let next = "mend what is named, then run it again; all keys: deployd-ctl help spec";
                let mut body = ErrorBody::new(ErrorCode::SpecInvalid, what, next);
                body.causes.extend(lines.lines().map(|line| ("where".to_owned(), line.to_owned())));
                return body;
            }
            Self::Artifact(_) => ErrorBody::new(
                ErrorCode::ArtifactInvalid,
                self.to_string(),
                "an artifact is a folder of files, folders and links that stay inside it",
            ),
            Self::Answer(body) => return (**body).clone(),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorBody::new(ErrorCode::Forbidden, self.to_string(), "the local API is for root: use sudo")
            }
            Self::Unreachable { host, address, .. } => {
                let hint = format!(
                    "is 7443/tcp open to you, and the agent up? On {host}: systemctl status deployd.socket; \
                     all hosts: deployd-ctl hosts check"
                );
                ErrorBody::new(ErrorCode::AgentUnreachable, self.to_string(), hint)
                    .about(host)
                    .cause("where", format!("{host}, {address}"))
            }
            Self::Connect { .. } | Self::Lost { .. } => ErrorBody::new(
                ErrorCode::AgentUnreachable,
                self.to_string(),
                "apps serve without the agent; see: systemctl status deployd",
            ),
            Self::Wire { .. } => ErrorBody::new(
                ErrorCode::Internal,
                self.to_string(),
                "compare the versions: deployd-ctl --version, deployd --version",
            ),
            Self::Output(_) | Self::Runtime(_) | Self::Detached(_) => {
                ErrorBody::new(ErrorCode::Internal, self.to_string(), "try again")
            }
        };
        let mut source = std::error::Error::source(self);
        let mut body = body;
        while let Some(inner) = source {
            body = body.cause("what", inner.to_string());
            source = inner.source();
        }
        body
    }
}
