//! A deploy while the host is busy with itself: the bus, PID 1, the agent and its package restart; then the host does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::deb;
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, Calling, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;

/// Long enough that the disturbance surely falls into it.
const START_MS: &str = "1500";
/// The same for what writes a package to the disk, perhaps to a slow one.
const UPGRADE_START_MS: &str = "5000";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn deploys_though_disturbed() -> Result<()> {
    on_suites(5, deploys_though_disturbed_on)
}

#[test]
fn undoes_what_a_reboot_interrupts() -> Result<()> {
    on_suites(6, undoes_what_a_reboot_interrupts_on)
}

fn first(suite: Suite) -> Result<Site> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("v1")?;
    let spec = site.spec("v1", &Spec::shop().text())?;
    site.deploy(&dir, &spec)?;
    Ok(site)
}

/// Pushes a release that takes its time to start, and returns when it does.
fn push_slowly(site: &Site, label: &str, start_ms: &str) -> Result<Calling> {
    let dir = site.artifact(label)?;
    let spec = Spec::shop().env("START_MS", start_ms).env("BUILD", label);
    let pushing = shop::push(site, &dir, label, &spec)?;
    shop::wait_active(&site.host, &format!("deployd-shop-web-{label}@1.service"), LIMIT)?;
    Ok(pushing)
}

/// Each disturbance twice in one deploy: while the candidate starts, and as soon as it serves.
fn deploys_though_disturbed_on(suite: Suite) -> Result<()> {
    let site = first(suite)?;
    let packages = deb::packages()?;
    let upgrade = "dpkg -i /var/tmp/deployd*.deb";
    site.host.ok("ls /var/tmp/deployd*.deb").with_context(|| format!("{packages:?} are not there"))?;
    let disturbances = [
        "systemctl restart dbus.service",
        "systemctl daemon-reexec",
        "systemctl daemon-reload",
        "systemctl restart deployd.service",
        upgrade,
    ];
    for (line, number) in disturbances.into_iter().zip(2..) {
        let (old, new) = (format!("v{}", number - 1), format!("v{number}"));
        deploys_though(&site, line, &old, &new)
            .with_context(|| format!("`{line}` while {new} replaces {old}"))?;
    }
    others_borrow_too(&site, "v6", "v7").context("while others borrow the listener of v7")?;
    site.host.finish()
}

/// An agent that is ended while it borrows a listener leaves a lender behind, which comes to the next one. Here they
/// come all the time: no loan may fail by one that is too early, or by a second one.
fn others_borrow_too(site: &Site, old: &str, new: &str) -> Result<()> {
    let unit = format!("deployd-shop-http-{new}");
    let line = format!(
        "while :; do ! systemctl -q is-active {unit}.socket || systemctl start deployd-fd-nb@{unit}; done"
    );
    let traffic = Traffic::on(&site.host, &[old, new])?;
    site.host.ok(&format!("systemd-run -q --unit=others bash -c '{line}'"))?;
    let pushing = push_slowly(site, new, START_MS)?;
    pushing.called()?.expect(0)?;
    site.host.ok("systemctl stop others.service")?;
    let lent = site.host.ok("journalctl -u others.service --grep 'Job for deployd-fd-nb@' -q | wc -l")?;
    ensure!(lent != "0", "no lender of theirs was turned away: they were never too early");
    traffic.end_unharmed()?;
    ensure!(site.live("shop")? == new);
    shop::require_settled(site, LIMIT)
}

fn deploys_though(site: &Site, line: &str, old: &str, new: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &[old, new])?;
    let mut pushing =
        push_slowly(site, new, if line.starts_with("dpkg") { UPGRADE_START_MS } else { START_MS })?;
    site.host.ok(line)?;
    ensure!(!pushing.has_ended()?, "too late: the push had ended");
    traffic.wait_for(new, LIMIT)?;
    site.host.ok(line)?;
    pushing.called()?.expect(0)?;
    site.wait_for_agent()?;
    ensure!(site.wait_for_verdict("shop", LIMIT)? == "committed");
    traffic.flows()?;
    traffic.end_unharmed()?;
    ensure!(site.live("shop")? == new);
    shop::require_settled(site, LIMIT)?;
    let left = shop::traces(&site.host, "shop", old)?;
    ensure!(left.iter().all(|l| l.contains("/releases/")), "left of {old}: {left:#?}");
    Ok(())
}

/// What was committed boots; a deployment that was not ends as rolled back, because of the reboot. At three moments:
/// while the candidate starts, while it is watched with all traffic, and right after its commit.
fn undoes_what_a_reboot_interrupts_on(suite: Suite) -> Result<()> {
    let mut site = first(suite)?;
    for (number, how) in (2..).zip([How::Reboot, How::Crash]) {
        let label = format!("v{number}");
        let mut pushing = push_slowly(&site, &label, START_MS)?;
        ensure!(!pushing.has_ended()?, "too late: the push had ended");
        how.go_down(&mut site)?;
        drop(pushing.called()?);
        is_undone(&site, &label).with_context(|| format!("{how:?} while {label} starts"))?;
    }
    while_it_is_watched(&mut site, How::Reboot, "v4").context("rebooted while v4 is watched")?;
    while_it_is_watched(&mut site, How::Crash, "v5").context("crashed while v5 is watched")?;
    right_after_the_commit(&mut site, How::Crash, "v1", "v6").context("crashed after the commit of v6")?;
    right_after_the_commit(&mut site, How::Reboot, "v6", "v7").context("rebooted after the commit of v7")?;
    // A release that a reboot undid is no worse for it: it is not refused.
    site.deploy("/srv/v3", "/srv/v3.toml")?;
    shop::wait_served(&site.host, &site.live("shop")?, LIMIT)?;
    shop::require_settled(&site, LIMIT)?;
    site.host.finish()
}

/// The new release has all traffic, the old one is warm, and nothing is committed: the old one boots.
fn while_it_is_watched(site: &mut Site, how: How, label: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v1", label])?;
    let dir = site.artifact(label)?;
    let spec = Spec::shop().key("deploy", "monitor", "5m").env("BUILD", label);
    let mut pushing = shop::push(site, &dir, label, &spec)?;
    wait::until(LIMIT, &format!("{label} to be live"), || match site.live("shop") {
        Ok(live) if live == label => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    traffic.wait_for(label, LIMIT)?;
    let warm = shop::main_pid(&site.host, "deployd-shop-web-v1@1.service")?;
    ensure!(warm != 0, "the old release is not warm");
    traffic.flows()?;
    ensure!(!pushing.has_ended()?, "too late: the push had ended");
    // Whoever is connected when a host goes down is lost with it: that is not ours.
    traffic.end_unharmed()?;
    how.go_down(site)?;
    drop(pushing.called()?);
    is_undone(site, label).with_context(|| format!("{how:?}"))
}

/// What is committed boots, whatever the agent still had to do.
fn right_after_the_commit(site: &mut Site, how: How, old: &str, new: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &[old, new])?;
    let dir = site.artifact(new)?;
    let pushing = shop::push(site, &dir, new, &Spec::shop().env("BUILD", new))?;
    pushing.called()?.expect(0)?;
    traffic.end_unharmed()?;
    how.go_down(site)?;
    shop::wait_served(&site.host, new, LIMIT)?;
    let traffic = Traffic::on(&site.host, &[new])?;
    site.wait_for_agent()?;
    ensure!(site.wait_for_verdict("shop", LIMIT)? == "committed");
    ensure!(site.live("shop")? == new);
    shop::require_settled(site, LIMIT)?;
    traffic.end_unharmed()?;
    let left = shop::traces(&site.host, "shop", old)?;
    ensure!(left.iter().all(|line| line.contains("/releases/")), "left of {old}: {left:#?}");
    Ok(())
}

/// After the boot: the release before serves, and the deployment says why it was undone.
fn is_undone(site: &Site, label: &str) -> Result<()> {
    shop::wait_served(&site.host, "v1", LIMIT)?;
    let traffic = Traffic::on(&site.host, &["v1"])?;
    site.wait_for_agent()?;
    ensure!(site.wait_for_verdict("shop", LIMIT)? == "rolled-back");
    require_reason(site, "rebooted")?;
    ensure!(site.live("shop")? == "v1");
    shop::require_no_traces(&site.host, "shop", label)?;
    shop::require_settled(site, LIMIT)?;
    traffic.end_unharmed().map(drop)
}

/// How the host goes down.
#[derive(Clone, Copy, Debug)]
enum How {
    Reboot,
    Crash,
}

impl How {
    /// Down, and up again.
    fn go_down(self, site: &mut Site) -> Result<()> {
        match self {
            Self::Reboot => site.host.reboot(),
            Self::Crash => {
                site.host.crash()?;
                site.host.start()
            }
        }
    }
}

/// `status` says why the last deployment was undone.
fn require_reason(site: &Site, code: &str) -> Result<()> {
    wait::until(LIMIT, &format!("the reason {code}"), || {
        let status = site.status("shop").map_err(|e| format!("{e:#}"))?;
        match status["last_failure"]["failure"]["code"].as_str() {
            Some(found) if found == code => Ok(()),
            _ => Err(status["last_failure"].to_string()),
        }
    })
}
