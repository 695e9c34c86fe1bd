//! Whoever drives a push goes away, or a host is out of reach, in each phase: the fleet settles by itself, the lease
//! ends, and somebody else at another machine shows, goes on, or takes back.
//!
//! By default each phase once, with one way to go away, by the seed; `--full`: all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::{Effort, sample, seed};
use deployd_tests::fleet::{Before, Fleet, Phase, Running, Settled, Shell};

/// Hosts finish or undo alone; a lease that nobody renews ends after 15 s.
const SETTLED: Duration = Duration::from_mins(2);
/// What a lease may outlive its holder, with the time that a busy machine takes.
const LEASE: Duration = Duration::from_secs(30);
/// What a CI server leaves between its two signals.
const CI: Duration = Duration::from_millis(7500);
/// How long a host is out of reach.
const CUT: Duration = Duration::from_secs(5);
/// How many of the cases of each kind are run by default.
const SAMPLED: usize = 3;
const CUTS: usize = 2;

/// How a ctl goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The machine is gone.
    Kill,
    /// Ctrl-C.
    Interrupt,
    /// A cancelled job.
    Cancelled,
}

/// What somebody else does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rescue {
    Resume,
    Abort,
}

const WAYS: [Way; 3] = [Way::Kill, Way::Interrupt, Way::Cancelled];

struct Trial {
    fleet: Fleet,
    second: Shell,
    pushes: u32,
}

#[test]
fn a_push_that_nobody_drives_settles() -> Result<()> {
    let mut trial = Trial::begin()?;
    let count = Phase::ALL.len() * WAYS.len();
    let effort = Effort::of_this_run();
    for case in sample(seed(), effort.pick(SAMPLED, count), count) {
        let (phase, way) = (Phase::ALL[case % Phase::ALL.len()], WAYS[case / Phase::ALL.len()]);
        let rescue =
            if (seed() as usize).wrapping_add(case) % 2 == 0 { Rescue::Resume } else { Rescue::Abort };
        trial
            .abandoned(phase, way, rescue)
            .with_context(|| format!("{way:?} in {phase:?}, then {rescue:?}"))?;
    }
    let count = Phase::ALL.len() * trial.fleet.hosts.len();
    for case in sample(seed().rotate_left(7), effort.pick(CUTS, count), count) {
        let (phase, host) = (Phase::ALL[case % Phase::ALL.len()], case / Phase::ALL.len());
        trial.cut_off(phase, host).with_context(|| format!("host {host} cut off in {phase:?}"))?;
    }
    trial.fleet.ops.ctl("doctor")?.expect(0)?;
    trial.fleet.finish()
}

impl Trial {
    fn begin() -> Result<Self> {
        let fleet = Fleet::enrolled(3)?;
        let second = fleet.second_operator("ops-2")?;
        let mut trial = Self { fleet, second, pushes: 0 };
        trial.write(Phase::First)?;
        trial.fleet.ops.ctl("push --yes --wait committed")?.expect(0).context("the first push")?;
        Ok(trial)
    }

    fn write(&mut self, phase: Phase) -> Result<()> {
        self.pushes += 1;
        phase.project().write(&self.fleet, &self.pushes.to_string())
    }

    /// Starts a push without a terminal, as CI does, and returns when it is in this phase.
    fn push_into(&mut self, phase: Phase) -> Result<(Running, Before)> {
        self.write(phase)?;
        let before = Before::of(&self.fleet)?;
        let push = self.fleet.ops.start(&Shell::default(), "push --wait committed")?;
        phase.wait(&self.fleet, &before)?;
        Ok((push, before))
    }

    fn abandoned(&mut self, phase: Phase, way: Way, rescue: Rescue) -> Result<()> {
        let (mut push, before) = self.push_into(phase)?;
        ensure!(self.end(&mut push, way)?, "the push had ended before it was ended");
        let gone = Instant::now();
        let called = push.called()?;
        let expected = if way == Way::Kill { [-1, 137] } else { [130, 130] };
        ensure!(expected.contains(&called.code), "{called:?}");
        let settled = self.fleet.wait_settled("shop", SETTLED)?;
        eprintln!(
            "{way:?} in {phase:?}: settled {:.1} s later, {:?}",
            gone.elapsed().as_secs_f64(),
            settled.labels()
        );
        self.require_shown()?;
        self.rescue(phase, rescue, &before)
    }

    /// `false` when there was nobody to be ended.
    fn end(&self, push: &mut Running, way: Way) -> Result<bool> {
        let ops = &self.fleet.ops;
        match way {
            Way::Kill => ops.signal(push, "KILL"),
            Way::Interrupt => ops.signal(push, "INT"),
            Way::Cancelled => {
                let heard = ops.signal(push, "INT")?;
                let since = Instant::now();
                // What a CI server does: it waits, and only then insists.
                while since.elapsed() < CI && !push.has_ended()? {
                    std::thread::sleep(Duration::from_millis(50));
                }
                ops.signal(push, "TERM")?;
                Ok(heard)
            }
        }
    }

    /// Anybody sees how it stands, and who holds what.
    fn require_shown(&self) -> Result<()> {
        let told = self.fleet.ops.run_in(&self.second, "deployd-ctl rollout status")?;
        ensure!([0, 6].contains(&told.code) && !told.stdout.is_empty(), "{told:?}");
        Ok(())
    }

    /// The other machine brings the fleet to one release.
    fn rescue(&mut self, phase: Phase, rescue: Rescue, before: &Before) -> Result<()> {
        let old = before.label().context("nothing was live")?.to_owned();
        let verb = match rescue {
            Rescue::Resume => "resume",
            Rescue::Abort => "abort",
        };
        let words = format!("deployd-ctl rollout {verb} --lease-timeout {}s", LEASE.as_secs());
        let called = self.fleet.ops.run_in(&self.second, &words)?;
        let settled = self.fleet.wait_settled("shop", SETTLED)?;
        // Before any host was told, there is nothing to go on with, which is said.
        let begun = matches!(phase, Phase::First | Phase::Between | Phase::Last);
        ensure!(called.code != 1 && called.code != 5, "{words}: {called:?}");
        if begun {
            // Abort brings a person what was asked for: the old release, everywhere.
            let called = called.expect(0).with_context(|| words.clone())?;
            let live = settled.one_release().with_context(|| format!("{called:?}"))?;
            ensure!((live == old) == (rescue == Rescue::Abort), "{old} before, {live} after: {called:?}");
        }
        self.push_again(&old)
    }

    /// Whatever was left: the next push is an ordinary one.
    fn push_again(&mut self, old: &str) -> Result<()> {
        self.write(Phase::First)?;
        let words = format!("push --wait committed --lease-timeout {}s", LEASE.as_secs());
        let shell = self.second.clone();
        self.fleet.ops.start(&shell, &words)?.called()?.expect(0).context("the next push")?;
        let settled: Settled = self.fleet.wait_settled("shop", SETTLED)?;
        ensure!(settled.one_release()? != old, "{settled:?}");
        Ok(())
    }

    fn cut_off(&mut self, phase: Phase, host: usize) -> Result<()> {
        let (push, before) = self.push_into(phase)?;
        let name = self.fleet.hosts[host].name().to_owned();
        self.fleet.cut(&name)?;
        // The length of the cut is the case: shorter than a lease.
        std::thread::sleep(CUT);
        self.fleet.mend(&name)?;
        let called = push.called()?;
        let settled = self.fleet.wait_settled("shop", SETTLED)?;
        let old = before.label().context("nothing was live")?.to_owned();
        eprintln!("{name} cut off in {phase:?}: exit {}, {:?}", called.code, settled.labels());
        match called.code {
            // It was bridged.
            0 => ensure!(settled.one_release()? != old, "{settled:?}, {called:?}"),
            // It was told, with what to do.
            3 | 4 | 6 | 7 => {
                ensure!(called.stderr.contains(&name) && called.stderr.contains("next"), "{called:?}");
            }
            _ => anyhow::bail!("{called:?}"),
        }
        self.push_again(&old)
    }
}
