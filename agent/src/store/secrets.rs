//! Which versions of an app's secrets this host has. Values are sealed elsewhere and never pass here.
//!
//! The vault is not there yet: until it is, no app has secrets, and a release that names one is refused.

use std::collections::BTreeMap;

use deployd_api::ids::AppName;
use deployd_api::secret::SecretName;

use super::{Store, StoreError};

/// Versions by name.
pub type Versions = BTreeMap<SecretName, u32>;

/// The versions that a new release of the app gets.
#[expect(clippy::unused_async, reason = "the vault's metadata is read from the database")]
pub async fn current(_store: &Store, _app: &AppName) -> Result<Versions, StoreError> {
    Ok(Versions::new())
}

/// Of the versions that a release names, those that this host cannot deliver.
pub async fn unsealed(store: &Store, app: &AppName, wanted: &Versions) -> Result<Versions, StoreError> {
    let current = current(store, app).await?;
    let missing = wanted.iter().filter(|(name, version)| current.get(*name) != Some(*version));
    Ok(missing.map(|(name, version)| (name.clone(), *version)).collect())
}
