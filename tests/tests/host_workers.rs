//! Processes without a listener: `overlap = false` never runs twice and never pauses longer than a start; and what
//! start, stop, restart and remove do.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
/// How long a worker of these tests takes to start.
const START_MS: u64 = 600;
/// A worker that crashes does so this long after its start.
const CRASH_MS: u64 = 300;
/// PID 1's back-off, and what a busy machine adds.
const SLACK_MS: u64 = 500 + 3000;

#[test]
fn bookworm_runs_workers_once() -> Result<()> {
    runs_workers_once(Suite::Bookworm)
}

#[test]
fn trixie_runs_workers_once() -> Result<()> {
    runs_workers_once(Suite::Trixie)
}

#[test]
fn bookworm_operates() -> Result<()> {
    operates(Suite::Bookworm)
}

#[test]
fn trixie_operates() -> Result<()> {
    operates(Suite::Trixie)
}

/// One life of a worker, by its log.
#[derive(Clone, Debug)]
struct Life {
    release: String,
    pid: String,
    from: u64,
    /// `None`: it runs, or crashed.
    until: Option<u64>,
}

/// All lives in the worker's log, in the order of their starts.
fn lives(site: &Site, app: &str) -> Result<Vec<Life>> {
    let text = site.host.read_file(&format!("/var/lib/deployd-apps/{app}/worker.log"))?;
    let mut lives: Vec<Life> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, release, pid, at] = words[..] else { anyhow::bail!("not a line of the log: {line}") };
        let at: u64 = at.parse()?;
        if what == "start" {
            lives.push(Life { release: release.to_owned(), pid: pid.to_owned(), from: at, until: None });
            continue;
        }
        let life = lives.iter_mut().rev().find(|life| life.pid == pid);
        life.with_context(|| format!("{pid} stopped without a start:\n{text}"))?.until = Some(at);
    }
    Ok(lives)
}

/// Requires that one follows the other: never two, and never none for longer than a start. What has no end but the
/// last crashed, `CRASH_MS` after its start.
fn require_one_at_a_time(lives: &[Life]) -> Result<()> {
    for pair in lives.windows(2) {
        let end = pair[0].until.unwrap_or(pair[0].from + CRASH_MS);
        ensure!(pair[1].from >= end, "two at a time: {pair:?}");
        let none = pair[1].from - end;
        ensure!(none <= START_MS + SLACK_MS, "none for {none} ms: {pair:?}");
    }
    ensure!(lives.last().is_some_and(|life| life.until.is_none()), "none runs: {lives:?}");
    Ok(())
}

/// Waits until the worker that started last is of this release and runs.
fn wait_running(site: &Site, app: &str, release: &str) -> Result<Vec<Life>> {
    wait::until(LIMIT, &format!("the worker of {release}"), || {
        let lives = lives(site, app).map_err(|e| format!("{e:#}"))?;
        match lives.last() {
            Some(life) if life.release == release && life.until.is_none() => Ok(lives),
            _ => Err(format!("{lives:?}")),
        }
    })
}

fn jobs() -> Spec {
    Spec::bare("jobs")
        .key("processes.worker", "exec", "bin/app worker")
        .raw("processes.worker", "overlap", "false")
        .key("processes.worker", "kill_timeout", "5s")
        .env("START_MS", &START_MS.to_string())
}

fn runs_workers_once(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let push = |name: &str, spec: &Spec, code: i32| -> Result<()> {
        let path = site.spec(name, &spec.text())?;
        site.push(&dir, &path)?.expect(code).with_context(|| name.to_owned()).map(drop)
    };
    push("v1", &jobs().env("STOP_MS", "400"), 0)?;
    wait_running(&site, "jobs", "v1")?;
    push("v2", &jobs(), 0)?;
    require_one_at_a_time(&wait_running(&site, "jobs", "v2")?)?;

    // One that crashes, and one that cannot even begin: the old one is back.
    let crashes = jobs().env("CRASH_AFTER_MS", &CRASH_MS.to_string()).key("deploy", "min_healthy", "5s");
    push("v3", &crashes, 4)?;
    require_one_at_a_time(&wait_running(&site, "jobs", "v2")?)?;
    push("v4", &jobs().key("processes.worker", "exec", "/bin/false"), 4)?;
    let lives = wait_running(&site, "jobs", "v2")?;
    require_one_at_a_time(&lives)?;
    ensure!(lives.iter().filter(|life| life.release == "v2").count() == 3, "{lives:?}");
    for label in ["v3", "v4"] {
        shop::require_no_traces(&site.host, "jobs", label)?;
    }
    site.require_silent_doctor()?;

    // With overlap and a word when it is ready, there is always one. (The old release has to allow it, too.)
    let both = jobs().raw("processes.worker", "overlap", "true").key("checks.up", "kind", "notify").key(
        "checks.up",
        "process",
        "worker",
    );
    push("v5", &both, 0)?;
    wait_running(&site, "jobs", "v5")?;
    push("v6", &both.clone().env("BUILD", "v6"), 0)?;
    let lives = wait_running(&site, "jobs", "v6")?;
    let [.., old, new] = &lives[..] else { anyhow::bail!("{lives:?}") };
    let ended = wait::until(LIMIT, "the end of v5", || {
        let lives = self::lives(&site, "jobs").map_err(|e| format!("{e:#}"))?;
        let life = lives.iter().find(|life| life.pid == old.pid && life.release == "v5");
        life.and_then(|life| life.until).ok_or_else(|| format!("{lives:?}"))
    })?;
    ensure!(old.release == "v5" && new.from <= ended, "none between {old:?} and {new:?}");
    site.wait_until_drained("jobs", LIMIT)?;
    site.require_silent_doctor()?;
    serves_and_works(&site, &dir)?;
    site.host.finish()
}

/// A web process and a worker in one release: neither clients nor jobs suffer, whether it succeeds or not.
fn serves_and_works(site: &Site, dir: &str) -> Result<()> {
    let spec = || {
        Spec::shop()
            .key("processes.worker", "exec", "bin/app worker")
            .raw("processes.worker", "overlap", "false")
            .key("deploy", "wait_timeout", "4s")
    };
    let push = |name: &str, spec: &Spec, code: i32| -> Result<()> {
        let path = site.spec(name, &spec.text())?;
        site.push(dir, &path)?.expect(code).with_context(|| name.to_owned()).map(drop)
    };
    push("shop1", &spec(), 0)?;
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    push("shop2", &spec().env("BUILD", "2"), 0)?;
    traffic.wait_for("v2", LIMIT)?;
    require_one_at_a_time(&wait_running(site, "shop", "v2")?)?;
    push("shop3", &spec().env("FAIL_HEALTH", "1"), 4)?;
    require_one_at_a_time(&wait_running(site, "shop", "v2")?)?;
    traffic.flows()?;
    traffic.end_unharmed()?;
    shop::require_no_traces(&site.host, "shop", "v3")?;
    shop::require_settled(site, LIMIT)
}

fn operates(suite: Suite) -> Result<()> {
    let mut site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let with_worker = Spec::shop().key("processes.worker", "exec", "bin/app worker");
    let path = site.spec("v1", &with_worker.text())?;
    site.deploy(&dir, &path)?;
    restarts(&site)?;
    stops_and_starts(&mut site)?;
    removes(&site, &dir, &path)?;
    site.host.finish()
}

/// New processes of the same release; clients wait in the listener and nobody is refused.
fn restarts(site: &Site) -> Result<()> {
    let unit = "deployd-shop-web-v1@1.service";
    let traffic = Traffic::on(&site.host, &["v1"])?;
    for _ in 0..3 {
        let before = shop::main_pid(&site.host, unit)?;
        site.ctl("restart -a shop")?.expect(0)?;
        ensure!(shop::main_pid(&site.host, unit)? != before, "the same process");
        traffic.flows()?;
    }
    traffic.end_unharmed()?;
    shop::require_settled(site, LIMIT)
}

fn stops_and_starts(site: &mut Site) -> Result<()> {
    site.ctl("stop -a shop")?.expect(0)?;
    is_stopped(site)?;
    site.host.reboot()?;
    site.wait_for_agent()?;
    is_stopped(site)?;
    let traces = site.host.ok("systemctl list-units --no-legend --plain 'deployd-shop-*'")?;
    ensure!(traces.is_empty(), "the boot started {traces}");
    site.ctl("start -a shop")?.expect(0)?;
    shop::wait_served(&site.host, "v1", LIMIT)?;
    shop::require_settled(site, LIMIT)?;
    site.host.reboot()?;
    shop::wait_served(&site.host, "v1", LIMIT)?;
    site.wait_for_agent()?;
    shop::require_settled(site, LIMIT)
}

fn is_stopped(site: &Site) -> Result<()> {
    ensure!(site.status("shop")?["stopped"] == true, "{}", site.status("shop")?);
    ensure!(shop::listeners(&site.host)? == 0, "something listens");
    ensure!(shop::main_pid(&site.host, "deployd-shop-web-v1@1.service")? == 0, "it runs");
    site.require_silent_doctor()
}

/// Removed, an app leaves nothing; pushed again, it is as new.
fn removes(site: &Site, dir: &str, path: &str) -> Result<()> {
    site.ctl("remove -a shop --yes")?.expect(0)?;
    let left = site.host.ok(
        "find /etc/systemd/system -name 'deployd-shop*'; getent passwd dpl-shop; getent group dpl-shop; \
         find /etc/sysusers.d -name '*dpl-shop*' 2>/dev/null; ls -d /var/lib/deployd/apps/shop 2>/dev/null; \
         ls -d /var/lib/deployd-apps/shop 2>/dev/null; ss -Hltn 'sport = :8080'; true",
    )?;
    ensure!(left.is_empty(), "left of the app: {left}");
    wait::until(LIMIT, "PID 1 to forget the app's units", || {
        let line = "systemctl list-units --all --no-legend --plain 'deployd-shop*'";
        match site.host.ok(line) {
            Ok(units) if units.is_empty() => Ok(()),
            Ok(units) => Err(units),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    site.ctl("status -a shop")?.expect(2)?;
    site.require_silent_doctor()?;
    site.deploy(dir, path)?;
    shop::wait_served(&site.host, &site.live("shop")?, LIMIT)?;
    shop::require_settled(site, LIMIT)
}
