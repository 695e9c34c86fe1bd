//! Who can read values again: the owner of the fleet's recovery key.

use deployd_api::secret::SecretValue;

use crate::commands::Context;
use crate::error::CtlError;
use crate::pki::{Identity, broken, home};

/// Whom values are encrypted to beside the hosts, if that is known here.
pub(super) struct Recovery(Option<age::x25519::Recipient>);

impl Recovery {
    /// What `recovery.pub` of the operator's folder says, else the identity, which brings it to second operators and
    /// jobs. An identity that was named goes first: it may be of another fleet than the folder.
    pub(super) fn find(context: &Context<'_>) -> Result<Self, CtlError> {
        // A host's own root has neither.
        let given = context.global.identity.as_ref().map(|i| i.0.as_str());
        let of_identity = || Identity::find(given).ok().and_then(|identity| identity.recovery);
        let of_folder = || home::Home::find().map_or(Ok(None), |home| home.text(home::RECOVERY));
        let text = match given.and_then(|_| of_identity()) {
            Some(text) => Some(text),
            None => of_folder()?.or_else(of_identity),
        };
        let recipient = text.map(|text| text.trim().parse()).transpose().map_err(|e: &str| {
            let what =
                "read the key that secrets are encrypted to for recovery (recovery.pub, or the identity's)";
            broken(what, e)
        })?;
        Ok(Self(recipient))
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn encrypt(&self, value: &SecretValue) -> Result<Option<String>, CtlError> {
        let encrypt = |to| age::encrypt_and_armor(to, value.reveal());
        self.0.as_ref().map(encrypt).transpose().map_err(|e| broken("encrypt a value for recovery", e))
    }
}
