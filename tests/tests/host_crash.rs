//! The agent is killed at every record of a push, of a rollback and of a push that fails, under load. No request
//! fails, the deployment ends as it would have, and nothing is left over.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use deployd_tests::crash::{self, Place};
use deployd_tests::effort::{self, Effort};
use deployd_tests::image::Suite;
use deployd_tests::load::{Load, Options};
use deployd_tests::shop::Spec;
use deployd_tests::site::Site;
use serde_json::Value;

/// Kills of a sampled matrix.
const SAMPLE: usize = 6;
/// Few, so that every push prunes.
const KEEP: u32 = 2;
const WITHIN: Duration = Duration::from_mins(1);
/// Pause of each of the 64 clients: the load is there all the time and leaves the machine room for 200 deployments.
const THINK: Duration = Duration::from_millis(20);
/// Requests that show that the load flows.
const FLOWING: u64 = 200;

#[test]
fn a_push_on_bookworm() -> Result<()> {
    let mut host = Crashes::boot(Suite::Bookworm)?;
    host.matrix(Case::Push, Rows::All)?;
    host.matrix(Case::Push, Rows::OutcomesBefore)?;
    host.site.host.finish()
}

#[test]
fn a_rollback_and_a_failing_push_on_bookworm() -> Result<()> {
    let mut host = Crashes::boot(Suite::Bookworm)?;
    host.matrix(Case::Rollback, Rows::Sample)?;
    host.matrix(Case::FailingPush, Rows::Sample)?;
    host.site.host.finish()
}

#[test]
fn a_push_a_rollback_and_a_failing_push_on_trixie() -> Result<()> {
    let mut host = Crashes::boot(Suite::Trixie)?;
    host.matrix(Case::Push, Rows::Sample)?;
    host.matrix(Case::Rollback, Rows::Sample)?;
    host.matrix(Case::FailingPush, Rows::Sample)?;
    host.site.host.finish()
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Push,
    FailingPush,
    Rollback,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Push => "push",
            Self::FailingPush => "failing push",
            Self::Rollback => "rollback",
        })
    }
}

impl Case {
    fn verdict(self) -> &'static str {
        match self {
            Self::Push | Self::Rollback => "committed",
            Self::FailingPush => "rolled-back",
        }
    }
}

/// At which records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// After each one.
    All,
    /// After some; a full run takes all.
    Sample,
    /// Before some that tell how a step ended: done, but not written. A full run takes all.
    OutcomesBefore,
}

impl Rows {
    fn places(self, records: &[Value]) -> Vec<Place> {
        let numbers = 1..=records.len() as u64;
        let all: Vec<Place> = match self {
            Self::All | Self::Sample => numbers.map(Place::After).collect(),
            Self::OutcomesBefore => {
                let is_outcome =
                    |n: &u64| matches!(crash::what(&records[*n as usize - 1]).0.as_str(), "done" | "undone");
                numbers.filter(is_outcome).map(Place::Before).collect()
            }
        };
        let count = if self == Self::All { all.len() } else { Effort::of_this_run().pick(SAMPLE, all.len()) };
        effort::sample(effort::seed(), count, all.len()).into_iter().map(|index| all[index]).collect()
    }
}

/// A host whose agent is killed again and again.
struct Crashes {
    suite: Suite,
    site: Site,
    artifacts: [String; 2],
    /// The number of the last push, which is its label.
    pushed: usize,
    /// The label that serves.
    live: usize,
    /// The other one that is kept.
    other: usize,
}

impl Crashes {
    /// Boots, and pushes until every further push does the same: replaces one release and prunes another.
    fn boot(suite: Suite) -> Result<Self> {
        let site = Site::boot(suite, "web1")?;
        site.host.write_file("/etc/deployd/agent.d/keep.toml", format!("keep_releases = {KEEP}\n"), 0o644)?;
        crash::prepare(&site)?;
        site.host.ok("systemctl restart deployd.service")?;
        let artifacts = [site.artifact("one")?, site.artifact("two")?];
        let mut host = Self { suite, site, artifacts, pushed: 0, live: 0, other: 0 };
        for _ in 0..=KEEP {
            host.start(Case::Push)?;
            host.end(Case::Push)?;
        }
        Ok(host)
    }

    /// Kills at these records of one kind of deployment, under one load.
    fn matrix(&mut self, case: Case, rows: Rows) -> Result<()> {
        let began = Instant::now();
        self.start(case)?;
        let undisturbed = self.end(case)?;
        let places = rows.places(&undisturbed);
        let (mut counted, mut requests, mut retried) = (BTreeSet::new(), 0, 0);
        for place in &places {
            let load = self.load(case)?;
            let row = self.row(case, *place, &undisturbed, &load);
            let total = load.stop()?.report(&[]).total;
            ensure!(total.failed == 0, "{case} killed {place}: {total:?}; {row:?}");
            let records = row.with_context(|| format!("{case} killed {place}"))?;
            let written = crash::written_before_the_kill(&self.site, &records)?;
            if written == place.records() {
                counted.insert(written);
            } else {
                eprintln!("{case}: the kill {place} came after record {written} and does not count");
            }
            (requests, retried) = (requests + total.requests, retried + total.retried);
        }
        let wanted = if rows == Rows::All { undisturbed.len() } else { places.len() };
        ensure!(counted.len() == wanted, "{} kills for {wanted} records: {counted:?}", counted.len());
        println!(
            "{case} on {}: {} records undisturbed, killed at {} of them ({rows:?}), {requests} requests, 0 failed, \
             {retried} retried, {:.0} s",
            self.suite.name(),
            undisturbed.len(),
            counted.len(),
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// 64 clients beside the host. Only who serves now and whom the next deployment moves to are right: whatever
    /// answers besides, the candidate that fails above all, is a failure.
    fn load(&self, case: Case) -> Result<Load> {
        let target = SocketAddr::new(self.site.host.address().v4.into(), 8080);
        let mut options = Options::new(target).from_netns(self.site.host.net().client().clone());
        options.think = THINK;
        let right = match case {
            Case::Push => vec![self.live, self.pushed + 1],
            Case::FailingPush => vec![self.live],
            Case::Rollback => vec![self.live, self.other],
        };
        options.accept = right.into_iter().map(|n| format!("shop v{n}")).collect();
        let load = Load::start(options)?;
        load.wait_flowing(FLOWING, WITHIN)?;
        Ok(load)
    }

    /// One kill, and everything that must hold after it. Returns the journal of the deployment.
    fn row(&mut self, case: Case, place: Place, undisturbed: &[Value], load: &Load) -> Result<Vec<Value>> {
        crash::arm(&self.site, place)?;
        self.start(case)?;
        let records = crash::kill(&self.site, "shop", place)?;
        for (now, then) in records.iter().zip(undisturbed) {
            ensure!(crash::what(now) == crash::what(then), "{now} where there was {then}");
        }
        load.wait_flowing(FLOWING, WITHIN)?;
        let records = self.end(case)?;
        let (line, before) = (format!("shop v{}", self.live), load.ok_of(&format!("shop v{}", self.live)));
        load.wait_flowing(FLOWING, WITHIN)?;
        ensure!(load.ok_of(&line) > before, "nobody is served by {line}");
        Ok(records)
    }

    /// Begins a deployment; returns once it is accepted.
    fn start(&mut self, case: Case) -> Result<()> {
        if case == Case::Rollback {
            self.site.ctl(&format!("rollback v{} -a shop --detach", self.other))?.expect(0)?;
            std::mem::swap(&mut self.live, &mut self.other);
            return Ok(());
        }
        self.pushed += 1;
        let spec = Spec::shop().env("NUMBER", &self.pushed.to_string());
        let spec = spec.key("deploy", "min_healthy", "50ms").key("deploy", "monitor", "50ms");
        let spec = match case {
            Case::FailingPush => spec.env("FAIL_HEALTH", "1").key("deploy", "wait_timeout", "2s"),
            _ => spec,
        };
        let spec = self.site.spec("shop", &spec.text())?;
        let dir = &self.artifacts[self.pushed % 2];
        self.site.ctl(&format!("push {dir} -c {spec} --detach"))?.expect(0)?;
        if case == Case::Push {
            (self.live, self.other) = (self.pushed, self.live);
        }
        Ok(())
    }

    /// Waits for the end of a deployment and requires that it is the right one; returns its journal.
    fn end(&self, case: Case) -> Result<Vec<Value>> {
        let site = &self.site;
        let verdict = site.wait_for_verdict("shop", WITHIN)?;
        let records = site.journal("shop")?;
        ensure!(verdict == case.verdict(), "{verdict}:\n{}", site.host.ok("deployd journal show shop")?);
        site.wait_for_agent()?;
        site.wait_until_drained("shop", WITHIN)?;
        let (live, wanted) = (site.live("shop")?, format!("v{}", self.live));
        ensure!(live == wanted, "{live} is live, not {wanted}");
        crash::require_nothing_left(site, "shop", &wanted)?;
        Ok(records)
    }
}
