//! Deployments and their write-ahead records: what was intended, durable before it is done.
//!
//! The records are opaque JSON here; their meaning lives in `deployd-core`. Numbers have no gaps, and a
//! checksum chained over the rows makes an edited, missing or reordered row refuse to load. The chain
//! protects against damage, not against root. Only [`super::handle`] calls this.

use deployd_api::ids::{AppName, DeploymentId, Digest, Label, Timestamp};
use rusqlite::{OptionalExtension as _, Row, named_params, params};

use super::apps;
use super::db::{Db, Tx};
use super::error::StoreError;

/// How many finished deployments of an app are kept.
pub const KEEP_FINISHED: u32 = 200;

/// A deployment as it begins. What is here never changes: the checksums of its records cover it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeployment {
    /// The client's id.
    pub id: DeploymentId,
    /// The app.
    pub app: AppName,
    /// What it does: `push`, `rollback`, `stop`…
    pub kind: String,
    /// The release it goes to, if any.
    pub label: Option<Label>,
    /// That release's digest.
    pub digest: Option<Digest>,
    /// The request, as JSON.
    pub request: String,
    /// The plan, as JSON.
    pub plan: String,
    /// The boot it began in.
    pub boot_id: String,
    /// When it began.
    pub started: Timestamp,
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// The verdict.
    pub verdict: String,
    /// When.
    pub finished: Timestamp,
    /// Why, as JSON, unless it committed.
    pub failure: Option<String>,
}

/// A deployment as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentRow {
    /// What it began with.
    pub new: NewDeployment,
    /// How it ended; `None` while it runs, or when the agent died before it ended.
    pub finish: Option<Finish>,
    /// The number of its last record; 0 when there is none.
    pub last_seq: u64,
}

/// Whether a deployment was new.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Begun {
    /// It is now durable.
    New,
    /// The id is known: this is the deployment it names. Nothing was written.
    Known(Box<DeploymentRow>),
}

/// One record of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// Its number, from 1.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// The record, as JSON.
    pub record: String,
}

/// A record to append, with what must become durable in the same instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Whose journal.
    pub deployment: DeploymentId,
    /// The record; its number must be the next one.
    pub row: RecordRow,
    /// What becomes of the app's state, if it changes.
    pub app: Option<AppChange>,
    /// The verdict, when this is the last record.
    pub finish: Option<Finish>,
}

/// What becomes of an app's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppChange {
    /// Its new state, as JSON.
    Is(AppName, String),
    /// The host forgets it.
    Gone(AppName),
}

/// Where a journal stands.
struct Head {
    seq: u64,
    checksum: [u8; 32],
    finished: bool,
}

impl Db {
    /// Makes a deployment durable, or finds the one with this id.
    pub(crate) fn begin(&mut self, new: &NewDeployment) -> Result<Begun, StoreError> {
        self.write("begin a deployment", |tx| {
            if let Some(row) = select_one(tx, &new.id)? {
                return Ok(Begun::Known(Box::new(row)));
            }
            if let Some(other) = open_of(tx, &new.app)? {
                return Err(StoreError::Open { app: new.app.to_string(), deployment: other });
            }
            tx.sql(|t| {
                t.execute(
                    "INSERT INTO deployments (id, app, kind, label, digest, request, plan, boot_id, \
                     started_ms, head_seq, head_checksum) VALUES (:id, :app, :kind, :label, :digest, \
                     :request, :plan, :boot_id, :started, 0, :checksum)",
                    named_params! {
                        ":id": new.id.as_str(),
                        ":app": new.app.as_str(),
                        ":kind": new.kind,
                        ":label": new.label.map(|l| l.to_string()),
                        ":digest": new.digest.map(|d| d.to_string()),
                        ":request": new.request,
                        ":plan": new.plan,
                        ":boot_id": new.boot_id,
                        ":started": new.started.0 as i64,
                        ":checksum": anchor(new),
                    },
                )
            })?;
            Ok(Begun::New)
        })
    }

    /// Appends a record; the app's state and the verdict, if given, in the same transaction.
    pub(crate) fn append(&mut self, append: &Append) -> Result<(), StoreError> {
        self.write("append to the journal", |tx| {
            let id = append.deployment.as_str();
            let head = open_head(tx, id)?;
            let row = &append.row;
            if row.seq != head.seq + 1 {
                let (expected, found) = (head.seq + 1, row.seq);
                return Err(StoreError::Gap { deployment: id.to_owned(), expected, found });
            }
            let checksum = link(&head.checksum, row);
            tx.sql(|t| {
                t.execute(
                    "INSERT INTO journal (deployment, seq, at_ms, record, checksum) VALUES (?, ?, ?, ?, ?)",
                    params![id, row.seq as i64, row.at.0 as i64, row.record, checksum],
                )?;
                t.execute(
                    "UPDATE deployments SET head_seq = ?, head_checksum = ? WHERE id = ?",
                    params![row.seq as i64, checksum, id],
                )
            })?;
            match &append.app {
                Some(AppChange::Is(app, state)) => apps::put_in(tx, app, state, row.at)?,
                Some(AppChange::Gone(app)) => apps::delete_in(tx, app)?,
                None => {}
            }
            append.finish.as_ref().map_or(Ok(()), |f| finish_in(tx, id, f))
        })
    }

    /// Writes the verdict, and lets go of the oldest deployments of the app.
    pub(crate) fn finish(&mut self, id: &DeploymentId, finish: &Finish) -> Result<(), StoreError> {
        self.write("write the verdict", |tx| {
            open_head(tx, id.as_str())?;
            finish_in(tx, id.as_str(), finish)
        })
    }

    /// Every record of a deployment, in order; refused when any row is not as it was written.
    pub(crate) fn load(&mut self, id: &DeploymentId) -> Result<Vec<RecordRow>, StoreError> {
        self.read("load a journal", |tx| {
            let row = select_one(tx, id)?.ok_or_else(|| unknown(id.as_str()))?;
            let head = head(tx, id.as_str())?;
            let rows: Vec<(RecordRow, Vec<u8>)> = tx.sql(|t| {
                t.prepare(
                    "SELECT seq, at_ms, record, checksum FROM journal WHERE deployment = ? ORDER BY seq",
                )?
                .query_map([id.as_str()], |r| {
                    let row =
                        RecordRow { seq: unsigned(r, 0)?, at: Timestamp(unsigned(r, 1)?), record: r.get(2)? };
                    Ok((row, r.get(3)?))
                })?
                .collect()
            })?;
            verify_chain(&row.new, &head, rows)
        })
    }

    /// The deployment with this id.
    pub(crate) fn deployment(&mut self, id: &DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
        self.read("read a deployment", |tx| select_one(tx, id))
    }

    /// Every deployment without a verdict, oldest first. A row that cannot be read is passed over, and told:
    /// it must not keep the others from being gone on with.
    pub(crate) fn unfinished(&mut self) -> Result<Vec<DeploymentRow>, StoreError> {
        self.read("read the unfinished deployments", |tx| {
            let rows = select_each(tx, "WHERE verdict IS NULL ORDER BY ord", params![])?;
            let told = |what: &String| tracing::error!(what, "an unfinished deployment cannot be read");
            Ok(rows.into_iter().filter_map(|row| row.inspect_err(told).ok()).collect())
        })
    }

    /// The last `n` deployments of an app, newest first.
    pub(crate) fn recent(&mut self, app: &AppName, n: u32) -> Result<Vec<DeploymentRow>, StoreError> {
        self.read("read the last deployments", |tx| {
            select(tx, "WHERE app = ? ORDER BY ord DESC LIMIT ?", params![app.as_str(), n])
        })
    }
}

/// What the first record's checksum builds on: all of the deployment that never changes.
fn anchor(new: &NewDeployment) -> [u8; 32] {
    let label = new.label.map(|l| l.to_string()).unwrap_or_default();
    let digest = new.digest.map(|d| d.to_string()).unwrap_or_default();
    let started = new.started.0.to_string();
    let parts: [&str; 9] = [
        new.id.as_str(),
        new.app.as_str(),
        &new.kind,
        &label,
        &digest,
        &new.request,
        &new.plan,
        &new.boot_id,
        &started,
    ];
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The checksum of a record that follows a row with checksum `previous`.
fn link(previous: &[u8; 32], row: &RecordRow) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(previous)
        .update(&row.seq.to_le_bytes())
        .update(&row.at.0.to_le_bytes())
        .update(row.record.as_bytes());
    *hasher.finalize().as_bytes()
}

fn verify_chain(
    new: &NewDeployment,
    head: &Head,
    rows: Vec<(RecordRow, Vec<u8>)>,
) -> Result<Vec<RecordRow>, StoreError> {
    let tampered = |seq, reason| Err(StoreError::Tampered { deployment: new.id.to_string(), seq, reason });
    let mut last = anchor(new);
    let mut out = Vec::with_capacity(rows.len());
    for (i, (row, checksum)) in rows.into_iter().enumerate() {
        let expected = i as u64 + 1;
        if row.seq != expected {
            return tampered(expected, "it is missing");
        }
        last = link(&last, &row);
        if checksum != last {
            return tampered(expected, "its checksum does not follow from the rows before it");
        }
        out.push(row);
    }
    let count = out.len() as u64;
    if count < head.seq {
        return tampered(count + 1, "it is missing");
    }
    if count > head.seq || last != head.checksum {
        return tampered(count, "it is not the last row that was written");
    }
    Ok(out)
}

fn unknown(id: &str) -> StoreError {
    StoreError::UnknownDeployment { deployment: id.to_owned() }
}

fn head(tx: &Tx<'_>, id: &str) -> Result<Head, StoreError> {
    tx.sql(|t| {
        t.query_row(
            "SELECT head_seq, head_checksum, verdict IS NOT NULL FROM deployments WHERE id = ?",
            [id],
            |r| Ok(Head { seq: unsigned(r, 0)?, checksum: r.get(1)?, finished: r.get(2)? }),
        )
        .optional()
    })?
    .ok_or_else(|| unknown(id))
}

/// The head of a journal that may still grow.
fn open_head(tx: &Tx<'_>, id: &str) -> Result<Head, StoreError> {
    let head = head(tx, id)?;
    if head.finished { Err(StoreError::Finished { deployment: id.to_owned() }) } else { Ok(head) }
}

fn finish_in(tx: &Tx<'_>, id: &str, finish: &Finish) -> Result<(), StoreError> {
    tx.sql(|t| {
        t.execute(
            "UPDATE deployments SET verdict = ?, finished_ms = ?, failure = ? WHERE id = ?",
            params![finish.verdict, finish.finished.0 as i64, finish.failure, id],
        )?;
        t.execute(
            "DELETE FROM deployments WHERE app = (SELECT app FROM deployments WHERE id = ?1) \
             AND verdict IS NOT NULL AND ord NOT IN (SELECT ord FROM deployments \
             WHERE app = (SELECT app FROM deployments WHERE id = ?1) AND verdict IS NOT NULL \
             ORDER BY ord DESC LIMIT ?2)",
            params![id, KEEP_FINISHED],
        )
    })?;
    Ok(())
}

fn select_one(tx: &Tx<'_>, id: &DeploymentId) -> Result<Option<DeploymentRow>, StoreError> {
    Ok(select(tx, "WHERE id = ?", params![id.as_str()])?.pop())
}

/// The deployment of an app that has no verdict: one at a time.
fn open_of(tx: &Tx<'_>, app: &AppName) -> Result<Option<String>, StoreError> {
    tx.sql(|t| {
        let query = "SELECT id FROM deployments WHERE app = ? AND verdict IS NULL LIMIT 1";
        t.query_row(query, [app.as_str()], |r| r.get(0)).optional()
    })
}

fn select(
    tx: &Tx<'_>,
    rest: &str,
    params: &[&dyn rusqlite::ToSql],
) -> Result<Vec<DeploymentRow>, StoreError> {
    let rows = select_each(tx, rest, params)?;
    rows.into_iter().map(|r| r.map_err(|what| tx.corrupt(what))).collect()
}

fn select_each(
    tx: &Tx<'_>,
    rest: &str,
    params: &[&dyn rusqlite::ToSql],
) -> Result<Vec<Result<DeploymentRow, String>>, StoreError> {
    tx.sql(|t| {
        t.prepare(&format!(
            "SELECT id, app, kind, label, digest, request, plan, boot_id, started_ms, verdict, \
             finished_ms, failure, head_seq FROM deployments {rest}"
        ))?
        // A value of another kind is damage of this row, not of the query.
        .query_map(params, |r| Ok(deployment_row(r).unwrap_or_else(|e| Err(e.to_string()))))?
        .collect()
    })
}

fn deployment_row(r: &Row<'_>) -> rusqlite::Result<Result<DeploymentRow, String>> {
    let (id, app): (String, String) = (r.get(0)?, r.get(1)?);
    let (label, digest): (Option<String>, Option<String>) = (r.get(3)?, r.get(4)?);
    let finish = match (r.get::<_, Option<String>>(9)?, r.get::<_, Option<i64>>(10)?) {
        (Some(verdict), Some(at)) => {
            Some(Finish { verdict, finished: Timestamp(at as u64), failure: r.get(11)? })
        }
        (_, _) => None,
    };
    let (kind, request, plan, boot_id) = (r.get(2)?, r.get(5)?, r.get(6)?, r.get(7)?);
    let (started, last_seq) = (Timestamp(unsigned(r, 8)?), unsigned(r, 12)?);
    let parsed = || {
        let label = label.map(|l| l.parse()).transpose()?;
        let digest = digest.map(|d| d.parse()).transpose()?;
        let (id, app) = (id.parse()?, app.parse()?);
        let new = NewDeployment { id, app, kind, label, digest, request, plan, boot_id, started };
        Ok(DeploymentRow { new, finish, last_seq })
    };
    Ok(parsed().map_err(|e: deployd_api::ids::InvalidId| e.to_string()))
}

/// An integer that we only ever write from a `u64`; SQLite has signed ones.
fn unsigned(r: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = r.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

#[cfg(test)]
pub(crate) mod tests;
