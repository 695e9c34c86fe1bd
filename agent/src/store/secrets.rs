//! What is known of secrets: names, versions, who and when, and the ciphertext for the recovery key. Values are
//! never here. A row stays when its secret is unset, so that no later value gets a version that was used.

use std::collections::BTreeMap;

use deployd_api::ids::{AppName, Timestamp};
use deployd_api::secret::SecretName;
use rusqlite::params;

use super::db::Db;
use super::error::StoreError;
use super::handle::Store;

/// Versions by name.
pub type Versions = BTreeMap<SecretName, u32>;

/// The versions of those that are set.
pub fn versions(records: &[SecretRecord]) -> Versions {
    records.iter().filter(|r| !r.removed).map(|r| (r.name.clone(), r.version)).collect()
}

/// A secret of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its name.
    pub name: SecretName,
    /// Its version, the highest that it had.
    pub version: u32,
    /// When it was set or unset.
    pub set: Timestamp,
    /// By whom.
    pub by: String,
    /// Whether it is unset.
    pub removed: bool,
    /// Its value, encrypted to the fleet's recovery recipient.
    pub recovery: Option<String>,
}

impl Db {
    fn secrets(&mut self, app: &AppName) -> Result<Vec<SecretRecord>, StoreError> {
        self.read("read the secrets of an app", |tx| {
            type Row = (String, u32, i64, String, bool, Option<String>);
            let rows: Vec<Row> = tx.sql(|t| {
                t.prepare(
                    "SELECT name, version, set_ms, set_by, removed, recovery FROM secrets WHERE app = ? \
                     ORDER BY name",
                )?
                .query_map([app.as_str()], |r| {
                    Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?))
                })?
                .collect()
            })?;
            let record = |(name, version, set, by, removed, recovery): Row| {
                let name = name.parse().map_err(|e| tx.corrupt(e))?;
                Ok(SecretRecord { name, version, set: Timestamp(set as u64), by, removed, recovery })
            };
            rows.into_iter().map(record).collect()
        })
    }

    fn put_secrets(&mut self, app: &AppName, records: &[SecretRecord]) -> Result<(), StoreError> {
        self.write_sparing("write the secrets of an app", |tx| {
            records.iter().try_for_each(|r| {
                tx.sql(|t| {
                    t.execute(
                        "INSERT OR REPLACE INTO secrets (app, name, version, set_ms, set_by, removed, recovery) \
                         VALUES (?, ?, ?, ?, ?, ?, ?)",
                        params![
                            app.as_str(),
                            r.name.as_str(),
                            r.version,
                            r.set.0 as i64,
                            r.by,
                            r.removed,
                            r.recovery
                        ],
                    )
                })
                .map(drop)
            })
        })
    }

    fn forget_secrets(&mut self, app: &AppName) -> Result<(), StoreError> {
        self.write("forget the secrets of an app", |tx| {
            tx.sql(|t| t.execute("DELETE FROM secrets WHERE app = ?", [app.as_str()])).map(drop)
        })
    }
}

impl Store {
    /// What is known of an app's secrets, by name; those that are unset, too.
    pub async fn secrets(&self, app: &AppName) -> Result<Vec<SecretRecord>, StoreError> {
        let app = app.clone();
        self.call(move |db| db.secrets(&app)).await
    }

    /// The versions that a new release of the app gets.
    pub async fn secret_versions(&self, app: &AppName) -> Result<Versions, StoreError> {
        Ok(versions(&self.secrets(app).await?))
    }

    /// Writes rows, all or none.
    pub async fn put_secrets(&self, app: &AppName, records: Vec<SecretRecord>) -> Result<(), StoreError> {
        let app = app.clone();
        self.call(move |db| db.put_secrets(&app, &records)).await
    }

    /// Forgets all of an app.
    pub async fn forget_secrets(&self, app: &AppName) -> Result<(), StoreError> {
        let app = app.clone();
        self.call(move |db| db.forget_secrets(&app)).await
    }
}
