//! Journals: order, chain, retention, and a writer that is killed.

use super::*;
use crate::store::db::Access;

pub(crate) fn deployment(id: &str) -> NewDeployment {
    NewDeployment {
        id: id.parse().unwrap(),
        app: "shop".parse().unwrap(),
        kind: "push".into(),
        label: Label::new(42),
        digest: Some(Digest::of(b"release")),
        request: "{}".into(),
        plan: "[]".into(),
        boot_id: "boot".into(),
        started: Timestamp(1),
    }
}

fn row(seq: u64) -> RecordRow {
    RecordRow { seq, at: Timestamp(100 + seq), record: format!("{{\"step\":{seq}}}") }
}

fn append(db: &mut Db, id: &DeploymentId, seq: u64) -> Result<(), StoreError> {
    db.append(&Append { deployment: id.clone(), row: row(seq), app: None, finish: None })
}

fn open(dir: &std::path::Path) -> Db {
    Db::open_with_ballast(dir, Access::Write, 1 << 16).unwrap()
}

fn done(verdict: &str) -> Finish {
    Finish { verdict: verdict.into(), finished: Timestamp(9), failure: Some("{}".into()) }
}

#[test]
fn a_deployment_from_begin_to_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path());
    let new = deployment("0123456789abcdef");
    assert_eq!(db.begin(&new).unwrap(), Begun::New);
    let Begun::Known(known) = db.begin(&new).unwrap() else { panic!("a repeat is known") };
    assert_eq!(*known, DeploymentRow { new: new.clone(), finish: None, last_seq: 0 });
    (1..=3).for_each(|seq| append(&mut db, &new.id, seq).unwrap());
    drop(db);

    let mut db = open(dir.path());
    assert_eq!(db.load(&new.id).unwrap(), [row(1), row(2), row(3)]);
    assert_eq!(db.unfinished().unwrap().len(), 1);
    let last = Append {
        deployment: new.id.clone(),
        row: row(4),
        app: Some(AppChange::Is(new.app.clone(), "{\"live\":42}".into())),
        finish: Some(done("committed")),
    };
    db.append(&last).unwrap();
    assert_eq!(db.unfinished().unwrap(), []);
    let row = db.deployment(&new.id).unwrap().unwrap();
    assert_eq!((row.last_seq, row.finish), (4, Some(done("committed"))));
    assert_eq!(db.get_app(&new.app).unwrap().unwrap().state, "{\"live\":42}");
    assert!(matches!(append(&mut db, &new.id, 5), Err(StoreError::Finished { .. })));
    assert!(matches!(db.finish(&new.id, &done("x")), Err(StoreError::Finished { .. })));
}

#[test]
fn numbers_without_gaps_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path());
    let new = deployment("0123456789abcdef");
    assert!(matches!(append(&mut db, &new.id, 1), Err(StoreError::UnknownDeployment { .. })));
    assert_eq!(db.begin(&new).unwrap(), Begun::New);
    for bad in [0, 2] {
        assert!(matches!(append(&mut db, &new.id, bad), Err(StoreError::Gap { expected: 1, .. })), "{bad}");
    }
    append(&mut db, &new.id, 1).unwrap();
    // A refused append takes its app state with it.
    let repeat = Append {
        deployment: new.id.clone(),
        row: row(1),
        app: Some(AppChange::Is(new.app.clone(), "{}".into())),
        finish: None,
    };
    assert!(matches!(db.append(&repeat), Err(StoreError::Gap { expected: 2, found: 1, .. })));
    assert_eq!(db.get_app(&new.app).unwrap(), None);
    assert_eq!(db.load(&new.id).unwrap().len(), 1);
}

#[test]
fn every_change_behind_our_back_is_refused() {
    let changes: [(&str, u64); 9] = [
        ("UPDATE journal SET record = '{}' WHERE seq = 2", 2),
        ("UPDATE journal SET at_ms = 7 WHERE seq = 3", 3),
        ("DELETE FROM journal WHERE seq = 1", 1),
        ("DELETE FROM journal WHERE seq = 2", 2),
        ("DELETE FROM journal WHERE seq = 3", 3),
        ("DELETE FROM journal", 1),
        (
            "UPDATE journal SET seq = 9 WHERE seq = 1; UPDATE journal SET seq = 1 WHERE seq = 2; \
             UPDATE journal SET seq = 2 WHERE seq = 9",
            1,
        ),
        ("UPDATE deployments SET plan = '[1]'", 1),
        ("UPDATE deployments SET head_seq = 2", 3),
    ];
    for (change, at) in changes {
        let dir = tempfile::tempdir().unwrap();
        let mut db = open(dir.path());
        let new = deployment("0123456789abcdef");
        assert_eq!(db.begin(&new).unwrap(), Begun::New);
        (1..=3).for_each(|seq| append(&mut db, &new.id, seq).unwrap());
        db.write("tamper", |tx| tx.sql(|t| t.execute_batch(change))).unwrap();
        match db.load(&new.id) {
            Err(StoreError::Tampered { seq, .. }) => assert_eq!(seq, at, "{change}"),
            other => panic!("{change}: {other:?}"),
        }
    }
}

#[test]
fn a_row_of_another_form_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path());
    assert_eq!(db.begin(&deployment("0123456789abcdef")).unwrap(), Begun::New);
    db.write("tamper", |tx| tx.sql(|t| t.execute_batch("UPDATE deployments SET label = 'x'"))).unwrap();
    assert!(db.unfinished().unwrap().is_empty(), "one bad row keeps no other from being gone on with");
    db.write("tamper", |tx| {
        tx.sql(|t| t.execute_batch("UPDATE deployments SET label = NULL, started_ms = -1"))
    })
    .unwrap();
    assert!(db.unfinished().unwrap().is_empty(), "one bad row keeps no other from being gone on with");
}

#[test]
fn old_finished_deployments_of_the_app_go_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = open(dir.path());
    let other = NewDeployment { app: "blog".parse().unwrap(), ..deployment("other-app-deployment") };
    assert_eq!(db.begin(&other).unwrap(), Begun::New);
    db.finish(&other.id, &done("committed")).unwrap();
    let total = u64::from(KEEP_FINISHED) + 3;
    for i in 0..total {
        let new = deployment(&format!("deployment-{i:08}"));
        assert_eq!(db.begin(&new).unwrap(), Begun::New);
        append(&mut db, &new.id, 1).unwrap();
        db.finish(&new.id, &done("committed")).unwrap();
    }
    let running = deployment("running-deployment");
    assert_eq!(db.begin(&running).unwrap(), Begun::New);
    let second = db.begin(&deployment("second-deployment"));
    assert!(matches!(second, Err(StoreError::Open { .. })), "one at a time: {second:?}");
    let kept = db.recent(&running.app, 1000).unwrap();
    assert_eq!(kept.len(), KEEP_FINISHED as usize + 1);
    assert_eq!(kept[0].new.id, running.id);
    assert_eq!(kept[1].new.id.as_str(), format!("deployment-{:08}", total - 1));
    assert!(db.deployment(&other.id).unwrap().is_some());
    let rows = db.read("count", |tx| {
        tx.sql(|t| t.query_row("SELECT count(*) FROM journal", [], |r| r.get::<_, i64>(0)))
    });
    assert_eq!(rows.unwrap(), i64::from(KEEP_FINISHED), "their records go with them");
    assert_eq!(db.recent(&running.app, 2).unwrap().len(), 2);
}
