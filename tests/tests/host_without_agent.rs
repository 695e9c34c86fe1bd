//! The data path never depends on the agent: stopped, masked and purged, apps serve, restart and boot.

use std::time::Duration;

use anyhow::{Result, ensure};
use deployd_tests::deb;
use deployd_tests::image::Suite;
use deployd_tests::pid1::{self, Restarted};
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;

const UNIT: &str = "deployd-shop-web-v1@1.service";
/// `RestartSec=` of the units, as documented.
const RESTART_US: u64 = 500_000;
/// A deadline, nothing more: how long it took is asked of PID 1.
const AGAIN: Duration = Duration::from_secs(30);

#[test]
fn bookworm_serves_without_agent() -> Result<()> {
    serves_without_agent(Suite::Bookworm)
}

#[test]
fn trixie_serves_without_agent() -> Result<()> {
    serves_without_agent(Suite::Trixie)
}

fn serves_without_agent(suite: Suite) -> Result<()> {
    let mut site = Site::boot(suite, "web1")?;
    let dir = site.artifact("v1")?;
    let spec = site.spec("v1", &Spec::shop().text())?;
    site.deploy(&dir, &spec)?;
    let pid = shop::main_pid(&site.host, UNIT)?;
    let traffic = Traffic::on(&site.host, &["v1"])?;
    for line in [
        "systemctl stop deployd.service",
        "systemctl mask --now deployd.service",
        "systemctl unmask deployd.service && dpkg --purge deployd",
    ] {
        site.host.ok(line)?;
        traffic.flows()?;
    }
    traffic.end_unharmed()?;
    site.host.ok("test ! -e /usr/bin/deployd && test ! -e /usr/lib/deployd")?;
    ensure!(shop::main_pid(&site.host, UNIT)? == pid, "the app was restarted");

    is_restarted_when_it_crashes(&site, pid)?;
    site.host.reboot()?;
    shop::wait_served(&site.host, "v1", AGAIN)?;
    is_up_with_the_host(&site)?;
    comes_back_to_an_agent(&site)?;
    site.host.finish()
}

/// Nobody is refused meanwhile: clients wait in the listener, which is PID 1's.
fn is_restarted_when_it_crashes(site: &Site, pid: u32) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v1"])?;
    site.host.ok(&format!("kill -9 {pid}"))?;
    wait::until(AGAIN, "another process to serve", || match shop::get(&site.host, "/pid") {
        Ok(now) if now != pid.to_string() => Ok(()),
        Ok(now) => Err(now),
        Err(error) => Err(format!("{error:#}")),
    })?;
    traffic.flows()?;
    traffic.end_after_kills(1)?;
    // What is not its own start is PID 1's back-off.
    let restarted = Restarted::of(&site.host, UNIT)?;
    let back_off = Duration::from_micros(RESTART_US);
    println!(
        "again after {:?}, active {} us later",
        restarted.pause(),
        restarted.active_us - restarted.started_us
    );
    ensure!(restarted.pause() >= back_off, "no back-off: {restarted:?}");
    ensure!(restarted.pause() <= back_off + pid1::SCHEDULING, "it waited for something: {restarted:?}");
    Ok(())
}

/// It belongs to the boot: it was active before the boot was done, at the first try.
fn is_up_with_the_host(site: &Site) -> Result<()> {
    let of = |unit: &str| pid1::number(&site.host, unit, "ActiveEnterTimestampMonotonic");
    let (app, boot) = (of(UNIT)?, of("multi-user.target")?);
    ensure!(app > 0 && app <= boot, "active at {app}, the boot was done at {boot}");
    let tries = pid1::number(&site.host, UNIT, "NRestarts")?;
    ensure!(tries == 0, "{tries} restarts since the boot");
    Ok(())
}

/// Installed again, the agent finds the app as it is and goes on with it.
fn comes_back_to_an_agent(site: &Site) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    deb::install(&site.host, &deb::packages()?)?;
    site.wait_for_agent()?;
    site.require_silent_doctor()?;
    ensure!(site.live("shop")? == "v1");
    let dir = site.artifact("v2")?;
    let spec = site.spec("v2", &Spec::shop().text())?;
    site.deploy(&dir, &spec)?;
    traffic.wait_for("v2", AGAIN)?;
    traffic.end_unharmed()?;
    shop::require_settled(site, Duration::from_secs(30))
}
