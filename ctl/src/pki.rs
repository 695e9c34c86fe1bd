//! Who we are, and the CA of the fleet: certificates, their list, and the files of an operator.
//!
//! | module | does |
//! |---|---|
//! | [`facts`] | what a certificate says |
//! | [`identity`] | the identity that calls are made with |
//! | [`home`] | the files of an operator: which, and how they are written |
//! | [`authority`] | the CA: made, opened, signing |
//! | [`issued`] | the list of what was issued |
//! | [`sealed`] | age: what a passphrase protects, and the recovery key |
//! | [`passphrase`] | where the passphrase comes from |
//!
//! The key of the CA never stands unencrypted on a disk.

pub(crate) mod authority;
pub(crate) mod facts;
pub(crate) mod home;
pub(crate) mod identity;
pub(crate) mod issued;
pub(crate) mod passphrase;
pub(crate) mod sealed;

use deployd_api::error::{ErrorBody, ErrorCode};

pub(crate) use self::home::Home;
pub(crate) use self::identity::Identity;

use crate::error::CtlError;

/// Something is wrong with an identity or with the CA's files.
pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::CertificateInvalid, message, hint)
}

/// It as the error of a command.
pub(crate) fn answer(body: ErrorBody) -> CtlError {
    CtlError::Answer(Box::new(body))
}

/// A certificate could not be made or read.
pub(crate) fn broken(what: &str, error: impl std::fmt::Display) -> CtlError {
    answer(
        invalid(format!("cannot {what}"), "compare the files with those of your backup")
            .cause("what", error.to_string()),
    )
}
