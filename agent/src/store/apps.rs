//! App states, facts by key, and user ids that are given once and never again.
//!
//! A state is one opaque JSON document an app. Only [`super::handle`] calls this.

use std::ops::RangeInclusive;

use deployd_api::ids::{AppName, Timestamp};
use rusqlite::{OptionalExtension as _, params};

use super::db::{Db, Tx};
use super::error::StoreError;

/// The user ids given to apps unless the config says otherwise: above those of people and system
/// users on Debian and RPM distributions, below those of systemd's dynamic users (61184).
pub const DEFAULT_UIDS: RangeInclusive<u32> = 50_000..=59_999;

/// An app and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRow {
    /// The app.
    pub app: AppName,
    /// Its state, as JSON.
    pub state: String,
    /// When the state was written.
    pub updated: Timestamp,
}

impl Db {
    /// Every app, by name.
    pub(crate) fn load_apps(&mut self) -> Result<Vec<AppRow>, StoreError> {
        self.read("load the apps", |tx| {
            let rows: Vec<(String, String, i64)> = tx.sql(|t| {
                t.prepare("SELECT app, state, updated_ms FROM apps ORDER BY app")?
                    .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                    .collect()
            })?;
            let row = |(app, state, at): (String, String, i64)| {
                let app = app.parse().map_err(|e| tx.corrupt(e))?;
                Ok(AppRow { app, state, updated: Timestamp(at as u64) })
            };
            rows.into_iter().map(row).collect()
        })
    }

    /// One app.
    pub(crate) fn get_app(&mut self, app: &AppName) -> Result<Option<AppRow>, StoreError> {
        self.read("read an app", |tx| {
            tx.sql(|t| {
                t.query_row("SELECT state, updated_ms FROM apps WHERE app = ?", [app.as_str()], |r| {
                    let updated = Timestamp(r.get::<_, i64>(1)? as u64);
                    Ok(AppRow { app: app.clone(), state: r.get(0)?, updated })
                })
                .optional()
            })
        })
    }

    /// Writes an app's state.
    pub(crate) fn put_app(&mut self, app: &AppName, state: &str, at: Timestamp) -> Result<(), StoreError> {
        self.write("write an app's state", |tx| put_in(tx, app, state, at))
    }

    /// Forgets an app's state; its deployments and its user id stay known.
    pub(crate) fn delete_app(&mut self, app: &AppName) -> Result<(), StoreError> {
        self.write("forget an app", |tx| delete_in(tx, app))
    }

    /// A fact by its key.
    pub(crate) fn get_meta(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        self.read("read a fact", |tx| {
            tx.sql(|t| t.query_row("SELECT value FROM meta WHERE key = ?", [key], |r| r.get(0)).optional())
        })
    }

    /// Forgets answered calls whose deployment ended before this, or is not known any more, and aborts of those that
    /// ended.
    pub(crate) fn collect_aliases(&mut self, before: Timestamp) -> Result<usize, StoreError> {
        self.write("forget answered calls", |tx| {
            tx.sql(|t| {
                t.execute(
                    "DELETE FROM meta WHERE (key LIKE 'alias:%' AND NOT EXISTS (SELECT 1 FROM deployments d \
                     WHERE d.id = meta.value AND (d.verdict IS NULL OR d.finished_ms >= ?))) \
                     OR (key LIKE 'abort:%' AND NOT EXISTS (SELECT 1 FROM deployments d \
                     WHERE d.id = substr(meta.key, 7) AND d.verdict IS NULL))",
                    [before.0 as i64],
                )
            })
        })
    }

    /// Writes a fact.
    pub(crate) fn put_meta(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        self.write("write a fact", |tx| set_meta(tx, key, value))
    }

    /// A fact that may be refused when the disk is full: no deployment needs it to end.
    pub(crate) fn put_note(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        self.write_sparing("write a note", |tx| set_meta(tx, key, value))
    }

    /// Forgets a fact.
    pub(crate) fn delete_meta(&mut self, key: &str) -> Result<(), StoreError> {
        self.write("forget a fact", |tx| {
            tx.sql(|t| t.execute("DELETE FROM meta WHERE key = ?", [key])).map(drop)
        })
    }

    /// The user id that [`Self::allocate_uid`] would give out now.
    pub(crate) fn next_uid(&mut self, range: &RangeInclusive<u32>) -> Result<u32, StoreError> {
        let range = range.clone();
        self.read("look for a user id", move |tx| next_uid(tx, &range))
    }

    /// Gives out the user id after the highest that was ever given in this range.
    pub(crate) fn allocate_uid(
        &mut self,
        app: &AppName,
        range: &RangeInclusive<u32>,
        at: Timestamp,
    ) -> Result<u32, StoreError> {
        self.write("give out a user id", |tx| {
            let uid = next_uid(tx, range)?;
            tx.sql(|t| {
                t.execute(
                    "INSERT INTO uids (uid, app, given_ms) VALUES (?, ?, ?)",
                    params![uid, app.as_str(), at.0 as i64],
                )
            })?;
            Ok(uid)
        })
    }
}

/// Forgets an app's state within a transaction.
pub(super) fn delete_in(tx: &Tx<'_>, app: &AppName) -> Result<(), StoreError> {
    tx.sql(|t| t.execute("DELETE FROM apps WHERE app = ?", [app.as_str()])).map(drop)
}

fn next_uid(tx: &Tx<'_>, range: &RangeInclusive<u32>) -> Result<u32, StoreError> {
    let (first, last) = (*range.start(), *range.end());
    let highest: Option<u32> = tx.sql(|t| {
        t.query_row("SELECT max(uid) FROM uids WHERE uid BETWEEN ? AND ?", [first, last], |r| r.get(0))
    })?;
    let uid = highest.map_or(first, |h| h.saturating_add(1));
    if uid > last { Err(StoreError::UidsUsedUp { first, last }) } else { Ok(uid) }
}

/// Writes an app's state within a transaction.
pub(super) fn put_in(tx: &Tx<'_>, app: &AppName, state: &str, at: Timestamp) -> Result<(), StoreError> {
    tx.sql(|t| {
        t.execute(
            "INSERT INTO apps (app, state, updated_ms) VALUES (?, ?, ?) \
             ON CONFLICT (app) DO UPDATE SET state = excluded.state, updated_ms = excluded.updated_ms",
            params![app.as_str(), state, at.0 as i64],
        )
    })
    .map(drop)
}

fn set_meta(tx: &Tx<'_>, key: &str, value: &str) -> Result<(), StoreError> {
    let set =
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    tx.sql(|t| t.execute(set, [key, value])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::db::Access;
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Db {
        Db::open_with_ballast(dir.path(), Access::Write, 1 << 16).unwrap()
    }

    #[test]
    fn states_and_facts_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (shop, blog): (AppName, AppName) = ("shop".parse().unwrap(), "blog".parse().unwrap());
        let mut db = open(&dir);
        db.put_app(&shop, "{\"a\":1}", Timestamp(5)).unwrap();
        db.put_app(&shop, "{\"a\":2}", Timestamp(6)).unwrap();
        db.put_app(&blog, "{}", Timestamp(7)).unwrap();
        db.put_meta("k", "1").unwrap();
        db.put_meta("k", "2").unwrap();
        drop(db);
        let mut db = open(&dir);
        let names: Vec<_> = db.load_apps().unwrap().into_iter().map(|a| a.app).collect();
        assert_eq!(names, [blog.clone(), shop.clone()]);
        let row = db.get_app(&shop).unwrap().unwrap();
        assert_eq!((row.state.as_str(), row.updated), ("{\"a\":2}", Timestamp(6)));
        assert_eq!(db.get_meta("k").unwrap().as_deref(), Some("2"));
        db.delete_app(&blog).unwrap();
        assert_eq!(db.get_app(&blog).unwrap(), None);
        assert_eq!(db.get_meta("none").unwrap(), None);
    }

    /// A call may be repeated as long as its deployment runs, and a while after it.
    #[test]
    fn answered_calls_are_forgotten_a_while_after_their_deployment() {
        use crate::store::journal::{Begun, Finish};
        let dir = tempfile::tempdir().unwrap();
        let mut db = open(&dir);
        for (id, ended) in
            [("0123456789abcde0", Some(100)), ("0123456789abcde1", Some(200)), ("0123456789abcde2", None)]
        {
            let new = crate::store::journal::tests::deployment(id);
            assert_eq!(db.begin(&new).unwrap(), Begun::New);
            if let Some(at) = ended {
                let finish = Finish { verdict: "committed".into(), finished: Timestamp(at), failure: None };
                db.finish(&new.id, &finish).unwrap();
            }
            db.put_meta(&format!("alias:of-{id}"), id).unwrap();
        }
        db.put_meta("alias:of-nothing", "fedcba9876543210").unwrap();
        db.put_meta("abort:of-nothing", "{}").unwrap();
        db.put_meta("boot_id", "x").unwrap();
        assert_eq!(db.collect_aliases(Timestamp(150)).unwrap(), 3);
        let mut there = |key: &str| db.get_meta(key).unwrap().is_some();
        assert!(there("alias:of-0123456789abcde1") && there("alias:of-0123456789abcde2") && there("boot_id"));
        assert!(!there("alias:of-0123456789abcde0") && !there("alias:of-nothing"));
    }

    #[test]
    fn a_user_id_is_never_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let app: AppName = "shop".parse().unwrap();
        let range = 50_000..=50_002;
        let mut given = Vec::new();
        for _ in 0..3 {
            let mut db = open(&dir);
            given.push(db.allocate_uid(&app, &range, Timestamp(1)).unwrap());
            db.delete_app(&app).unwrap();
        }
        assert_eq!(given, [50_000, 50_001, 50_002]);
        let mut db = open(&dir);
        let out = db.allocate_uid(&app, &range, Timestamp(1));
        assert!(matches!(out, Err(StoreError::UidsUsedUp { first: 50_000, last: 50_002 })));
        assert_eq!(db.allocate_uid(&app, &(50_000..=50_003), Timestamp(1)).unwrap(), 50_003);
        assert_eq!(db.allocate_uid(&app, &(40_000..=40_001), Timestamp(1)).unwrap(), 40_000);
        let given = db.read("count", |tx| {
            tx.sql(|t| t.query_row("SELECT count(*) FROM uids", [], |r| r.get::<_, u32>(0)))
        });
        assert_eq!(given.unwrap(), 5);
    }
}
