//! What a person is shown is so: checks that are asked for the answer, what drains and with how many
//! connections, and an abort that does not wait for a candidate that never answers.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, Spec};
use deployd_tests::site::Site;
use deployd_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn shows_what_is() -> Result<()> {
    on_suites(9, shows_what_is_on)
}

fn shows_what_is_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let spec = site.spec("v1", &Spec::shop().key("deploy", "drain_timeout", "2m").text())?;
    site.deploy(&dir, &spec)?;
    drains_with_its_connections(&site, &dir)?;
    asks_the_checks(&site, &dir)?;
    aborts_at_once(&site, &dir)?;
    refuses_in_one_form(&site)?;
    site.host.finish()
}

/// The row of a release.
fn row(site: &Site, role: &str) -> Result<Value> {
    let status = site.status("shop")?;
    let rows = status["processes"].as_array().cloned().unwrap_or_default();
    let found = rows.into_iter().find(|row| row["role"] == role);
    found.with_context(|| format!("nothing is {role}: {status}"))
}

/// A request that lasts is seen to be open in the release that drains, and that one says until when.
fn drains_with_its_connections(site: &Site, dir: &str) -> Result<()> {
    let url = format!("http://127.0.0.1:{}/slow?ms=20000", shop::PORT);
    let mut client =
        site.host.spawn(&format!("python3 -c 'import urllib.request as r; r.urlopen(\"{url}\").read()'"))?;
    wait::until(LIMIT, "an open request", || match row(site, "live") {
        Ok(live) if live["connections"] == 1 => Ok(()),
        Ok(live) => Err(live.to_string()),
        Err(e) => Err(format!("{e:#}")),
    })?;
    let path = site.spec("v2", &Spec::shop().env("BUILD", "v2").text())?;
    site.deploy(dir, &path)?;
    let draining = row(site, "draining")?;
    ensure!(draining["connections"] == 1 && draining["cut_at"].is_u64(), "{draining}");
    ensure!(draining["instances"][0]["ending_since"].is_u64(), "{draining}");
    let shown = site.ctl("status -a shop")?.expect(0)?.stdout;
    ensure!(shown.contains("drain until "), "{shown}");
    ensure!(client.wait()?.success(), "the request that was open is lost");
    site.wait_until_drained("shop", LIMIT)
}

/// `ok` is said of what answers now; what decides nothing is shown all the same, with the reason.
fn asks_the_checks(site: &Site, dir: &str) -> Result<()> {
    ensure!(row(site, "live")?["checks"] == json!([["health", "ok"]]));
    let shown = Spec::shop().key("checks.lost", "path", "/nowhere").key("checks.lost", "gate", "none");
    let path = site.spec("v3", &shown.text())?;
    site.deploy(dir, &path)?;
    let checks = row(site, "live")?["checks"].clone();
    let lost = checks[1][1].as_str().unwrap_or_default();
    ensure!(checks[0] == json!(["health", "ok"]) && lost.contains("GET /nowhere: 404"), "{checks}");
    let shown = site.ctl("status -a shop")?.expect(0)?.stdout;
    ensure!(shown.contains("  lost failed  ") && shown.contains("! lost: GET /nowhere: 404"), "{shown}");
    // A program that cannot be reached is not said to be well.
    let unit = "deployd-shop-web-v3@1.service";
    site.host.ok(&format!("systemctl kill -s STOP {unit}"))?;
    let stopped = row(site, "live")?["checks"].clone();
    site.host.ok(&format!("systemctl kill -s CONT {unit}"))?;
    ensure!(stopped[0][1].as_str().is_some_and(|told| told.contains("no answer in")), "{stopped}");
    Ok(())
}

/// Nothing waits for the first connection that a candidate never accepts.
fn aborts_at_once(site: &Site, dir: &str) -> Result<()> {
    let before = site.live("shop")?;
    let spec = Spec::shop().env("NEVER_READY", "1").key("deploy", "wait_timeout", "10m");
    let mut pushing = shop::push(site, dir, "never", &spec)?;
    wait::until(LIMIT, "a deployment that runs", || match site.status("shop") {
        Ok(status) if status["deployment"]["step"].is_string() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(e) => Err(format!("{e:#}")),
    })?;
    ensure!(!pushing.has_ended()?, "the push had ended");
    let aborted = site.ctl("abort -a shop -o json")?.expect(0)?;
    let deployment: Value = serde_json::from_str(&aborted.stdout)?;
    ensure!(deployment["verdict"] == "rolled-back", "{deployment}");
    let called = pushing.called()?.expect(4)?;
    ensure!(called.stderr.contains(&format!("{before} serves on web1.")), "{}", called.stderr);
    ensure!(site.live("shop")? == before);
    shop::require_settled(site, LIMIT)
}

/// The answer to a request as it stands on the wire.
fn answer(site: &Site, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(site.host.outside("/run/deployd/deployd.sock"))?;
    write!(stream, "{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Also what the HTTP library refuses by itself; and files that are named must be there.
fn refuses_in_one_form(site: &Site) -> Result<()> {
    for (request, status, code) in [
        ("GET /v1/apps/shop/logs?lines=x", "400", "bad_request"),
        ("PUT /v1/doctor", "405", "bad_request"),
        ("GET /v1/nothing", "404", "not_found"),
    ] {
        let text = answer(site, request)?;
        let well = text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains("application/json");
        ensure!(well && text.contains(&format!("\"code\":\"{code}\"")), "{request}: {text}");
    }
    let missing = site.ctl("status -a shop -c /srv/none.toml")?;
    ensure!(missing.code == 2 && missing.stderr.contains("/srv/none.toml"), "{missing:?}");
    let config = site.host.exec("deployd --config /srv/none.toml check-config")?;
    ensure!(!config.status.success(), "a config that is not there is well");
    Ok(())
}
