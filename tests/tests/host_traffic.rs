//! Who gets traffic, and to what end it is carried: private ports behind a proxy, candidates that never accept, and
//! checks whose command outlives the one who asked.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, PORT, Spec, Traffic};
use deployd_tests::site::Site;
use deployd_tests::wait;

const LIMIT: Duration = Duration::from_mins(1);

#[test]
fn bookworm_sends_traffic_where_it_is_served() -> Result<()> {
    let site = Site::boot(Suite::Bookworm, "web1")?;
    let dir = site.artifact("app")?;
    a_slow_start_behind_a_proxy_loses_nobody(&site, &dir)?;
    what_a_proxy_has_is_carried_to_the_end(&site, &dir)?;
    going_back_finds_free_ports(&site)?;
    who_never_accepts_gets_nothing(&site, &dir)?;
    site.host.finish()
}

#[test]
fn bookworm_checks_outlive_who_asked() -> Result<()> {
    let site = Site::boot(Suite::Bookworm, "web1")?;
    let dir = site.artifact("app")?;
    site.deploy(&dir, &site.spec("v1", &Spec::shop().text())?)?;
    a_check_outlives_the_agent(&site, &dir)?;
    an_aborted_check_leaves_nothing(&site, &dir)?;
    a_flood_of_output_is_a_failed_check(&site, &dir)?;
    site.host.finish()
}

/// The shop without any check.
fn unchecked() -> Spec {
    Spec::bare("shop").key("processes.web", "exec", "bin/app web").key("listen.http", "address", ":8080")
}

fn proxied() -> Spec {
    unchecked().key("listen.http", "handoff", "port").env("START_MS", "2000")
}

/// The proxy listens before the app does; without a check nothing else waits for it.
fn a_slow_start_behind_a_proxy_loses_nobody(site: &Site, dir: &str) -> Result<()> {
    site.deploy(dir, &site.spec("v1", &proxied().text())?)?;
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    site.deploy(dir, &site.spec("v2", &proxied().env("BUILD", "2").text())?)?;
    traffic.wait_for("v2", LIMIT)?;
    site.wait_until_drained("shop", LIMIT)?;
    traffic.end_unharmed()?;
    shop::require_settled(site, LIMIT)
}

/// The app has written all of its answer and ended; the proxy has most of it still to give.
fn what_a_proxy_has_is_carried_to_the_end(site: &Site, dir: &str) -> Result<()> {
    const SIZE: usize = 2_000_000;
    let (told, begun) = std::sync::mpsc::channel();
    let (go_on, ended) = std::sync::mpsc::channel();
    let netns = site.host.netns();
    let client = thread::spawn(move || {
        shop::within(netns, move || {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))?;
            stream.set_read_timeout(Some(LIMIT))?;
            write!(stream, "GET /big?bytes={SIZE} HTTP/1.1\r\nHost: shop\r\n\r\n")?;
            let mut some = vec![0; 20_000];
            let mut got = stream.read(&mut some[..1])?;
            told.send(())?;
            ended.recv()?;
            // Two seconds in all: the agent looks once a second whether the proxy may end.
            while let Ok(length @ 1..) = stream.read(&mut some) {
                got += length;
                thread::sleep(Duration::from_millis(20));
            }
            Ok(got)
        })
    });
    begun.recv().context("the answer begins")?;
    // And the next release has no private port.
    site.deploy(dir, &site.spec("v3", &unchecked().env("BUILD", "3").text())?)?;
    wait::until(LIMIT, "the end of v2's app", || {
        match shop::main_pid(&site.host, "deployd-shop-web-v2@1.service") {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    go_on.send(())?;
    let got = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    ensure!(got > SIZE, "only {got} bytes of {SIZE} and a head came");
    shop::require_settled(site, LIMIT)
}

/// What is live has no private port; where it goes back to has.
fn going_back_finds_free_ports(site: &Site) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v2", "v3"])?;
    site.ctl("rollback -a shop --wait committed")?.expect(0)?;
    traffic.wait_for("v2", LIMIT)?;
    site.wait_until_drained("shop", LIMIT)?;
    traffic.end_unharmed()?;
    shop::require_settled(site, LIMIT)
}

/// The kernel answers for a listener that nobody accepts from: neither no check nor a `tcp` one may believe it.
fn who_never_accepts_gets_nothing(site: &Site, dir: &str) -> Result<()> {
    let hung = || unchecked().env("NEVER_READY", "1").key("deploy", "wait_timeout", "3s");
    let tcp = hung().key("checks.up", "kind", "tcp");
    for (label, spec) in [("v4", hung()), ("v5", tcp), ("v6", hung().key("listen.http", "handoff", "port"))] {
        let traffic = Traffic::on(&site.host, &["v2"])?;
        let called = site.push(dir, &site.spec(label, &spec.text())?)?.expect(4)?;
        ensure!(called.stderr.contains("accepted no connection"), "{label}:\n{}", called.stderr);
        traffic.flows()?;
        traffic.end_unharmed().with_context(|| label.to_owned())?;
        shop::require_no_traces(&site.host, "shop", label)?;
    }
    ensure!(site.live("shop")? == "v2");
    shop::require_settled(site, LIMIT)
}

fn checked_by(command: &str) -> Spec {
    Spec::shop().key("checks.smoke", "command", command).key("checks.smoke", "timeout", "60s")
}

fn check_units(site: &Site) -> Result<String> {
    site.host.ok("systemctl list-units --all --no-legend --plain 'deployd-check-*'; ls /run/deployd | grep out || true")
}

fn wait_for_check(site: &Site, label: &str) -> Result<()> {
    wait::until(LIMIT, "a check that runs", || {
        let unit = format!("systemctl is-active deployd-check-dpl_shop-smoke-{label}.service || true");
        match site.host.ok(&unit) {
            Ok(state) if state.trim() == "activating" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// The agent is killed while a command of its runs: the next life of it asks anew, and the push goes on.
fn a_check_outlives_the_agent(site: &Site, dir: &str) -> Result<()> {
    let pushing = shop::push(site, dir, "v2", &checked_by("/bin/sleep 4").env("BUILD", "2"))?;
    wait_for_check(site, "v2")?;
    site.kill_agent()?;
    let verdict = site.wait_for_verdict("shop", LIMIT)?;
    ensure!(verdict == "committed", "{verdict}");
    drop(pushing.called()?);
    site.wait_for_agent()?;
    ensure!(site.live("shop")? == "v2");
    let left = check_units(site)?;
    ensure!(left.is_empty(), "{left}");
    // What was left in the queue of v1 went through a relay, which said when it was done.
    let relayed = site.host.ok("journalctl -o cat -u 'deployd-relay-*' | grep '^relayed ' || true")?;
    ensure!(relayed.contains("-http-v1.socket to 127.0.0.1:8080: 0 cut"), "{relayed}");
    let failed = |r: &serde_json::Value| r["note"].as_str().is_some_and(|n| n.contains("did not run"));
    ensure!(!site.journal("shop")?.iter().any(failed), "a relay did not run");
    shop::require_settled(site, LIMIT)
}

/// Nobody waits for its end any more: it is stopped.
fn an_aborted_check_leaves_nothing(site: &Site, dir: &str) -> Result<()> {
    let pushing = shop::push(site, dir, "v3", &checked_by("/bin/sleep 55").env("BUILD", "3"))?;
    wait_for_check(site, "v3")?;
    site.ctl("abort -a shop")?;
    pushing.called()?.expect(4)?;
    wait::until(LIMIT, "no unit and no file of a check", || match check_units(site) {
        Ok(left) if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(site.live("shop")? == "v2");
    shop::require_settled(site, LIMIT)
}

/// What a command says stands in memory until it is read: it may not fill that.
fn a_flood_of_output_is_a_failed_check(site: &Site, dir: &str) -> Result<()> {
    let flood = checked_by("/usr/bin/head -c 100000000 /dev/zero").key("deploy", "wait_timeout", "3s");
    let called = site.push(dir, &site.spec("v4", &flood.text())?)?.expect(4)?;
    ensure!(called.stderr.contains("signal 25 killed"), "{}", called.stderr);
    let left = check_units(site)?;
    ensure!(left.is_empty(), "{left}");
    shop::require_settled(site, LIMIT)
}
