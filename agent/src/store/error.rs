//! What can go wrong with the database, and what a person does about it.
//!
//! SQLite's codes are sorted here, once, into the cases that callers tell apart.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode as Sql;

/// A database operation that did not happen. No variant means that something was partly written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file beside the database could not be made or opened.
    #[error("failed to prepare {path}")]
    Prepare {
        /// What was prepared.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another process has the store open for writing.
    #[error("{path} is in use by another agent")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The file is not a database, or its pages are damaged.
    #[error("{path} is damaged: {what}")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        what: String,
    },
    /// Rows of a journal were edited, removed or reordered behind our back.
    #[error("the journal of deployment {deployment} is damaged at row {seq}: {reason}")]
    Tampered {
        /// Whose journal.
        deployment: String,
        /// The first row that is wrong.
        seq: u64,
        /// How it is wrong.
        reason: &'static str,
    },
    /// An app's deployment has no verdict yet: another cannot begin.
    #[error("deployment {deployment} of {app} has not ended")]
    Open {
        /// The app.
        app: String,
        /// What has not ended.
        deployment: String,
    },
    /// Another connection held the write lock for longer than the time-out.
    #[error("failed to {doing}: the database is busy")]
    Busy {
        /// The attempt.
        doing: &'static str,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// The disk is full, and the ballast was not enough or already gone.
    #[error("failed to {doing}: the disk is full")]
    Full {
        /// The attempt.
        doing: &'static str,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// The file or its file system is read-only, or not ours.
    #[error("failed to {doing}: the database cannot be written")]
    ReadOnly {
        /// The attempt.
        doing: &'static str,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// A newer agent wrote this database.
    #[error("{path} has schema {found}, this agent knows {known}")]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema of this agent.
        known: u32,
    },
    /// An older agent wrote this database, and it was opened only for reading.
    #[error("{path} has schema {found}, this agent reads {known}")]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The schema of this agent.
        known: u32,
    },
    /// Anything else that SQLite reports.
    #[error("failed to {doing}")]
    Sql {
        /// The attempt.
        doing: &'static str,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// A record does not follow the last one.
    #[error("record {found} of deployment {deployment} does not follow: {expected} is next")]
    Gap {
        /// Whose journal.
        deployment: String,
        /// The number that comes next.
        expected: u64,
        /// The number that was given.
        found: u64,
    },
    /// The deployment has its verdict: nothing follows it.
    #[error("deployment {deployment} is finished")]
    Finished {
        /// Which.
        deployment: String,
    },
    /// There is no such deployment.
    #[error("deployment {deployment} is not known")]
    UnknownDeployment {
        /// Which.
        deployment: String,
    },
    /// Every user id of the range has been given once.
    #[error("every user id from {first} to {last} has been given once")]
    UidsUsedUp {
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
    },
    /// The store's thread has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Sorts an error of SQLite, met while `doing` something to the database at `path`.
    pub(crate) fn sql(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        let Some(code) = source.sqlite_error_code() else { return Self::of_value(path, doing, source) };
        match code {
            Sql::DatabaseBusy | Sql::DatabaseLocked => Self::Busy { doing, source },
            Sql::DiskFull => Self::Full { doing, source },
            // The shared-memory file grows outside SQLite's own space accounting.
            Sql::SystemIoFailure if super::disk::is_full(path) => Self::Full { doing, source },
            Sql::ReadOnly | Sql::PermissionDenied | Sql::CannotOpen => Self::ReadOnly { doing, source },
            Sql::DatabaseCorrupt | Sql::NotADatabase => {
                Self::Corrupt { path: path.to_owned(), what: source.to_string() }
            }
            _ => Self::Sql { doing, source },
        }
    }

    /// A value that does not have the form we wrote is damage, not a defect of the query.
    fn of_value(path: &Path, doing: &'static str, source: rusqlite::Error) -> Self {
        match source {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => {
                Self::Corrupt { path: path.to_owned(), what: source.to_string() }
            }
            source => Self::Sql { doing, source },
        }
    }

    /// What a person does next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "check that state_dir exists and that root may write it",
            Self::InUse { .. } => "stop the other agent: systemctl status deployd",
            Self::Corrupt { .. } | Self::Tampered { .. } => {
                "keep the file, put back state.db from a backup, or move it away: apps keep serving, and \
                 deployd starts without its history"
            }
            Self::Busy { .. } => "another program has state.db open: end it, then repeat the call",
            Self::Full { .. } => "free space on the file system of state_dir, then repeat the call",
            Self::ReadOnly { .. } => {
                "make the file system of state_dir writable: findmnt -T /var/lib/deployd"
            }
            Self::NewerSchema { .. } => "install the deployd that wrote it, or a newer one",
            Self::OlderSchema { .. } => "start deployd once: it brings the database up to date",
            Self::Sql { .. } | Self::Gap { .. } | Self::Finished { .. } | Self::Open { .. } => {
                "this is a defect of deployd: please report it with `deployd journal show`"
            }
            Self::UnknownDeployment { .. } => "deployd-ctl status --all shows what is known",
            Self::UidsUsedUp { .. } => "widen uid_range in agent.toml to ids that no one has used",
            Self::Closed => "look at the agent's log: journalctl -u deployd",
        }
    }

    /// Whether what is stored is damaged: reading it again tells the same.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Tampered { .. } | Self::Gap { .. })
    }

    /// Whether freeing disk space could make the same call succeed.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
