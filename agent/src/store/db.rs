//! Opening, checking and migrating the SQLite file, and the one way to write to it.
//!
//! It must never drop a failed write: `write` either commits all or returns why not. Used by the
//! store's own thread only ([`super::handle`]); the tables belong to [`super::journal`] and [`super::apps`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::ballast::{BALLAST_BYTES, Ballast, BallastState};
use super::error::StoreError;

/// How long a write waits for another connection (`deployd journal show` reads, backups).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the start waits for an agent that is ending: its last transaction is short.
const LOCK_WAIT: Duration = Duration::from_millis(500);
/// The write-ahead log is cut back to this size after a checkpoint, in bytes.
const WAL_KEEP_BYTES: i64 = 4 << 20;

/// Every migration, in order: the schema's version is how many of them were applied. Only ever append.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE deployments (
        ord INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        app TEXT NOT NULL,
        kind TEXT NOT NULL,
        label TEXT,
        digest TEXT,
        request TEXT NOT NULL,
        plan TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        verdict TEXT,
        finished_ms INTEGER,
        failure TEXT,
        head_seq INTEGER NOT NULL,
        head_checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX deployments_by_app ON deployments (app, ord);
    CREATE INDEX deployments_unfinished ON deployments (ord) WHERE verdict IS NULL;
    CREATE TABLE journal (
        deployment TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL CHECK (seq >= 1),
        at_ms INTEGER NOT NULL,
        record TEXT NOT NULL,
        checksum BLOB NOT NULL,
        PRIMARY KEY (deployment, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE apps (app TEXT PRIMARY KEY, state TEXT NOT NULL, updated_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE uids (uid INTEGER PRIMARY KEY, app TEXT NOT NULL, given_ms INTEGER NOT NULL) STRICT;
",
    "
    CREATE TABLE secrets (
        app TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL CHECK (version >= 1),
        set_ms INTEGER NOT NULL,
        set_by TEXT NOT NULL,
        removed INTEGER NOT NULL,
        recovery TEXT,
        PRIMARY KEY (app, name)
    ) STRICT, WITHOUT ROWID;
",
];

/// What the opener wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write: one process at a time.
    Write,
    /// Only read; works while an agent runs.
    Read,
}

/// An open database.
#[derive(Debug)]
pub(crate) struct Db {
    conn: Connection,
    path: PathBuf,
    ballast: Ballast,
    /// Held for as long as we may write.
    _lock: Option<Flock<File>>,
}

impl Db {
    /// Opens `state.db` in this folder, checks it, brings its schema up to date, makes the ballast.
    pub(crate) fn open(folder: &Path, access: Access) -> Result<Self, StoreError> {
        Self::open_with_ballast(folder, access, BALLAST_BYTES)
    }

    pub(crate) fn open_with_ballast(folder: &Path, access: Access, ballast: u64) -> Result<Self, StoreError> {
        let path = folder.join("state.db");
        let lock = match access {
            Access::Write => Some(prepare_files(folder, &path)?),
            Access::Read => None,
        };
        let conn = connect(&path, access)?;
        let mut db = Self { conn, ballast: Ballast::new(folder.join("ballast"), ballast), path, _lock: lock };
        db.check_pages()?;
        let version = db.schema_version()?;
        let known = MIGRATIONS.len() as u32;
        if version > known {
            return Err(StoreError::NewerSchema { path: db.path, found: version, known });
        }
        if access == Access::Read && version < known {
            return Err(StoreError::OlderSchema { path: db.path, found: version, known });
        }
        if access == Access::Write {
            db.apply_migrations(version)?;
            db.restore_ballast();
        }
        Ok(db)
    }

    /// Runs `f` in one transaction, committed with an fsync before this returns. When the disk is full
    /// the ballast is given up and `f` runs once more; what fails then is the caller's to report.
    pub(crate) fn write<T>(
        &mut self,
        doing: &'static str,
        f: impl Fn(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.write_once(doing, &f) {
            Err(full) if full.is_full() => match self.ballast.release() {
                Ok(BallastState::Held) => {
                    tracing::error!(path = %self.path.display(), "the disk is full: ballast released");
                    self.write_once(doing, &f)
                }
                Ok(BallastState::Released) => Err(full),
                Err(error) => {
                    tracing::error!(%error, "failed to release the ballast");
                    Err(full)
                }
            },
            other => other,
        }
    }

    /// The same without the ballast, which is for what must come to its end: this may be refused.
    pub(crate) fn write_sparing<T>(
        &mut self,
        doing: &'static str,
        f: impl Fn(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.write_once(doing, &f)
    }

    fn write_once<T>(
        &mut self,
        doing: &'static str,
        f: impl Fn(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let sql = |e| StoreError::sql(&self.path, doing, e);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let tx = Tx { inner: tx, path: &self.path, doing };
        let out = f(&tx)?;
        tx.inner.commit().map_err(sql)?;
        Ok(out)
    }

    /// Runs `f` on one consistent view of the database.
    pub(crate) fn read<T>(
        &mut self,
        doing: &'static str,
        f: impl FnOnce(&Tx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tx = self.conn.transaction().map_err(|e| StoreError::sql(&self.path, doing, e))?;
        f(&Tx { inner: tx, path: &self.path, doing })
    }

    /// Makes the ballast again when there is room. A failure is logged: it costs no correctness now.
    pub(crate) fn restore_ballast(&self) -> BallastState {
        self.ballast.restore().unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to make the ballast");
            BallastState::Released
        })
    }

    /// Gives the ballast up, for a caller whose own write met a full disk.
    pub(crate) fn release_ballast(&self) -> Result<BallastState, StoreError> {
        let prepare = |source| StoreError::Prepare { path: self.path.with_file_name("ballast"), source };
        self.ballast.release().map_err(prepare)
    }

    fn check_pages(&self) -> Result<(), StoreError> {
        let sql = |e| StoreError::sql(&self.path, "check the database", e);
        let what: String =
            self.conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(sql)?;
        if what == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: self.path.clone(), what }) }
    }

    fn schema_version(&self) -> Result<u32, StoreError> {
        let sql = |e| StoreError::sql(&self.path, "read the schema's version", e);
        self.conn.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)
    }

    /// Each migration and its version number are one transaction: a crash leaves a whole schema.
    fn apply_migrations(&mut self, from: u32) -> Result<(), StoreError> {
        for (i, sql_text) in MIGRATIONS.iter().enumerate().skip(from as usize) {
            self.write("migrate the schema", |tx| {
                tx.sql(|t| t.execute_batch(sql_text))?;
                tx.sql(|t| t.pragma_update(None, "user_version", i as u32 + 1))
            })?;
        }
        Ok(())
    }
}

/// A transaction that knows what is being attempted, for its errors.
pub(crate) struct Tx<'a> {
    inner: Transaction<'a>,
    path: &'a Path,
    doing: &'static str,
}

impl Tx<'_> {
    /// Runs SQL, sorting its errors.
    pub(crate) fn sql<T>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        f(&self.inner).map_err(|e| StoreError::sql(self.path, self.doing, e))
    }

    /// A value in a row does not have the form we wrote.
    pub(crate) fn corrupt(&self, what: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { path: self.path.to_owned(), what: what.to_string() }
    }
}

/// The folder, a private database file (SQLite gives its log the same mode), and the writers' lock.
fn prepare_files(folder: &Path, path: &Path) -> Result<Flock<File>, StoreError> {
    let open = |path: &Path| {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        file.map_err(|source| StoreError::Prepare { path: path.to_owned(), source })
    };
    // Apps enter their release trees through this folder, so it is not private; what is in it is.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|source| StoreError::Prepare { path: folder.to_owned(), source })?;
    let lock_path = folder.join("lock");
    let lock = wait_lock(open(&lock_path)?).map_err(|errno| lock_error(lock_path, errno))?;
    open(path)?;
    Ok(lock)
}

/// Takes the writers' lock; an agent that is just ending gets a moment to let go of it.
fn wait_lock(mut file: File) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.map_err(|(_, errno)| errno),
        }
    }
}

fn lock_error(path: PathBuf, errno: Errno) -> StoreError {
    if errno == Errno::EWOULDBLOCK {
        StoreError::InUse { path }
    } else {
        StoreError::Prepare { path, source: errno.into() }
    }
}

fn connect(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let sql = |e| StoreError::sql(path, "open the database", e);
    let flags = match access {
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let conn = Connection::open_with_flags(path, flags).map_err(sql)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    conn.pragma_update(None, "foreign_keys", true).map_err(sql)?;
    conn.pragma_update(None, "trusted_schema", false).map_err(sql)?;
    if access == Access::Write {
        conn.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
        conn.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
        conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES).map_err(sql)?;
    }
    Ok(conn)
}

#[cfg(test)]
pub(crate) mod tests;
