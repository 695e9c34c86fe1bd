//! The handle from async code, and from a process that is killed while it writes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;
use crate::store::crash::{CHILD_DIR, child_dir};
use crate::store::journal::tests::deployment;

fn record(seq: u64) -> RecordRow {
    RecordRow { seq, at: Timestamp(seq), record: format!("{seq}") }
}

fn with_state(deployment: DeploymentId, seq: u64, app: AppName, state: String) -> Append {
    Append { deployment, row: record(seq), app_state: Some((app, state)), finish: None }
}

#[tokio::test]
async fn calls_of_one_clone_are_seen_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let new = deployment("0123456789abcdef");
    assert_eq!(store.begin(new.clone()).await.unwrap(), Begun::New);
    let clone = store.clone();
    let app = new.app.clone();
    let id = new.id.clone();
    tokio::spawn(async move { clone.append(with_state(id, 1, app, "{}".into())).await })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.load(&new.id).await.unwrap(), [record(1)]);
    assert_eq!(store.load_apps().await.unwrap().len(), 1);
    assert_eq!(store.release_ballast().await.unwrap(), BallastState::Held);
    let finish = Finish { verdict: "committed".into(), finished: Timestamp(2), failure: None };
    store.finish(&new.id, finish).await.unwrap();
    assert_eq!(store.release_ballast().await.unwrap(), BallastState::Held, "made again at the verdict");
    let reader = Store::open_read_only(dir.path()).unwrap();
    assert!(reader.get(&new.id).await.unwrap().unwrap().finish.is_some());
}

/// Appends until it is killed, and says each number once the append returned.
#[tokio::test]
#[ignore = "a child of the test below"]
async fn child_that_appends_until_killed() {
    let store = Store::open(&child_dir()).unwrap();
    let new = deployment("0123456789abcdef");
    let mut seq = match store.begin(new.clone()).await.unwrap() {
        Begun::New => 0,
        Begun::Known(row) => row.last_seq,
    };
    loop {
        seq += 1;
        let state = seq.to_string();
        store.append(with_state(new.id.clone(), seq, new.app.clone(), state)).await.unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "durable {seq}").unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::handle::tests::child_that_appends_until_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let until = acknowledged + round * 7;
        while acknowledged < until {
            let line = lines.next().expect("the child ended").unwrap();
            if let Some(n) = line.rsplit_once("durable ").map(|(_, n)| n) {
                acknowledged = n.parse::<u64>().unwrap();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let new = deployment("0123456789abcdef");
        let rows = store.load(&new.id).await.unwrap();
        assert!(rows.len() as u64 >= acknowledged);
        let state = store.get_app(&new.app).await.unwrap().unwrap().state;
        assert_eq!(state, rows.len().to_string(), "record and state are one");
        acknowledged = rows.len() as u64;
    }
}
