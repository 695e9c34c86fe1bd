//! From a bare host to a host of the fleet, over the system's ssh.
//!
//! | module | does |
//! |---|---|
//! | [`target`] | `web1=root@10.0.0.11`: which hosts are meant |
//! | [`ssh`] | one connection a host, commands and files over it |
//! | [`system`] | what the host is, and whether it can be one of the fleet |
//! | [`package`] | which package it gets, if any |

pub(crate) mod package;
pub(crate) mod ssh;
pub(crate) mod system;
pub(crate) mod target;

use deployd_api::error::{ErrorBody, ErrorCode};

use crate::error::CtlError;

/// The host is not added; the fleet is as before.
pub(crate) fn refused(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::HostNotAdded, message, hint)
}

pub(crate) fn answer(body: ErrorBody) -> CtlError {
    CtlError::Answer(Box::new(body))
}
