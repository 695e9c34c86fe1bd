//! Commands beside the live release on a real host: pipes, terminals, statuses, and what happens when someone goes.

use std::time::Duration;

use anyhow::{Result, ensure};
use deployd_tests::image::Suite;
use deployd_tests::site::{Site, shop};
use deployd_tests::wait;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn commands_are_as_the_app_is() -> Result<()> {
    on(Suite::Bookworm)
}

#[test]
fn commands_on_trixie() -> Result<()> {
    on(Suite::Trixie)
}

fn on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let spec = site.spec("shop", &shop(&[("GREETING", "hello")], "monitor = \"0s\"", ""))?;
    site.deploy(&site.artifact("v1")?, &spec)?;
    require_surroundings(&site)?;
    require_statuses(&site)?;
    require_bytes(&site)?;
    require_terminal(&site)?;
    require_end_with_caller(&site)?;
    require_run_goes_on(&site)?;
    require_audit(&site)?;
    site.require_silent_doctor()?;
    site.host.finish()
}

fn exec(site: &Site, script: &str) -> Result<String> {
    Ok(site.ctl(&format!("exec -a shop -T -- /bin/sh -c '{script}'"))?.expect(0)?.stdout)
}

fn require_surroundings(site: &Site) -> Result<()> {
    let seen = exec(
        site,
        "id -un; pwd; echo $GREETING $DEPLOYD_APP $DEPLOYD_INSTANCE $PORT; cat /proc/self/cgroup",
    )?;
    for part in
        ["dpl-shop\n", "/var/lib/deployd/apps/shop/releases/v1-", "hello shop 1 8080\n", "deployd-shop.slice"]
    {
        ensure!(seen.contains(part), "{part:?} is not in {seen}");
    }
    let listening = exec(site, "ls /proc/self/fd | wc -l")?;
    ensure!(listening.trim().parse::<u32>()? <= 4, "descriptors are inherited: {listening}");
    Ok(())
}

fn require_statuses(site: &Site) -> Result<()> {
    site.ctl("exec -a shop -- /bin/sh -c 'exit 7'")?.expect(7)?;
    site.ctl("exec -a shop -- /bin/sh -c 'kill -9 $$'")?.expect(137)?;
    let missing = site.ctl("exec -a shop -- bin/none")?.expect(75)?;
    ensure!(missing.stderr.contains("bin/none"), "{}", missing.stderr);
    site.ctl("exec nobody -- ls")?.expect(2)?;
    site.ctl("exec -a shop --process none -- ls")?.expect(2).map(drop)
}

/// Any bytes, in both directions, more than any pipe holds; output and errors apart.
fn require_bytes(site: &Site) -> Result<()> {
    site.host.ok("head -c 20000000 /dev/urandom > /root/bytes")?;
    site.host.ok(
        "deployd-ctl --local exec -a shop -- cat < /root/bytes > /root/back && cmp /root/bytes /root/back",
    )?;
    let apart = site.ctl("exec -a shop -- /bin/sh -c 'echo out; echo err >&2'")?.expect(0)?;
    ensure!((apart.stdout.as_str(), apart.stderr.contains("err")) == ("out\n", true), "{apart:?}");
    // A reader that has enough ends it.
    let first = site.host.ok("deployd-ctl --local exec -a shop -- yes | head -n 1")?;
    ensure!(first.trim() == "y", "{first}");
    Ok(())
}

/// `script` gives ctl a terminal.
fn require_terminal(site: &Site) -> Result<()> {
    let inner = "deployd-ctl --local exec -a shop -- /bin/sh -c \"test -t 0 && tty && stty size && ps -o tty= -p \\$\\$\"";
    let said = site
        .host
        .ok(&format!("stty -F /dev/null 2>/dev/null; script -qec '{inner}' /dev/null < /dev/null"))?;
    ensure!(said.contains("/dev/pts/"), "{said}");
    Ok(())
}

fn units(site: &Site, pattern: &str) -> Result<String> {
    site.host.ok(&format!("systemctl list-units --all --plain --no-legend '{pattern}'"))
}

fn require_no_unit(site: &Site, pattern: &str) -> Result<()> {
    wait::until(PATIENCE, "the end of the unit", || match units(site, pattern) {
        Ok(left) if left.trim().is_empty() => Ok(()),
        Ok(left) => Err(left),
        Err(e) => Err(format!("{e:#}")),
    })
}

fn require_end_with_caller(site: &Site) -> Result<()> {
    let begin = "deployd-ctl --local exec -a shop -T -- sleep 1000 < /dev/null > /root/out 2>&1 & echo $! > /root/pid";
    for end in ["kill -9 $(cat /root/pid)", "kill -TERM $(cat /root/pid)"] {
        site.host.ok(begin)?;
        wait::until(PATIENCE, "the command", || match units(site, "deployd-command-shop-*") {
            Ok(found) if !found.trim().is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        site.host.ok(end)?;
        require_no_unit(site, "deployd-command-shop-*")?;
    }
    site.host.ok(begin)?;
    wait::until(PATIENCE, "the command", || match units(site, "deployd-command-shop-*") {
        Ok(found) if !found.trim().is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.kill_agent()?;
    site.wait_for_agent()?;
    require_no_unit(site, "deployd-command-shop-*")
}

/// Its caller goes, the agent goes; it ends by itself, and what it said is in the logs.
fn require_run_goes_on(site: &Site) -> Result<()> {
    let called = site.ctl("run -a shop -- /bin/sh -c 'echo one; echo two; exit 3'")?.expect(3)?;
    ensure!(called.stdout == "one\ntwo\n", "{called:?}");
    let script = "while test ! -e \\$STATE_DIRECTORY/go; do sleep 0.1; done; echo went on";
    site.host.ok(&format!(
        "deployd-ctl --local run -a shop -- /bin/sh -c \"{script}\" < /dev/null > /root/out 2>&1 & echo $! > /root/pid"
    ))?;
    wait::until(PATIENCE, "the command", || match units(site, "deployd-shop-run_*") {
        Ok(found) if found.contains("run_") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.host.ok("kill -9 $(cat /root/pid)")?;
    site.kill_agent()?;
    site.wait_for_agent()?;
    site.host.ok("touch /var/lib/deployd-apps/shop/go")?;
    require_no_unit(site, "deployd-shop-run_*")?;
    let logs = site.ctl("logs -a shop")?.expect(0)?.stdout;
    ensure!(logs.contains("went on") && logs.contains("run-"), "{logs}");
    Ok(())
}

/// Who, what and how it ended; never the words behind the first.
fn require_audit(site: &Site) -> Result<()> {
    site.ctl("exec -a shop -- /bin/echo swordfish")?.expect(0)?;
    let all = site.host.ok("journalctl -u deployd --no-pager -o verbose")?;
    ensure!(all.contains("/bin/echo") && all.contains("a command ended"), "no audit line");
    ensure!(!all.contains("swordfish"), "the words are in the journal of the agent");
    Ok(())
}
