//! What a change of the config or of the certificates does while the agent runs, and what a bad file does not.

use super::*;
use crate::store::atomic;
use crate::tls::pki::Fleet;

struct Etc {
    dir: tempfile::TempDir,
    level: Arc<Mutex<Vec<LogLevel>>>,
    live: Live,
    disk: Reservations,
    trust: Trust,
    notices: Notices,
}

impl Etc {
    fn new(text: &str) -> (Self, Reloader) {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        atomic::write(&config, text.as_bytes(), 0o644).unwrap();
        let started = Settings::load(&config).unwrap().settings;
        let trust = Trust::open(&dir.path().join("tls"), clock::now());
        let live = Live::new(tunable(&started, &trust).unwrap());
        let disk = Reservations::new(dir.path().to_owned(), started.disk_reserve);
        let level: Arc<Mutex<Vec<LogLevel>>> = Arc::default();
        let seen = level.clone();
        let notices = Notices::default();
        let reloader = Reloader {
            config,
            started,
            live: live.clone(),
            disk: disk.clone(),
            set_level: Box::new(move |level| seen.lock().unwrap().push(level)),
            trust: trust.clone(),
            notices: notices.clone(),
        };
        (Self { dir, level, live, disk, trust, notices }, reloader)
    }

    fn write(&self, text: &str) {
        atomic::write(&self.dir.path().join("agent.toml"), text.as_bytes(), 0o644).unwrap();
    }

    fn found(&self) -> Vec<String> {
        let looks = self.notices.looks(&self.trust);
        looks.into_iter().flat_map(|(_, found)| found).map(|f| format!("{}: {}", f.code, f.what)).collect()
    }
}

#[test]
fn what_can_change_does_and_the_rest_waits() {
    let (etc, mut reloader) = Etc::new("");
    etc.write("region = \"fra\"\nkeep_releases = 9\ndisk_reserve = \"2gb\"\nhost_name = \"a\"\nlog_level = \"debug\"\n");
    reloader.look();
    let now = etc.live.get();
    assert_eq!(
        (now.region.as_deref(), now.keep, now.disk_reserve, now.name.as_str()),
        (Some("fra"), 9, 2 << 30, "a")
    );
    assert_eq!(etc.disk.reserve_bytes(), 2 << 30);
    assert_eq!(*etc.level.lock().unwrap(), [LogLevel::Debug]);
    assert!(etc.found().is_empty());
    etc.write("mark_prefix = 9\nuid_range = \"50000-50009\"\n");
    reloader.look();
    let found = etc.found();
    assert_eq!(
        found,
        ["restart_needed: mark_prefix, uid_range changed, and wait for a restart of the agent"]
    );
    assert_eq!(*etc.level.lock().unwrap(), [LogLevel::Debug, LogLevel::Info]);
    etc.write("");
    reloader.look();
    assert!(etc.found().is_empty());
}

#[test]
fn a_bad_config_leaves_the_old_one_and_is_told() {
    let (etc, mut reloader) = Etc::new("region = \"fra\"\n");
    etc.write("region = \"ams\"\nzzz = 1\n");
    reloader.look();
    assert_eq!(etc.live.get().region.as_deref(), Some("fra"));
    let found = etc.found();
    assert!(found[0].starts_with("config_invalid: ") && found[0].contains("zzz"), "{found:?}");
    etc.write("region = \"ams\"\n");
    reloader.look();
    assert_eq!((etc.live.get().region.as_deref(), etc.found().len()), (Some("ams"), 0));
}

#[test]
fn the_host_has_the_name_of_its_certificate_unless_the_config_names_it() {
    let (etc, mut reloader) = Etc::new("");
    assert_eq!(etc.live.get().name, facts::host_name().unwrap());
    let fleet = Fleet::new();
    fleet.enroll(&etc.dir.path().join("tls"), "web7");
    reloader.look();
    assert_eq!(etc.live.get().name, "web7");
    etc.write("host_name = \"front\"\n");
    reloader.look();
    assert_eq!(etc.live.get().name, "front");
}

/// Whole, with the kernel's events: files that come in several steps, folders that come later.
#[tokio::test]
async fn changes_are_seen_without_a_restart() {
    let (etc, reloader) = Etc::new("");
    let mut changes = etc.trust.changes();
    let task = tokio::spawn(reloader.run());
    let fleet = Fleet::new();
    // The folder was not there at the start; the watcher may need this to be told once more.
    let dir = etc.dir.path().join("tls");
    let seen = async {
        let mut round = 0;
        loop {
            round += 1;
            fleet.enroll(&dir, "web1");
            etc.write(&format!("# {round}\n"));
            let soon = tokio::time::timeout(Duration::from_secs(2), changes.changed());
            if soon.await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), seen).await.unwrap();
    assert_eq!(etc.trust.host().unwrap().as_str(), "web1");
    task.abort();
}
