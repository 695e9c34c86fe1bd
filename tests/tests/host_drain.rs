//! Long-lived connections over a swap: they are counted truly, end within `drain_timeout`, or live on without one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::load::monotonic_ns;
use deployd_tests::pid1;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;
use deployd_tests::websocket::WebSockets;

/// How many are held over the first swap.
const HELD: usize = 200;
/// The limit of the first release.
const DRAIN: Duration = Duration::from_secs(15);
/// How often the two counts are compared.
const SECOND: Duration = Duration::from_secs(1);
/// Nearly all of it.
const COUNTED: Duration = Duration::from_secs(12);
const V1: &str = "deployd-shop-web-v1@1.service";
const V2: &str = "deployd-shop-web-v2@1.service";
/// For what should happen at once.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn drains_websockets() -> Result<()> {
    on_suites(7, drains_websockets_on)
}

fn drains_websockets_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let limited = Spec::shop().key("deploy", "drain_timeout", &format!("{}s", DRAIN.as_secs()));
    let unlimited =
        |build: &str| Spec::shop().key("deploy", "drain_timeout", "unlimited").env("BUILD", build);
    deploy(&site, &dir, "v1", &limited)?;
    ends_within_the_limit(&site, &dir, &unlimited("v2"))?;
    lives_on_without_a_limit(&site, &dir, &unlimited)?;
    site.host.finish()
}

fn deploy(site: &Site, dir: &str, label: &str, spec: &Spec) -> Result<()> {
    let path = site.spec(label, &spec.text())?;
    site.deploy(dir, &path)?;
    ensure!(site.live("shop")? == label);
    Ok(())
}

/// v2 replaces v1, which has 200 clients.
fn ends_within_the_limit(site: &Site, dir: &str, next: &Spec) -> Result<()> {
    let mut held = WebSockets::open(&site.host, HELD)?;
    equals(site, "v1", "live", &mut held)?;
    let limit = pid1::property_of(&site.host, V1, "TimeoutStopUSec")?;
    ensure!(limit == format!("{}s", DRAIN.as_secs()), "v1 has {limit} to end");
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    deploy(site, dir, "v2", next)?;
    let mut counts = Vec::new();
    // By PID 1's clock; many are left for the end.
    let until_us =
        pid1::number(&site.host, V1, "StateChangeTimestampMonotonic")? + u64::try_from(COUNTED.as_micros())?;
    while monotonic_ns() / 1000 < until_us {
        let second = Instant::now();
        let open = equals(site, "v1", "draining", &mut held)?;
        counts.push(open);
        ensure!(open > HELD / 4, "{} of them are gone before the limit", HELD - open);
        // The rest of the second is for the server to notice.
        held.close(if open > HELD / 2 { 7 } else { 0 })?;
        wait::until(SOON, "the next second", || {
            if second.elapsed() < SECOND { Err("not yet") } else { Ok(()) }
        })?;
    }
    println!("the agent and the test both counted {counts:?}");
    ensure!(counts.len() >= 5 && counts[0] == HELD, "{counts:?}");
    traffic.end_unharmed()?;
    wait::until(DRAIN + SOON, "the end of all", || match held.count() {
        0 => Ok(()),
        left => Err(format!("{left} are open")),
    })?;
    let ended_us = monotonic_ns() / 1000;
    // From the moment at which PID 1 told v1 to end: it has all of its limit, and no more.
    let stop = pid1::last_stop(&site.host, V1)?;
    println!("v1 was told to end, and had ended {:?} later", stop.took());
    let most = DRAIN + pid1::SCHEDULING;
    ensure!((DRAIN..=most).contains(&stop.took()), "v1 had {:?} to drain: {stop:?}", stop.took());
    let clients = Duration::from_micros(ended_us.saturating_sub(stop.began_us));
    ensure!(clients <= most, "the last client was cut off after {clients:?}");
    is_gone(site, "v1")?;
    shop::require_settled(site, SOON)
}

/// v2 has no limit: its clients stay over two more releases and a restart of the agent.
fn lives_on_without_a_limit(site: &Site, dir: &str, spec: &dyn Fn(&str) -> Spec) -> Result<()> {
    let mut held = WebSockets::open(&site.host, 20)?;
    deploy(site, dir, "v3", &spec("v3"))?;
    let told = Instant::now();
    equals(site, "v2", "draining", &mut held)?;
    // Longer than any test waits is not yet without a limit: systemd's own would be 90 s.
    let limit = pid1::property_of(&site.host, V2, "TimeoutStopUSec")?;
    ensure!(limit == "infinity", "v2 has {limit} to end");
    let traffic = Traffic::on(&site.host, &["v3", "v4"])?;
    deploy(site, dir, "v4", &spec("v4"))?;
    traffic.end_unharmed()?;
    site.host.ok("systemctl restart deployd.service")?;
    site.wait_for_agent()?;
    wait::until(DRAIN * 2, "more time than the limit of others", || {
        let open = held.count();
        if open == 20 && told.elapsed() <= DRAIN { Err(format!("{open} open")) } else { Ok(()) }
    })?;
    ensure!(held.count() == 20, "{} of 20 live on", held.count());
    equals(site, "v2", "draining", &mut held)?;
    // What drained meanwhile is gone already.
    is_gone(site, "v3")?;
    held.close(19)?;
    equals(site, "v2", "draining", &mut held)?;
    held.close(1)?;
    is_gone(site, "v2")?;
    shop::require_settled(site, SOON)
}

/// Requires that, within a second, `status` counts as many connections of a release as the test does; that many.
/// Connections only ever end: the agent's number is the test's when it is not more than the test had before, and not
/// less than it has after.
fn equals(site: &Site, label: &str, role: &str, held: &mut WebSockets) -> Result<usize> {
    wait::until(SECOND, &format!("the true number of connections of {label}"), || {
        let before = held.count();
        let status = site.status("shop").map_err(|e| format!("{e:#}"))?;
        let after = held.count();
        let rows = status["processes"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["label"] == label && row["role"] == role);
        let said = row.and_then(|row| row["connections"].as_u64()).map(|said| said as usize);
        match said {
            Some(said) if (after..=before).contains(&said) => Ok(said),
            _ => Err(format!("{before} to {after} are open, status: {row:?}")),
        }
    })
}

/// Nothing of a release runs, and of its files only the tree is left, for rollback.
fn is_gone(site: &Site, label: &str) -> Result<()> {
    wait::until(SOON, &format!("the end of {label}"), || {
        let left = shop::traces(&site.host, "shop", label).map_err(|e| format!("{e:#}"))?;
        let units: Vec<&String> = left.iter().filter(|line| !line.contains("/releases/")).collect();
        if units.is_empty() { Ok(()) } else { Err(format!("{units:?}")) }
    })
}
