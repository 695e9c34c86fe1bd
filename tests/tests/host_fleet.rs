//! Three hosts of two Debian releases (systemd 252 and 257), moved from release to release by `deployd-ctl push` over
//! mTLS: under load, when a host fails, when one is away, when two people push at once, when an agent restarts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::fleet::{Before, Fleet, PROJECT, Phase, Project, Shell, loads};
use deployd_tests::load::Load;
use deployd_tests::machine::Host;
use deployd_tests::shop::Spec;

const SETTLED: Duration = Duration::from_secs(90);
/// Requests that prove that a load still flows after a push.
const FLOW: u64 = 200;
const FLOW_WITHIN: Duration = Duration::from_secs(30);
/// A host on which this exists passes no check.
const BROKEN: &str = "/srv/broken";
const OTHER: &str = "/root/shop-of-ops-2";

#[test]
fn a_fleet_rolls() -> Result<()> {
    let fleet = Fleet::enrolled(3)?;
    let second = fleet.second_operator("ops-2")?;
    let trial = Trial { fleet, second };
    trial.first_push().context("the first push")?;
    trial.rolls_under_load().context("rolling under load")?;
    trial.goes_back_when_the_second_fails().context("a host that fails")?;
    trial.leaves_out_who_is_away().context("a host that is away")?;
    trial.takes_turns().context("two at once")?;
    trial.survives_a_restart_in_an_upload().context("an agent that restarts")?;
    trial.fleet.ops.ctl("doctor")?.expect(0)?;
    trial.fleet.finish()
}

struct Trial {
    fleet: Fleet,
    /// Somebody else, at another machine.
    second: Shell,
}

/// A shop that asks its host, too, whether it is well.
fn project() -> Project {
    let command = format!("/bin/sh -c 'test ! -e {BROKEN}'");
    Project::default().with(|spec: Spec| {
        spec.key("checks.host", "kind", "exec").key("checks.host", "command", &command).key(
            "deploy",
            "wait_timeout",
            "8s",
        )
    })
}

impl Trial {
    fn push(&self, version: &str, words: &str, code: i32) -> Result<String> {
        project().write(&self.fleet, version)?;
        let called =
            self.fleet.ops.ctl(&format!("push {words}"))?.expect(code).context(version.to_owned())?;
        Ok(format!("{}{}", called.stdout, called.stderr))
    }

    fn live(&self) -> Result<String> {
        self.fleet.wait_settled("shop", SETTLED)?.one_release()
    }

    /// The first one names its hosts and asks, so that without a terminal it needs a word; nothing was touched before.
    fn first_push(&self) -> Result<()> {
        project().write(&self.fleet, "one")?;
        let asked = self.fleet.untouched(|| self.fleet.ops.ctl("push"))?;
        let said = format!("{}{}", asked.stdout, asked.stderr);
        ensure!([2, 3].contains(&asked.code) && said.contains("--yes"), "{asked:?}");
        ensure!(["web1", "web2", "web3"].iter().all(|host| said.contains(host)), "{said}");
        self.push("one", "--yes --wait committed", 0)?;
        ensure!(self.live()? == "v1");
        // Again: nothing to do, which is a success.
        let again = self.fleet.untouched(|| self.push("one", "", 0))?;
        ensure!(again.contains("v1") && again.contains("nothing to change"), "{again}");
        Ok(())
    }

    fn rolls_under_load(&self) -> Result<()> {
        let loads = loads(&self.fleet, &["shop v1", "shop v2"])?;
        self.push("two", "--wait committed", 0)?;
        ensure!(self.live()? == "v2");
        end_unharmed(&self.fleet, loads, &["shop v1", "shop v2"])?;
        let order = self.live_since()?;
        ensure!(order.is_sorted(), "hosts went live in the order {order:?}");
        Ok(())
    }

    /// When each host went live, in order of the hosts.
    fn live_since(&self) -> Result<Vec<u64>> {
        let since = |host: &Host| {
            let status = deployd_tests::api::get(host, "/v1/apps/shop")?.json()?;
            status["live_since"].as_u64().with_context(|| format!("no live_since: {status}"))
        };
        self.fleet.hosts.iter().map(since).collect()
    }

    fn goes_back_when_the_second_fails(&self) -> Result<()> {
        let before = self.live()?;
        let (broken, third) = (self.fleet.host("web2")?, self.fleet.host("web3")?);
        let untouched = self.fleet.last_deployment(third, "shop")?;
        broken.write_file(BROKEN, "", 0o644)?;
        let loads = loads(&self.fleet, &["shop v2", "shop v3"])?;
        let said = self.push("three", "", 4)?;
        ensure!(said.contains("check_failed") && said.contains("web2") && said.contains("next"), "{said}");
        ensure!(self.live()? == before, "{before} served");
        for (load, host) in loads.iter().zip(&self.fleet.hosts) {
            let new = load.ok_of("shop v3");
            ensure!(host.name() == "web1" || new == 0, "{} served {new} requests by v3", host.name());
        }
        end_unharmed(&self.fleet, loads, &["shop v2"])?;
        ensure!(self.fleet.last_deployment(third, "shop")? == untouched, "the third host was touched");
        broken.ok(&format!("rm {BROKEN}"))?;
        Ok(())
    }

    fn leaves_out_who_is_away(&self) -> Result<()> {
        self.fleet.cut("web3")?;
        let refused = self.fleet.untouched(|| {
            project().write(&self.fleet, "four")?;
            self.fleet.ops.ctl("push")
        })?;
        let said = format!("{}{}", refused.stdout, refused.stderr);
        ensure!([3, 6].contains(&refused.code), "{refused:?}");
        ensure!(said.contains("web3") && said.contains("--skip-offline"), "{said}");
        let said = self.push("four", "--skip-offline", 6)?;
        ensure!(said.contains("web3") && said.contains("2 of 3"), "{said}");
        let states = self.fleet.wait_settled("shop", SETTLED)?;
        let labels = states.labels();
        ensure!(labels[0] == labels[1] && labels[0] != labels[2], "{states:?}");
        let status = self.fleet.ops.ctl("status")?;
        ensure!([0, 6].contains(&status.code) && status.stdout.contains("web3"), "{status:?}");
        self.fleet.mend("web3")?;
        self.push("four", "", 0).context("the host is back")?;
        self.live().map(drop)
    }

    /// Two people push different versions at the same time: both are deployed, one after the other, each with a
    /// label of its own; who does not want to wait is told who holds the lease.
    fn takes_turns(&self) -> Result<()> {
        let ops = &self.fleet.ops;
        let slow = || Project::default().with(|spec: Spec| spec.env("START_MS", "1500"));
        let number = |label: &str| label.trim_start_matches('v').parse::<u32>();
        let before = number(&self.live()?)?;
        slow().write(&self.fleet, "five")?;
        ops.host.ok(&format!("rm -rf {OTHER} && cp -r {PROJECT} {OTHER}"))?;
        ops.host.write_file(&format!("{OTHER}/dist/version"), "six\n", 0o644)?;
        let state = Before::of(&self.fleet)?;
        let one = ops.start(&Shell::default(), "push --wait committed")?;
        Phase::First.wait(&self.fleet, &state)?;
        let shell = self.second.clone().within(OTHER);
        let told = ops.run_in(&shell, "deployd-ctl push --lease-timeout 1s")?.expect(7)?;
        ensure!(told.stderr.contains("lease_held") && told.stderr.contains("push"), "{told:?}");
        let two = ops.start(&shell, "push --wait committed")?;
        one.called()?.expect(0).context("the first")?;
        two.called()?.expect(0).context("the second")?;
        let after = number(&self.live()?)?;
        ensure!(after == before + 2, "two pushes made v{after} of v{before}");
        Ok(())
    }

    fn survives_a_restart_in_an_upload(&self) -> Result<()> {
        let phase = Phase::Sending;
        phase.project().write(&self.fleet, "seven")?;
        let (old, state) = (self.live()?, Before::of(&self.fleet)?);
        let push = self.fleet.ops.start(&Shell::default(), "push")?;
        phase.wait(&self.fleet, &state)?;
        self.fleet.hosts[0].ok("systemctl restart deployd.service")?;
        push.called()?.expect(0)?;
        ensure!(self.live()? != old);
        Ok(())
    }
}

/// Ends the loads: all of them flow, none lost a request, and each of these releases answered on every host.
fn end_unharmed(fleet: &Fleet, loads: Vec<Load>, releases: &[&str]) -> Result<()> {
    for (load, host) in loads.into_iter().zip(&fleet.hosts) {
        load.wait_flowing(FLOW, FLOW_WITHIN)?;
        let report = load.stop()?.report(&[]);
        ensure!(report.total.failed == 0, "{}: {:?}", host.name(), report.total);
        for release in releases {
            let served = report.releases.get(*release).is_some_and(|count| *count > 0);
            ensure!(served, "{}: {release} answered nothing: {report:?}", host.name());
        }
        eprintln!(
            "{}: {} requests, 0 failed, {} retried",
            host.name(),
            report.total.requests,
            report.total.retried
        );
    }
    Ok(())
}
