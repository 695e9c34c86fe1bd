//! Ways from one release to the next besides the swap that all other suites make: `immediate`, a newer push or a
//! rollback while one is watched, several apps at once; and the folders that a release may write.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::pid1;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn goes_other_ways() -> Result<()> {
    on_suites(4, goes_other_ways_on)
}

fn goes_other_ways_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    site.deploy(&dir, &site.spec("v1", &Spec::shop().env("STOP_MS", "500").text())?)?;
    immediate_stops_before_it_starts(&site, &dir)?;
    immediate_brings_the_old_one_back(&site, &dir)?;
    a_newer_push_ends_the_watch(&site, &dir)?;
    a_rollback_undoes_what_is_watched(&site, &dir)?;
    a_kept_build_is_watched_again(&site, &dir)?;
    apps_do_not_wait_for_one_another(&site, &dir)?;
    folders_are_private_or_kept(&site, &dir)?;
    a_port_is_one_apps(&site, &dir)?;
    site.require_silent_doctor()?;
    site.host.finish()
}

/// Another app.
fn blog(address: &str) -> Spec {
    let spec = Spec::bare("blog").key("processes.web", "exec", "bin/app web");
    spec.key("listen.http", "address", address).key("deploy", "min_healthy", "0s")
}

fn watched() -> Spec {
    Spec::shop().key("deploy", "monitor", "5m")
}

/// Clients wait in the listener, none is lost, and at no time two of them run.
fn immediate_stops_before_it_starts(site: &Site, dir: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    let spec = site.spec("v2", &Spec::shop().env("BUILD", "2").text())?;
    site.ctl(&format!("push {dir} -c {spec} --strategy immediate --wait committed"))?.expect(0)?;
    traffic.wait_for("v2", LIMIT)?;
    traffic.end_unharmed()?;
    let stop = pid1::last_stop(&site.host, "deployd-shop-web-v1@1.service")?;
    ensure!(stop.took() >= Duration::from_millis(400), "it ended at once, which shows nothing: {stop:?}");
    let started =
        pid1::number(&site.host, "deployd-shop-web-v2@1.service", "ExecMainStartTimestampMonotonic")?;
    ensure!(started >= stop.done_us, "v2 began at {started}, v1: {stop:?}");
    site.wait_until_drained("shop", LIMIT)
}

fn immediate_brings_the_old_one_back(site: &Site, dir: &str) -> Result<()> {
    let bad = Spec::shop().env("FAIL_HEALTH", "1").key("deploy", "wait_timeout", "2s");
    let spec = site.spec("v3", &bad.text())?;
    site.ctl(&format!("push {dir} -c {spec} --strategy immediate"))?.expect(4)?;
    ensure!(site.live("shop")? == "v2");
    shop::wait_served(&site.host, "v2", LIMIT)?;
    shop::require_settled(site, LIMIT)?;
    shop::require_no_traces(&site.host, "shop", "v3")
}

/// What is live and watched is committed by the next push.
fn a_newer_push_ends_the_watch(site: &Site, dir: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v2", "v4", "v5"])?;
    let mut ids = Vec::new();
    for label in ["v4", "v5"] {
        let spec = site.spec(label, &watched().env("BUILD", label).text())?;
        let told = site.ctl(&format!("push {dir} -c {spec} -o json"))?.expect(0)?.stdout;
        let told: serde_json::Value = serde_json::from_str(&told).context("push told no JSON")?;
        ids.push(told["id"].as_str().context("a deployment has an id")?.to_owned());
        ensure!(site.live("shop")? == label);
    }
    traffic.end_unharmed()?;
    let releases = site.ctl("releases -a shop -o json")?.expect(0)?.stdout;
    let found = ["\"v4\"", "\"v5\""].iter().all(|label| releases.contains(label));
    ensure!(found && site.verdict("shop")?.is_none(), "{releases}");
    // The one before: its watch was not waited for, and it is committed all the same.
    let ended = site.journal(&ids[0])?;
    let superseded = ended.iter().any(|record| record["record"] == "superseded");
    let committed =
        ended.iter().any(|record| record["record"] == "finished" && record["verdict"] == "committed");
    ensure!(superseded && committed, "{ended:?}");
    Ok(())
}

/// The old one is warm: going back is one program.
fn a_rollback_undoes_what_is_watched(site: &Site, _: &str) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v4", "v5"])?;
    let told = site.ctl("rollback -a shop")?.expect(0)?;
    ensure!(site.live("shop")? == "v4", "{}{}", told.stdout, told.stderr);
    traffic.end_unharmed()?;
    shop::require_no_traces(&site.host, "shop", "v5")
}

/// A build that the host still has keeps its label, and is watched like any other.
fn a_kept_build_is_watched_again(site: &Site, dir: &str) -> Result<()> {
    let spec = site.spec("v2", &Spec::shop().env("BUILD", "2").text())?;
    site.deploy(dir, &spec)?;
    ensure!(site.live("shop")? == "v2");
    // A run of its own, so that it never meets units of the first that still end.
    site.host.ok("systemctl is-active deployd-shop-web-v2.2@1.service")?;
    site.wait_until_drained("shop", LIMIT)
}

/// One deployment an app, in turn; another app's does not wait.
fn apps_do_not_wait_for_one_another(site: &Site, dir: &str) -> Result<()> {
    let slow = Spec::shop().env("START_MS", "8000");
    let mut first = shop::push(site, dir, "slow", &slow)?;
    deployd_tests::wait::until(LIMIT, "a deployment that runs", || match site.status("shop") {
        Ok(status) if status["deployment"]["step"].is_string() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(e) => Err(format!("{e:#}")),
    })?;
    // It waits for the one that runs.
    let second = shop::push(site, dir, "second", &Spec::shop().env("BUILD", "second"))?;
    site.deploy(dir, &site.spec("blog", &blog(":8090").text())?)?;
    ensure!(!first.has_ended()?, "blog waited for shop, or came too late");
    let told = first.called()?.expect(0)?;
    ensure!(told.stdout.contains("live"), "{}", told.stdout);
    second.called()?.expect(0)?;
    site.wait_until_drained("shop", LIMIT)?;
    site.ctl("remove -a blog --yes")?.expect(0)?;
    shop::require_no_traces(&site.host, "blog", "v1")
}

/// `writable` is fresh with each release, `shared` is kept.
fn folders_are_private_or_kept(site: &Site, dir: &str) -> Result<()> {
    let says = |build: &str| {
        Spec::shop()
            .env("BUILD", build)
            .raw("processes.web", "writable", "[\"tmp\"]")
            .raw("processes.web", "shared", "[\"public/uploads\"]")
            .key("checks.writes", "kind", "exec")
            .key("checks.writes", "gate", "traffic")
            .key(
                "checks.writes",
                "command",
                "sh -c 'echo x >>tmp/log; echo x >>public/uploads/log; wc -l <tmp/log >tmp/n'",
            )
    };
    for build in ["folders 1", "folders 2"] {
        site.deploy(dir, &site.spec("folders", &says(build).text())?)?;
        site.wait_until_drained("shop", LIMIT)?;
    }
    let kept = site.host.ok("cat /var/lib/deployd-apps/shop/shared/public/uploads/log")?;
    ensure!(kept.matches('x').count() >= 2, "what is shared is kept: {kept:?}");
    let fresh = site.host.ok("cat $(find /var/lib/deployd /var/lib/deployd-apps -path '*tmp*/n')")?;
    let fresh: Vec<&str> = fresh.split_whitespace().collect();
    ensure!(!fresh.is_empty() && fresh.iter().all(|n| *n == "1"), "what is private begins empty: {fresh:?}");
    site.host.ok("ls /var/lib/deployd-apps/shop").context("the app's state stays")?;
    Ok(())
}

/// While an app is stopped another may take its port; then it is not started into that one's clients.
fn a_port_is_one_apps(site: &Site, dir: &str) -> Result<()> {
    site.ctl("stop -a shop")?.expect(0)?;
    site.deploy(dir, &site.spec("blog", &blog(":8080").text())?)?;
    let told = site.ctl("start -a shop")?.expect(3)?;
    ensure!(told.stderr.contains("port 8080 of [listen.http] is held by"), "{}", told.stderr);
    site.ctl("remove -a blog --yes")?.expect(0)?;
    site.ctl("start -a shop")?.expect(0)?;
    shop::wait_served(&site.host, &site.live("shop")?, LIMIT)
}
