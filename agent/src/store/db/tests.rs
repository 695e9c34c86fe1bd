//! The database file itself: schema, damage, locks, and a disk that is really full.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;
use crate::store::journal::{Append, Finish, NewDeployment, RecordRow};
use deployd_api::ids::Timestamp;

fn open(dir: &Path) -> Result<Db, StoreError> {
    Db::open_with_ballast(dir, Access::Write, 1 << 20)
}

#[test]
fn it_is_private_durable_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let db = open(&state).unwrap();
    let pragma = |name: &str| -> String {
        db.conn
            .query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0))
            .map(|v| format!("{v:?}"))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    assert_eq!(pragma("synchronous"), "Integer(2)");
    assert_eq!(pragma("foreign_keys"), "Integer(1)");
    assert_eq!(db.schema_version().unwrap(), MIGRATIONS.len() as u32);
    for name in ["state.db", "state.db-wal", "ballast", "lock"] {
        let mode = std::fs::metadata(state.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn two_writers_are_refused_and_a_reader_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::InUse { .. })));
    db.put_meta("k", "v").unwrap();
    let mut reader = Db::open(dir.path(), Access::Read).unwrap();
    assert_eq!(reader.get_meta("k").unwrap().as_deref(), Some("v"));
    assert!(matches!(reader.put_meta("k", "w"), Err(StoreError::ReadOnly { .. })));
    drop(db);
    open(dir.path()).unwrap();
}

#[test]
fn a_file_that_is_no_database_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state.db"), vec![b'x'; 8192]).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.hint().contains("backup"));
}

#[test]
fn damaged_pages_are_found_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path()).unwrap();
    for i in 0..200 {
        db.put_meta(&format!("key{i}"), &"v".repeat(300)).unwrap();
    }
    db.conn.pragma_update(None, "wal_checkpoint", "TRUNCATE").ok();
    drop(db);
    let path = dir.path().join("state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    assert!(len > 40_000, "the test needs pages to damage");
    bytes[len - 20_000..len - 4_000].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_newer_schema_is_refused_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).unwrap();
    db.conn.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(open(dir.path()), Err(StoreError::NewerSchema { found: 99, .. })));
    std::fs::remove_file(dir.path().join("state.db")).unwrap();
    std::fs::write(dir.path().join("state.db"), b"").unwrap();
    assert!(matches!(Db::open(dir.path(), Access::Read), Err(StoreError::OlderSchema { found: 0, .. })));
}

#[test]
fn a_held_write_lock_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path()).unwrap();
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    db.conn.busy_timeout(Duration::ZERO).unwrap();
    assert!(matches!(db.put_meta("k", "v"), Err(StoreError::Busy { .. })));
    other.execute_batch("ROLLBACK").unwrap();
    db.put_meta("k", "v").unwrap();
}

/// A small file system of its own, unmounted when dropped.
pub(crate) struct Tmpfs(pub(crate) tempfile::TempDir);

impl Tmpfs {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=0700");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        done.is_ok_and(|s| s.success()).then_some(Self(dir))
    }

    /// Takes every free block.
    pub(crate) fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.path().join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(done.is_ok_and(|s| s.success()), "the test's tmpfs is still mounted");
    }
}

fn append(db: &mut Db, new: &NewDeployment, seq: u64) -> Result<(), StoreError> {
    let row = RecordRow { seq, at: Timestamp(seq), record: format!("\"{}\"", "r".repeat(2000)) };
    db.append(&Append { deployment: new.id.clone(), row, app: None, finish: None })
}

#[test]
fn a_full_disk_still_reaches_a_verdict() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let disk = Tmpfs::mount("6m").expect("root can mount a tmpfs");
    let mut db = open(disk.0.path()).unwrap();
    let new = crate::store::journal::tests::deployment("full-disk-deployment");
    assert_eq!(db.begin(&new).unwrap(), crate::store::journal::Begun::New);
    append(&mut db, &new, 1).unwrap();
    disk.fill();
    // Appends go on into the ballast; without it the first of these fails.
    let mut seq = 2;
    while db.ballast.observe() == BallastState::Held {
        append(&mut db, &new, seq).unwrap();
        seq += 1;
        assert!(seq < 1000, "the disk never filled");
    }
    for _ in 0..50 {
        append(&mut db, &new, seq).unwrap();
        seq += 1;
    }
    // And what fails when that is used up too says so, and leaves whole rows.
    disk.fill();
    let failed = loop {
        match append(&mut db, &new, seq) {
            Ok(()) => seq += 1,
            Err(e) => break e,
        }
        assert!(seq < 5000, "the disk never filled");
    };
    assert!(matches!(failed, StoreError::Full { .. }), "{failed:?}");
    assert_eq!(db.load(&new.id).unwrap().len() as u64, seq - 1);
    assert_eq!(db.restore_ballast(), BallastState::Released, "there is no room yet");
    std::fs::remove_file(disk.0.path().join("filler")).unwrap();
    append(&mut db, &new, seq).unwrap();
    let finish = Finish { verdict: "rolled-back".into(), finished: Timestamp(9), failure: None };
    db.finish(&new.id, &finish).unwrap();
    assert_eq!(db.restore_ballast(), BallastState::Held);
}
