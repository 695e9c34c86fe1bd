//! Requests, drivers, recovery and the janitor over the real store, with a host that only pretends.
//! What a host really does is shown by the suites on booted hosts.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends at what it did not expect"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deployd::driver::hold::Hold;
use deployd::driver::{Done, Port, Run};
use deployd::janitor::Drained;
use deployd::recover::recover;
use deployd::store::Store;
use deployd::supervisor::{Call, Claim, Claims, Observer, Supervisor};
use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::LeaseRequest;
use deployd_api::ids::{AppName, DeploymentId, Digest, Timestamp};
use deployd_api::release::{Origin, ReleaseDocument};
use deployd_api::spec::parse;
use deployd_core::action::{Action, UnitFile};
use deployd_core::facts::{ArtifactFacts, Epmd, Facts, Platform};
use deployd_core::plan::{Carrier, Push, Request, fingerprint};
use deployd_core::state::{AppState, Unended};
use tokio::sync::Notify;

/// How long anything may take that happens at once.
const SOON: Duration = Duration::from_secs(20);
const SPEC: &str = "app = \"shop\"\n[processes.web]\nexec = \"bin/web\"\n[listen.http]\naddress = \":8080\"\n\
                    [checks.health]\npath = \"/\"\n[deploy]\nmin_healthy = \"0s\"\n";

/// Carries nothing out, and remembers what was asked.
#[derive(Default)]
struct Pretender {
    boot: Mutex<String>,
    done: Mutex<Vec<String>>,
    files: Mutex<BTreeMap<String, String>>,
    uids: Mutex<u32>,
    /// Kinds of actions that wait until they are let go.
    waits: Mutex<BTreeSet<&'static str>>,
    fails: Mutex<BTreeSet<&'static str>>,
    go: Notify,
    refuses: bool,
}

impl Pretender {
    fn did(&self, kind: &str) -> usize {
        self.done.lock().unwrap().iter().filter(|k| *k == kind).count()
    }

    fn let_go(&self) {
        self.waits.lock().unwrap().clear();
        self.go.notify_waiters();
    }
}

impl Port for Pretender {
    async fn apply(&self, action: &Action, _: &Run) -> Result<Done, ErrorBody> {
        let kind = action.kind();
        self.done.lock().unwrap().push(kind.to_owned());
        loop {
            let go = self.go.notified();
            if !self.waits.lock().unwrap().contains(kind) {
                break;
            }
            go.await;
        }
        if let Action::Commit { target, .. } = action {
            self.files.lock().unwrap().insert(target.path.clone(), target.content.clone());
        }
        if self.fails.lock().unwrap().contains(kind) {
            return Err(ErrorBody::new(ErrorCode::StepFailed, "pretended", "nothing"));
        }
        Ok(Done::default())
    }
}

impl Drained for Pretender {
    async fn all_ended(&self, _: &[String]) -> Result<bool, ErrorBody> {
        Ok(true)
    }

    async fn all_carried(&self, _: &[Carrier]) -> Result<bool, ErrorBody> {
        Ok(true)
    }
}

impl Observer for Pretender {
    async fn facts(&self, _: &Request, state: AppState, _: &Claims) -> Result<Facts, ErrorBody> {
        Ok(Facts {
            state,
            now: Timestamp(1),
            host: "web1".to_owned(),
            region: None,
            apps_dir: "/nowhere/apps".to_owned(),
            runtime: "/nowhere/runtime".to_owned(),
            memory_available: 1 << 40,
            artifact: Some(ArtifactFacts {
                size: 1,
                complete: true,
                needs: 1,
                room: if self.refuses { 0 } else { 2 },
                beam: false,
                epmd: None,
                programs: BTreeMap::new(),
            }),
            strangers: BTreeMap::new(),
            user_taken: None,
            base_port: 20_000,
            keep: 5,
            epmd: Epmd::Missing,
            platform: Platform::default(),
            secrets: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            credentials: deployd_core::secrets::Form::Sealed,
        })
    }

    async fn prepare(&self, _: &AppName, _: &Request) -> Result<(), ErrorBody> {
        Ok(())
    }

    fn boot_id(&self) -> String {
        self.boot.lock().unwrap().clone()
    }

    fn is_committed(&self, target: &UnitFile, _: &str) -> bool {
        self.files.lock().unwrap().get(&target.path) == Some(&target.content)
    }

    async fn next_uid(&self) -> Result<u32, ErrorBody> {
        Ok(50_000 + *self.uids.lock().unwrap())
    }

    async fn allocate_uid(&self, _: &AppName) -> Result<u32, ErrorBody> {
        let mut given = self.uids.lock().unwrap();
        *given += 1;
        Ok(49_999 + *given)
    }
}

struct Site {
    dir: tempfile::TempDir,
    host: Arc<Pretender>,
    supervisor: Arc<Supervisor<Pretender>>,
}

async fn agent(dir: tempfile::TempDir, host: Arc<Pretender>, hold: Option<Hold>) -> Site {
    let store = Store::open(dir.path()).unwrap();
    let supervisor = Supervisor::open(store, host.clone(), hold).await.unwrap();
    recover(&supervisor).await.unwrap();
    Site { dir, host, supervisor }
}

async fn fresh() -> Site {
    agent(tempfile::tempdir().unwrap(), Arc::default(), None).await
}

fn app() -> AppName {
    "shop".parse().unwrap()
}

fn id(number: u32) -> DeploymentId {
    format!("deployment-{number:08}").parse().unwrap()
}

fn call(number: u32) -> Call {
    Call::new(id(number), Origin::default())
}

fn build(number: u32) -> Request {
    let document = ReleaseDocument::new(Digest::of(&number.to_be_bytes()), parse(SPEC).unwrap());
    Request::Push(Box::new(Push::new(document, None)))
}

impl Site {
    async fn submit(&self, number: u32, request: Request) -> Result<Deployment, ErrorBody> {
        let app = app();
        let called = self.supervisor.submit(&app, call(number), request);
        tokio::time::timeout(SOON, called).await.expect("the call ends")
    }

    /// Until the deployment is so.
    async fn until(&self, number: u32, what: impl Fn(&Deployment) -> bool) -> Deployment {
        let mut news = self.supervisor.news();
        let told = async {
            loop {
                let now = self.supervisor.known(&id(number)).await.unwrap().unwrap();
                if what(&now) {
                    return now;
                }
                news.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, told).await.expect("it comes to that")
    }

    async fn ends(&self, number: u32) -> Verdict {
        self.until(number, |d| d.verdict.is_some()).await.verdict.unwrap()
    }

    async fn state(&self) -> AppState {
        self.supervisor.app(&app()).await.unwrap().lock().await.clone()
    }

    fn wait_at(&self, kind: &'static str) {
        self.host.waits.lock().unwrap().insert(kind);
    }

    /// Until an action of this kind has begun.
    async fn begun(&self, kind: &str, times: usize) {
        let told = async {
            while self.host.did(kind) < times {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("{kind} begins"));
    }

    /// The agent dies and starts again, on the same boot or another.
    async fn again(self, boot: &str) -> Self {
        let host = Arc::new(Pretender {
            boot: Mutex::new(boot.to_owned()),
            files: Mutex::new(self.host.files.lock().unwrap().clone()),
            uids: Mutex::new(*self.host.uids.lock().unwrap()),
            ..Pretender::default()
        });
        // What a power loss leaves: the files, and nobody who holds them.
        let left = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() && file.file_name() != "lock" {
                std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
            }
        }
        agent(left, host, None).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_leaves_nothing() {
    let host = Arc::new(Pretender { refuses: true, ..Pretender::default() });
    let site = agent(tempfile::tempdir().unwrap(), host, None).await;
    let refused = site.submit(1, build(1)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DiskLow);
    assert!(site.supervisor.apps().await.is_empty());
    assert!(site.supervisor.app(&app()).await.is_err());
    assert!(site.supervisor.store().load_apps().await.unwrap().is_empty());
    assert_eq!(*site.host.uids.lock().unwrap(), 0, "no uid is used up");
    let other = site.submit(2, Request::Rollback { to: None }).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::AppNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_supersede_ends_the_watch_when_it_begins() {
    let site = fresh().await;
    site.wait_at("monitor");
    site.wait_at("reload");
    site.submit(1, build(1)).await.unwrap();
    site.until(1, |d| d.live).await;
    site.begun("reload", 1).await;
    let second = tokio::spawn({
        let supervisor = site.supervisor.clone();
        async move { supervisor.submit(&app(), call(2), build(2)).await }
    });
    // Whoever asks meanwhile is answered.
    assert_eq!(site.supervisor.running(&app()).await, Some(id(1)));
    site.supervisor.abort(&id(7), ErrorBody::new(ErrorCode::Aborted, "no", "no")).await.unwrap_err();
    site.host.waits.lock().unwrap().remove("reload");
    site.host.go.notify_waiters();
    let second = tokio::time::timeout(SOON, second).await.expect("the watch was not waited for");
    assert_eq!(second.unwrap().unwrap().replaces.map(|l| l.to_string()), Some("v1".to_owned()));
    assert_eq!(site.ends(1).await, Verdict::Committed);
    site.host.let_go();
    site.ends(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_undoes_what_is_watched() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.wait_at("monitor");
    site.submit(2, build(2)).await.unwrap();
    site.until(2, |d| d.live).await;
    let answer = site.submit(3, Request::Rollback { to: None }).await.unwrap();
    assert_eq!(answer.id, id(2), "the push itself is undone");
    assert_eq!(site.ends(2).await, Verdict::RolledBack);
    assert_eq!(site.submit(3, Request::Rollback { to: None }).await.unwrap().id, id(2), "a repeat is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_comes_after_the_commit_is_one_of_its_own() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.wait_at("await-empty-queue");
    site.submit(2, build(2)).await.unwrap();
    site.begun("await-empty-queue", 1).await;
    let rollback = tokio::spawn({
        let supervisor = site.supervisor.clone();
        async move { supervisor.submit(&app(), call(3), Request::Rollback { to: None }).await }
    });
    tokio::task::yield_now().await;
    site.host.let_go();
    let answer = tokio::time::timeout(SOON, rollback).await.unwrap().unwrap().unwrap();
    assert_eq!(answer.id, id(3));
    assert_eq!(site.ends(2).await, Verdict::Committed);
    assert_eq!(site.ends(3).await, Verdict::Committed);
    assert_eq!(site.state().await.live.map(|t| t.to_string()), Some("v1.2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_power_loss_cut_short_is_known_with_its_listener() {
    let site = agent(tempfile::tempdir().unwrap(), Arc::default(), None).await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    let site = site.again("").await;
    // The rename has happened, and nobody wrote it down.
    site.wait_at("commit");
    site.submit(2, build(2)).await.unwrap();
    site.begun("commit", 1).await;
    let target = "/etc/systemd/system/deployd-shop.target".to_owned();
    let row = site.supervisor.store().get(&id(2)).await.unwrap().unwrap();
    let plan: deployd_core::plan::Plan = serde_json::from_str(&row.new.plan).unwrap();
    let committed = plan.steps.iter().find_map(|s| match &s.action {
        Action::Commit { target, .. } => Some(target.content.clone()),
        _ => None,
    });
    site.host.files.lock().unwrap().insert(target, committed.unwrap());
    let site = site.again("another boot").await;
    assert_eq!(site.ends(2).await, Verdict::Committed);
    let state = site.state().await;
    assert_eq!(state.committed.map(|t| t.to_string()), Some("v2".to_owned()));
    let members: Vec<String> = state.groups.values().flatten().map(|s| s.tag.to_string()).collect();
    assert_eq!(members, ["v2"], "what booted is the member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_did_not_happen_is_stuck_and_may_be_repeated() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.host.fails.lock().unwrap().insert("stop-instance");
    site.submit(2, Request::Stop).await.unwrap();
    assert_eq!(site.ends(2).await, Verdict::Stuck);
    assert_eq!(site.state().await.unended, Some(Unended::Stop));
    site.host.fails.lock().unwrap().clear();
    site.submit(3, Request::Stop).await.unwrap();
    assert_eq!(site.ends(3).await, Verdict::Committed);
    let state = site.state().await;
    assert!(state.stopped && state.unended.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_app_is_gone_and_begins_anew() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.submit(2, Request::Remove).await.unwrap();
    assert_eq!(site.ends(2).await, Verdict::Committed);
    let site = site.again("").await;
    assert!(site.supervisor.apps().await.is_empty());
    site.submit(3, build(1)).await.unwrap();
    assert_eq!(site.ends(3).await, Verdict::Committed);
    assert_eq!(site.state().await.uid, 50_001, "a uid is never given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_janitor_keeps_away_from_what_is_deployed() {
    let site = fresh().await;
    assert!(site.supervisor.keep_idle(&app()).await.is_none(), "an unknown app");
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.wait_at("check");
    site.submit(2, build(2)).await.unwrap();
    site.begun("check", 2).await;
    assert!(site.supervisor.keep_idle(&app()).await.is_none());
    site.host.let_go();
    site.ends(2).await;
    let idle = loop {
        // Its driver says so a moment after its verdict.
        match site.supervisor.keep_idle(&app()).await {
            Some(idle) => break idle,
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let queued = tokio::spawn({
        let supervisor = site.supervisor.clone();
        async move { supervisor.submit(&app(), call(3), build(3)).await }
    });
    // Many times what it takes to begin.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(site.supervisor.known(&id(3)).await.unwrap().is_none(), "it began beside the janitor");
    drop(idle);
    tokio::time::timeout(SOON, queued).await.unwrap().unwrap().unwrap();
    site.ends(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_journal_keeps_no_app_from_going_on() {
    let site = fresh().await;
    site.wait_at("check");
    site.submit(1, build(1)).await.unwrap();
    site.begun("check", 1).await;
    let blog: AppName = "blog".parse().unwrap();
    let other = ReleaseDocument::new(Digest::of(b"blog"), parse(&SPEC.replace("shop", "blog")).unwrap());
    let other = Request::Push(Box::new(Push::new(other, None)));
    site.supervisor.submit(&blog, call(2), other).await.unwrap();
    site.begun("check", 2).await;
    let sqlite = rusqlite::Connection::open(site.dir.path().join("state.db")).unwrap();
    let edit = "UPDATE journal SET record = '{}' WHERE seq = 2 AND deployment = ?";
    assert_eq!(sqlite.execute(edit, [id(1).as_str()]).unwrap(), 1);
    drop(sqlite);
    let site = site.again("").await;
    assert_eq!(site.ends(2).await, Verdict::Committed, "the other app goes on");
    let damaged = site.supervisor.known(&id(1)).await;
    assert!(damaged.is_err(), "what is damaged is not guessed at: {damaged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_leaves_no_deployment_without_a_driver() {
    let site = fresh().await;
    for number in 1..20 {
        let app = app();
        let asked = site.supervisor.submit(&app, call(number), build(number));
        // Somewhere in its middle, whatever that is each time.
        let cut = tokio::time::timeout(Duration::from_micros(u64::from(number) * 150), asked).await;
        drop(cut);
        let settled = async {
            loop {
                let known = site.supervisor.known(&id(number)).await.unwrap();
                let ended = known.as_ref().is_some_and(|d| d.verdict.is_some());
                if ended || (known.is_none() && site.supervisor.keep_idle(&app).await.is_some()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, settled).await.expect("it ends, or it never began");
    }
    assert!(site.supervisor.store().unfinished().await.unwrap().is_empty());
}

/// It was answered, while a step was under way that cannot be left.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_outlives_the_agent() {
    let site = fresh().await;
    site.wait_at("seal");
    site.submit(1, build(1)).await.unwrap();
    site.begun("seal", 1).await;
    site.supervisor.abort(&id(1), ErrorBody::new(ErrorCode::Aborted, "no", "no")).await.unwrap();
    let site = site.again("").await;
    assert_eq!(site.ends(1).await, Verdict::RolledBack);
    assert_eq!(site.host.did("switch"), 0);
}

fn lease(holder: u32) -> LeaseRequest {
    let reason = "push v2".to_owned();
    LeaseRequest { id: id(holder), holder: format!("ops-{holder}"), reason, ttl_ms: 60_000 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_keeps_others_out_over_restarts_of_the_agent() {
    let site = fresh().await;
    // Of an app that the host does not know yet.
    let first = site.supervisor.take_lease(&app(), &lease(90)).await.unwrap();
    assert_eq!(site.submit(1, build(1)).await.unwrap_err().code, ErrorCode::LeaseHeld);
    let site = site.again("").await;
    let kept = site.supervisor.lease(&app()).await.unwrap().unwrap();
    assert_eq!((&kept.id, kept.epoch, kept.since), (&first.id, first.epoch, first.since));
    let other = site.supervisor.take_lease(&app(), &lease(91)).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::LeaseHeld);
    assert!(other.message.contains("ops-90") && other.message.contains("renewed"), "{}", other.message);
    let held = |number, epoch| Call { lease: Some(Claim { id: id(90), epoch }), ..call(number) };
    site.wait_at("check");
    site.supervisor.submit(&app(), held(2, first.epoch), build(1)).await.unwrap();
    assert_eq!(site.supervisor.give_up_lease(&app(), &id(90)).await.unwrap(), None);
    // What was taken goes on without it, and is known by its id, whoever asks.
    let next = site.supervisor.take_lease(&app(), &lease(91)).await.unwrap();
    assert!(next.epoch > first.epoch);
    assert_eq!(site.submit(2, build(1)).await.unwrap().id, id(2));
    site.host.let_go();
    assert_eq!(site.ends(2).await, Verdict::Committed);
    let lost = site.supervisor.submit(&app(), held(3, first.epoch), Request::Stop).await.unwrap_err();
    assert_eq!(lost.code, ErrorCode::LeaseLost);
    // No lease outlives its boot.
    let site = site.again("another").await;
    assert_eq!(site.supervisor.lease(&app()).await.unwrap(), None);
    site.submit(4, Request::Stop).await.unwrap();
    assert_eq!(site.ends(4).await, Verdict::Committed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_by_a_plan_of_before_ends_no_watch() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    let seen = fingerprint(&site.state().await, &BTreeMap::new());
    site.wait_at("monitor");
    site.submit(2, build(2)).await.unwrap();
    site.until(2, |d| d.live).await;
    let planned = |number| Call { expect: Some(seen), ..call(number) };
    let stale = site.supervisor.submit(&app(), planned(3), build(3)).await.unwrap_err();
    assert_eq!(stale.code, ErrorCode::PlanStale);
    assert!(site.supervisor.known(&id(2)).await.unwrap().unwrap().verdict.is_none(), "it is watched on");
    let seen = fingerprint(&site.state().await, &BTreeMap::new());
    let call = Call { expect: Some(seen), ..call(4) };
    site.supervisor.submit(&app(), call, build(4)).await.unwrap();
    site.host.let_go();
    assert_eq!(site.ends(4).await, Verdict::Committed);
}

fn migrating(number: u32) -> Request {
    let spec = format!("{SPEC}[migrate]\ncommand = \"bin/web migrate\"\n");
    let document = ReleaseDocument::new(Digest::of(&number.to_be_bytes()), parse(&spec).unwrap());
    Request::Push(Box::new(Push::new(document, None)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_an_agent_left_is_waited_for_and_after_a_reboot_it_is_told_of() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    site.wait_at("migrate");
    site.submit(2, migrating(2)).await.unwrap();
    site.begun("migrate", 1).await;
    let site = site.again("").await;
    assert_eq!(site.ends(2).await, Verdict::Committed);
    assert_eq!((site.host.did("migrate"), site.host.did("clear-migration")), (1, 1));
    site.wait_at("migrate");
    site.submit(3, migrating(3)).await.unwrap();
    site.begun("migrate", 2).await;
    let site = site.again("another").await;
    assert_eq!(site.ends(3).await, Verdict::RolledBack);
    assert_eq!(site.host.did("migrate"), 0, "never again by itself");
    let told = site.supervisor.known(&id(3)).await.unwrap().unwrap().failure.unwrap();
    assert_eq!(told.code, ErrorCode::Rebooted);
    assert!(told.causes.iter().any(|(_, text)| text.contains("may be applied")), "{told:?}");
    assert!(told.hint.contains("logs -a shop --instance migrate --release v3"), "{}", told.hint);
    assert_eq!(site.state().await.live.unwrap().to_string(), "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_the_end_of_its_push() {
    let site = fresh().await;
    site.submit(1, build(1)).await.unwrap();
    site.ends(1).await;
    let started = site.host.did("start-instance");
    site.host.fails.lock().unwrap().insert("migrate");
    site.submit(2, migrating(2)).await.unwrap();
    assert_eq!(site.ends(2).await, Verdict::RolledBack);
    assert_eq!(site.host.did("start-instance"), started, "nothing of it was started");
    assert_eq!(site.state().await.live.unwrap().to_string(), "v1");
}
