//! Processes without a listener: `overlap = false` never runs twice and never pauses longer than a start; and what
//! start, stop, restart and remove do.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::pid1;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
/// How long a worker of these tests takes to start.
const START_MS: u64 = 600;
/// A worker that crashes does so this long after its start.
const CRASH_MS: u64 = 300;
/// `RestartSec=` of the units, as documented: what PID 1 waits before a process that ended by itself runs again.
const RESTART_MS: u64 = 500;
/// A candidate whose process ends so often while it starts is given up.
const START_TRIES: u64 = 3;

#[test]
fn runs_workers_once() -> Result<()> {
    on_suites(11, runs_workers_once_on)
}

#[test]
fn operates() -> Result<()> {
    on_suites(12, operates_on)
}

/// One life of a worker, by its log.
#[derive(Clone, Debug)]
struct Life {
    release: String,
    pid: String,
    /// Whether another one lived when it began, as the kernel knows it.
    beside: bool,
    /// Its process began.
    begun: u64,
    /// It was ready.
    ready: Option<u64>,
    /// How and when it ended; `None`: it runs.
    end: Option<(End, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Crashed,
}

/// All lives in the worker's log, in the order of their beginnings.
fn lives(site: &Site, app: &str) -> Result<Vec<Life>> {
    let text = site.host.read_file(&format!("/var/lib/deployd-apps/{app}/worker.log"))?;
    let mut lives: Vec<Life> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, release, pid, at] = words[..] else { anyhow::bail!("not a line of the log: {line}") };
        let at: u64 = at.parse()?;
        if what == "begin" || what == "beside" {
            let (release, pid) = (release.to_owned(), pid.to_owned());
            lives.push(Life { release, pid, beside: what == "beside", begun: at, ready: None, end: None });
            continue;
        }
        let life = lives.iter_mut().rev().find(|life| life.pid == pid);
        let life = life.with_context(|| format!("{pid} has no beginning:\n{text}"))?;
        match what {
            "start" => life.ready = Some(at),
            "stop" => life.end = Some((End::Stopped, at)),
            "crash" => life.end = Some((End::Crashed, at)),
            _ => anyhow::bail!("not a line of the log: {line}"),
        }
    }
    Ok(lives)
}

/// Requires that one follows the other: never two, and never none for longer than the start of the next one, which
/// begins as soon as the one before has ended. `tries`: how often between two lives a program ran that cannot write
/// of itself.
fn require_one_at_a_time(lives: &[Life], tries: u64) -> Result<()> {
    ensure!(!lives.iter().any(|life| life.beside), "two at a time: {lives:#?}");
    let mut pauses = Vec::new();
    for pair in lives.windows(2) {
        let (how, end) = pair[0].end.with_context(|| format!("no end, and another one: {pair:?}"))?;
        ensure!(pair[1].begun >= end, "two at a time: {pair:?}");
        let back_offs = match how {
            End::Crashed => 1,
            // The same release again, and in between one that could not even begin.
            End::Stopped if pair[0].release == pair[1].release => tries,
            End::Stopped => 0,
        };
        let limit = Duration::from_millis(back_offs * RESTART_MS) + pid1::SCHEDULING;
        let none = Duration::from_millis(pair[1].begun - end);
        ensure!(none <= limit, "none for {none:?} that was not its own start: {pair:?}");
        pauses.push(none.as_millis());
    }
    println!("{} lives, pauses between them in ms: {pauses:?}", lives.len());
    ensure!(lives.last().is_some_and(|life| life.end.is_none()), "none runs: {lives:?}");
    Ok(())
}

/// Waits until the worker that started last is of this release and runs.
fn wait_running(site: &Site, app: &str, release: &str) -> Result<Vec<Life>> {
    wait::until(LIMIT, &format!("the worker of {release}"), || {
        let lives = lives(site, app).map_err(|e| format!("{e:#}"))?;
        match lives.last() {
            Some(life) if life.release == release && life.ready.is_some() && life.end.is_none() => Ok(lives),
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

fn runs_workers_once_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let push = |name: &str, spec: &Spec, code: i32| -> Result<()> {
        let path = site.spec(name, &spec.text())?;
        site.push(&dir, &path)?.expect(code).with_context(|| name.to_owned()).map(drop)
    };
    push("v1", &jobs().env("STOP_MS", "400"), 0)?;
    wait_running(&site, "jobs", "v1")?;
    push("v2", &jobs(), 0)?;
    require_one_at_a_time(&wait_running(&site, "jobs", "v2")?, 0)?;

    // One that crashes, and one that cannot even begin: the old one is back.
    let crashes = jobs().env("CRASH_AFTER_MS", &CRASH_MS.to_string()).key("deploy", "min_healthy", "5s");
    push("v3", &crashes, 4)?;
    require_one_at_a_time(&wait_running(&site, "jobs", "v2")?, 0)?;
    push("v4", &jobs().key("processes.worker", "exec", "/bin/false"), 4)?;
    let lives = wait_running(&site, "jobs", "v2")?;
    require_one_at_a_time(&lives, START_TRIES)?;
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
        life.and_then(|life| life.end).map(|(_, at)| at).ok_or_else(|| format!("{lives:?}"))
    })?;
    // That two are seen here shows that they would have been seen above.
    ensure!(new.beside && old.release == "v5", "not two at a time: {old:?} and {new:?}");
    ensure!(new.ready.is_some_and(|ready| ready <= ended), "none ready between {old:?} and {new:?}");
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
    require_one_at_a_time(&wait_running(site, "shop", "v2")?, 0)?;
    push("shop3", &spec().env("FAIL_HEALTH", "1"), 4)?;
    require_one_at_a_time(&wait_running(site, "shop", "v2")?, 0)?;
    traffic.flows()?;
    traffic.end_unharmed()?;
    shop::require_no_traces(&site.host, "shop", "v3")?;
    shop::require_settled(site, LIMIT)
}

fn operates_on(suite: Suite) -> Result<()> {
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
