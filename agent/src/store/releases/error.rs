//! What can go wrong with release trees, and which error code a caller answers with.

use std::io;
use std::path::{Path, PathBuf};

use deployd_api::error::ErrorCode;
use deployd_api::ids::Digest;
use deployd_api::manifest::InvalidManifest;

use super::encoding::EncodingError;
use super::frames::FrameError;
use crate::store::atomic::AtomicError;

/// A release operation that did not happen. What is on disk is then as a crash would leave it, and the
/// same call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The file system refused.
    #[error("failed to {doing} {path}")]
    Io {
        /// The attempt.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A small file could not be written whole.
    #[error(transparent)]
    Atomic(#[from] AtomicError),
    /// The manifest has a path or link that is not allowed.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// One digest cannot have two sizes.
    #[error("the artifact gives the content {digest} two sizes, at {path:?}")]
    TwoSizes {
        /// The content.
        digest: Digest,
        /// Where the second size stands.
        path: String,
    },
    /// The sizes cannot be added up.
    #[error("the artifact is larger than any disk")]
    TooLarge,
    /// A manifest on disk is not what was written there.
    #[error("the stored manifest {path} is damaged: {reason}")]
    StoredManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing was begun for this artifact.
    #[error("the artifact {artifact} was not begun")]
    NotBegun {
        /// Which.
        artifact: Digest,
    },
    /// The stream of files broke off or is not of the form.
    #[error("failed to read the stream of files")]
    Frame(#[from] FrameError),
    /// The stream is not of its encoding.
    #[error("failed to decode the stream of files")]
    Encoding(#[from] EncodingError),
    /// The upload itself could not be read.
    #[error("failed to read the upload")]
    Upload(#[source] io::Error),
    /// A content that the manifest does not list.
    #[error("the content {digest} is not part of the artifact")]
    UnknownContent {
        /// Which.
        digest: Digest,
    },
    /// A content was announced with another size than the manifest has.
    #[error("the content {digest} has {found} bytes, the manifest says {expected}")]
    WrongSize {
        /// Which.
        digest: Digest,
        /// The manifest's size.
        expected: u64,
        /// The announced size.
        found: u64,
    },
    /// A content came twice in one stream.
    #[error("the content {digest} was sent twice")]
    Repeated {
        /// Which.
        digest: Digest,
    },
    /// What was sent does not have the digest it claims.
    #[error("what was sent as {expected} has the digest {found}")]
    DigestMismatch {
        /// The claim.
        expected: Digest,
        /// The truth.
        found: Digest,
    },
    /// Contents of the artifact are not here.
    #[error("{count} contents of the artifact are not here, {first} is the first")]
    Incomplete {
        /// How many.
        count: usize,
        /// One of them.
        first: Digest,
    },
    /// Another artifact's tree has this name.
    #[error("{path} exists with another content")]
    TreeExists {
        /// The tree.
        path: PathBuf,
    },
    /// There is no such tree.
    #[error("there is no release tree {path}")]
    NoTree {
        /// Where it would be.
        path: PathBuf,
    },
    /// A tree is not what its manifest says.
    #[error("{path:?} of the release tree is not as it was sealed: {reason}")]
    NotAsSealed {
        /// Path in the tree.
        path: String,
        /// What differs.
        reason: &'static str,
    },
    /// A `writable` or `shared` folder cannot be there.
    #[error("the folder {path:?} cannot be mounted in the release: {reason}")]
    Mount {
        /// As the spec has it.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// The work was dropped by the runtime's end.
    #[error("the agent is ending")]
    Ending,
}

impl ReleaseError {
    /// For `map_err`: an attempt on a path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// The stable code that a caller is answered with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { source, .. } if is_full(source) => ErrorCode::DiskLow,
            Self::Atomic(e) if e.is_disk_full() => ErrorCode::DiskLow,
            Self::Manifest(_)
            | Self::TwoSizes { .. }
            | Self::TooLarge
            | Self::UnknownContent { .. }
            | Self::WrongSize { .. }
            | Self::Repeated { .. }
            | Self::Encoding(EncodingError::Garbage(_)) => ErrorCode::ArtifactInvalid,
            Self::Mount { .. } => ErrorCode::SpecInvalid,
            Self::DigestMismatch { .. } => ErrorCode::DigestMismatch,
            Self::Incomplete { .. }
            | Self::NotBegun { .. }
            | Self::Frame(_)
            | Self::Encoding(EncodingError::CutShort)
            | Self::Upload(_) => ErrorCode::UploadIncomplete,
            Self::TreeExists { .. } => ErrorCode::NameTaken,
            Self::NoTree { .. } => ErrorCode::ReleaseNotFound,
            Self::NotAsSealed { .. }
            | Self::StoredManifest { .. }
            | Self::Ending
            | Self::Io { .. }
            | Self::Atomic(_) => ErrorCode::StepFailed,
        }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
