//! Candidates that go wrong in every way: the old release serves throughout, and nothing of them stays.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::{Called, Site};

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn survives_bad_candidates() -> Result<()> {
    on_suites(0, survives_bad_candidates_on)
}

#[test]
fn survives_a_bad_release_with_traffic() -> Result<()> {
    on_suites(1, survives_a_bad_release_with_traffic_on)
}

#[test]
fn runs_checks_that_are_commands() -> Result<()> {
    on_suites(2, runs_checks_that_are_commands_on)
}

/// A spec whose candidates are given up soon.
fn hasty() -> Spec {
    Spec::shop().key("deploy", "wait_timeout", "4s").key("deploy", "drain_timeout", "2s")
}

/// A candidate that goes wrong, and what its report must say.
struct Bad {
    what: &'static str,
    spec: Spec,
    code: &'static str,
    says: &'static str,
}

/// Those that are found out before they have any public traffic.
fn cases() -> Vec<Bad> {
    // A second check that never passes keeps a candidate on trial for as long as it lives. It would end the trial,
    // too, but only as `check_failed`.
    let on_trial = || {
        Spec::shop()
            .key("checks.deep", "path", "/health/deep")
            .key("checks.deep", "interval", "200ms")
            .env("FAIL_HEALTH", "deep")
    };
    let bad = |what, spec, code, says| Bad { what, spec, code, says };
    let (check, start) = ("check_failed", "start_failed");
    let shut = "shut down its listener http";
    vec![
        bad("is never ready", hasty().env("NEVER_READY", "1"), start, "accepted no connection"),
        bad("crashes after 2 s", on_trial().env("CRASH_AFTER_MS", "2000"), start, "did not stay up"),
        bad("fails its check", hasty().env("FAIL_HEALTH", "1"), check, "503"),
        bad("ignores SIGTERM", hasty().env("FAIL_HEALTH", "1").env("IGNORE_TERM", "1"), check, "503"),
        bad("shuts its listener down", hasty().env("SHUTDOWN_LISTENER", "0"), start, shut),
        bad("shuts its listener down later", on_trial().env("SHUTDOWN_LISTENER", "300"), start, shut),
        bad("leaks its listener", hasty().env("FAIL_HEALTH", "1").env("LEAK", "1"), check, "503"),
        // On trial, because its child may live long enough to answer once.
        bad("forks", on_trial().env("FORK", "1"), start, "did not stay up"),
    ]
}

fn boot(suite: Suite) -> Result<(Site, String)> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("app")?;
    let spec = site.spec("v1", &Spec::shop().text())?;
    site.deploy(&dir, &spec)?;
    Ok((site, dir))
}

fn survives_bad_candidates_on(suite: Suite) -> Result<()> {
    let (site, dir) = boot(suite)?;
    for (bad, number) in cases().into_iter().zip(2..) {
        let label = format!("v{number}");
        undoes(&site, &dir, &label, &bad).with_context(|| format!("{label} {}", bad.what))?;
    }
    refuses_what_was_bad(&site, &dir)?;
    serves_though_it_crashes_meanwhile(&site, &dir)?;
    site.host.finish()
}

fn undoes(site: &Site, dir: &str, label: &str, bad: &Bad) -> Result<()> {
    let traffic = Traffic::on(&site.host, &["v1"])?;
    let path = site.spec(label, &bad.spec.text())?;
    let called = site.push(dir, &path)?.expect(4)?;
    traffic.flows()?;
    traffic.end_unharmed()?;
    explains_itself(&called, label)?;
    let failure = &site.status("shop")?["last_failure"]["failure"];
    let said = format!("{} {}", failure["message"], failure["causes"]);
    ensure!(failure["code"] == bad.code && said.contains(bad.says), "failed by {failure}");
    ensure!(site.verdict("shop")?.as_deref() == Some("rolled-back"));
    ensure!(site.live("shop")? == "v1");
    shop::require_no_traces(&site.host, "shop", label)?;
    let users = site.host.ok("getent passwd | grep -c ^dpl-")?;
    ensure!(users == "1", "{users} users of apps");
    shop::require_settled(site, LIMIT)
}

/// What failed, where, what it said last, what to do: each on a line of its own.
fn explains_itself(called: &Called, label: &str) -> Result<()> {
    let has = |start: &str| called.stderr.lines().any(|line| line.trim_start().starts_with(start));
    for start in ["error ", "where ", "log ", "next "] {
        ensure!(has(start), "no line begins with {start:?}:\n{}", called.stderr);
    }
    // A failed start says what in its first line.
    ensure!(has("what ") || has("error start_failed"), "nothing says what happened:\n{}", called.stderr);
    ensure!(called.stderr.contains(label), "{label} is not named:\n{}", called.stderr);
    Ok(())
}

/// The same release again is refused, until a person allows it.
fn refuses_what_was_bad(site: &Site, dir: &str) -> Result<()> {
    let again = || site.push(dir, "/srv/v4.toml");
    let called = again()?.expect(3)?;
    ensure!(
        called.stderr.contains("release_bad") && called.stderr.contains("releases clear v4"),
        "{called:?}"
    );
    site.ctl("releases clear v4 -a shop")?.expect(0)?;
    again()?.expect(4)?;
    again()?.expect(3)?;
    shop::require_settled(site, LIMIT)
}

/// The stable release crashes while the candidate starts: PID 1 brings it back, and the deploy goes on.
fn serves_though_it_crashes_meanwhile(site: &Site, dir: &str) -> Result<()> {
    let spec = Spec::shop().env("START_MS", "3000");
    let label = site.next_label("shop")?;
    let traffic = Traffic::on(&site.host, &["v1", &label])?;
    let mut pushing = shop::push(site, dir, "late", &spec)?;
    shop::wait_active(&site.host, &format!("deployd-shop-web-{label}@1.service"), LIMIT)?;
    let stable = "deployd-shop-web-v1@1.service";
    let pid = shop::main_pid(&site.host, stable)?;
    site.host.ok(&format!("kill -9 {pid}"))?;
    deployd_tests::wait::until(LIMIT, "the stable release again", || {
        match shop::main_pid(&site.host, stable) {
            Ok(now) if now != 0 && now != pid => Ok(()),
            Ok(now) => Err(format!("pid {now}")),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    ensure!(!pushing.has_ended()?, "too late: the push had ended");
    pushing.called()?.expect(0)?;
    traffic.wait_for(&label, LIMIT)?;
    traffic.end_after_kills(1)?;
    ensure!(site.live("shop")? == label);
    shop::require_settled(site, LIMIT)
}

/// Found out only with public traffic: what is in its hands at that moment is lost, and nothing else.
fn survives_a_bad_release_with_traffic_on(suite: Suite) -> Result<()> {
    let (site, dir) = boot(suite)?;
    let crashes = Spec::shop().env("CRASH_AFTER_MS", "2000").key("deploy", "min_healthy", "10s");
    let path = site.spec("v2", &crashes.text())?;
    let traffic = Traffic::on(&site.host, &["v1", "v2"])?;
    let called = site.push(&dir, &path)?.expect(4)?;
    explains_itself(&called, "v2")?;
    ensure!(traffic.0.ok_of("shop v2") > 0, "it never had traffic");
    ensure!(site.live("shop")? == "v1");
    // It may crash once more before the traffic is taken from it.
    traffic.end_after_kills(2)?;
    shop::require_no_traces(&site.host, "shop", "v2")?;
    shop::require_settled(&site, LIMIT)?;

    // One that ignores SIGTERM serves well, and when it is replaced the end of drain_timeout cuts what it keeps.
    let stubborn = hasty().env("IGNORE_TERM", "1");
    let path = site.spec("v3", &stubborn.text())?;
    site.deploy(&dir, &path)?;
    let traffic = Traffic::on(&site.host, &["v3", "v4"])?;
    let path = site.spec("v4", &Spec::shop().env("BUILD", "v4").text())?;
    site.deploy(&dir, &path)?;
    traffic.wait_for("v4", LIMIT)?;
    site.wait_until_drained("shop", LIMIT)?;
    traffic.flows()?;
    traffic.end_after_kills(1)?;
    ensure!(shop::main_pid(&site.host, "deployd-shop-web-v3@1.service")? == 0, "v3 is still there");
    shop::require_settled(&site, LIMIT)?;
    site.host.finish()
}

/// Writes down what is around it, into the one folder that an app may write.
const LOOK: &str = r#"#!/bin/sh
exec 2>&1
cd "${0%/*}/.." || exit 9
{
    env
    grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapEff|Uid|Gid):' /proc/self/status
    for dir in . tmp /usr /etc; do
        touch "$dir/written" 2>/dev/null && echo "writes $dir"
    done
    cat /proc/self/cgroup
    [ -z "$DEPLOYD_CANDIDATE_URL" ] || python3 -c '
import os, urllib.request
print("url:", urllib.request.urlopen(os.environ["DEPLOYD_CANDIDATE_URL"]).read().decode().strip())'
} > "$STATE_DIRECTORY/$DEPLOYD_PROCESS.$DEPLOYD_RELEASE"
[ "$FAIL_LOOK" != "$DEPLOYD_PROCESS" ] || { echo "it is not as it should be"; exit 3; }
"#;

/// A command sees what its process sees, can do no more, and talks to the candidate while the other one serves.
fn runs_checks_that_are_commands_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("looks")?;
    site.host.write_file(&format!("{dir}/bin/look"), LOOK, 0o755)?;
    site.host.ok(&format!("mkdir {dir}/tmp"))?;
    let spec = || {
        Spec::shop()
            .key("processes.job", "exec", "bin/app worker")
            .raw("processes.job", "writable", "[\"tmp\"]")
            .key("listen.http", "process", "web")
            .key("checks.web", "command", "bin/look")
            .key("checks.web", "process", "web")
            .key("checks.job", "command", "bin/look")
            .key("checks.job", "process", "job")
    };
    site.deploy(&dir, &site.spec("v1", &spec().text())?)?;
    let traffic = Traffic::on(&site.host, &["v1"])?;
    let failing = spec().env("FAIL_LOOK", "job").env("GREETING", "100% \\\"$HOME\\\"").key(
        "deploy",
        "wait_timeout",
        "4s",
    );
    let called = site.push(&dir, &site.spec("v2", &failing.text())?)?.expect(4)?;
    // Long lines are wrapped.
    let said = called.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(said.contains("exited with 3: it is not as it should be"), "{}", called.stderr);
    traffic.end_unharmed()?;
    for (process, writes) in [("web", vec![]), ("job", vec!["writes tmp"])] {
        sees_what_its_process_sees(&site, process, &writes).with_context(|| process.to_owned())?;
    }
    shop::require_no_traces(&site.host, "shop", "v2")?;
    shop::require_settled(&site, LIMIT)?;
    site.host.finish()
}

fn sees_what_its_process_sees(site: &Site, process: &str, writes: &[&str]) -> Result<()> {
    let seen = |label| site.host.read_file(&format!("/var/lib/deployd-apps/shop/{process}.{label}"));
    let (first, candidate) = (seen("v1")?, seen("v2")?);
    let has = |text: &str, line: &str| text.lines().any(|l| l == line);
    for line in ["GREETING=100% \"$HOME\"", "DEPLOYD_INSTANCE=1", "url: shop v2"] {
        ensure!(has(&candidate, line), "no line {line:?}:\n{candidate}");
    }
    ensure!(has(&candidate, &format!("DEPLOYD_PROCESS={process}")), "{candidate}");
    ensure!(has(&candidate, "PORT=8080") == (process == "web"), "{candidate}");
    ensure!(candidate.contains("/deployd-shop.slice/"), "{candidate}");
    let wrote: Vec<&str> = candidate.lines().filter(|l| l.starts_with("writes ")).collect();
    ensure!(wrote == writes, "{candidate}");
    // Of the process itself, which is the same in every release.
    let pid = shop::main_pid(&site.host, &format!("deployd-shop-{process}-v1@1.service"))?;
    let status = site.host.read_file(&format!("/proc/{pid}/status"))?;
    let limits = ["NoNewPrivs:", "Seccomp:", "CapBnd:", "CapEff:", "Uid:", "Gid:"];
    for line in status.lines().filter(|l| limits.iter().any(|name| l.starts_with(name))) {
        ensure!(has(&first, line), "the process has {line:?}:\n{first}");
    }
    let variables = site.host.ok(&format!("tr '\\0' '\\n' < /proc/{pid}/environ"))?;
    let of_listeners = ["LISTEN_", "LD_PRELOAD=", "DEPLOYD_BIND="];
    let of_units = ["INVOCATION_ID=", "JOURNAL_STREAM=", "SYSTEMD_EXEC_PID=", "MEMORY_PRESSURE_WATCH="];
    let own = |line: &&str| of_listeners.iter().chain(&of_units).any(|name| line.starts_with(name));
    for line in variables.lines().filter(|line| !own(line)) {
        ensure!(has(&first, line), "the process has {line:?}:\n{first}");
    }
    Ok(())
}
