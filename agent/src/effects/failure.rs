//! From an error of the host to an answer: what did not work, why, what to do next.

use std::error::Error;

use deployd_api::error::{ErrorBody, ErrorCode};

use crate::store::releases::ReleaseError;

/// A step that failed for a reason of the host. The whole chain of causes is told.
pub fn step_failed(error: &dyn Error) -> ErrorBody {
    let hint = "mend it and push again; deployd-ctl doctor looks at the whole host";
    with_chain(ErrorBody::new(ErrorCode::StepFailed, error.to_string(), hint), error)
}

/// What the store of releases could not do.
pub fn release_failed(e: &ReleaseError) -> ErrorBody {
    let hint = match e.code() {
        ErrorCode::DiskLow => "free disk space on the host: deployd-ctl doctor says where",
        ErrorCode::UploadIncomplete => "push again: it goes on where it stopped",
        ErrorCode::StepFailed => "push again; if it stays, deployd-ctl doctor looks at the host",
        _ => "mend the artifact and push again",
    };
    with_chain(ErrorBody::new(e.code(), e.to_string(), hint), e)
}

/// Adds an error's sources.
pub fn with_chain(mut body: ErrorBody, error: &dyn Error) -> ErrorBody {
    let mut source = error.source();
    while let Some(e) = source {
        body = body.cause("because", e.to_string());
        source = e.source();
    }
    body
}
