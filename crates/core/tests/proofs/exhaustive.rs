//! Every plan shape × every point of its run × every fault, and for what leads to an undo every point of
//! the undo × every fault again. Nothing is sampled.

use deployd_api::deployment::{Kind, Verdict};
use deployd_core::action::Action;
use deployd_core::journal::Record;
use deployd_core::machine::{Progress, StepState};
use deployd_core::state::{AppState, Tag};
use deployd_core::units::EPMD;

use crate::driver::{Fault, Point, Run, tidy};
use crate::shapes::{Ask, Shape, all, planned, push};
use crate::sim::{Host, Summary};

type Known = (Option<Tag>, Option<Tag>, Option<deployd_api::ids::Label>, Option<Tag>, bool, Vec<String>);

fn known(state: &AppState) -> Known {
    // While it is stopped nothing is in a group, whatever was recorded of one.
    let members = state.groups.values().flatten().filter(|_| !state.stopped);
    let groups = members.map(|s| s.unit.clone()).collect();
    assert_eq!(state.candidate, None);
    assert_eq!(state.draining, []);
    (state.live, state.committed, state.previous, state.warm, state.stopped, groups)
}

/// A host and its state when everything that ends has ended.
fn at_rest(host: &Host, state: &AppState) -> (Summary, Known) {
    let (mut host, mut state) = (host.clone(), state.clone());
    tidy(&mut host, &mut state);
    (host.summary(), known(&state))
}

/// Equal, or the differing lines.
fn same(is: &Summary, should: &Summary, name: &str, run: &Run) {
    if is == should {
        return;
    }
    let lines = |s: &Summary| -> Vec<String> { format!("{s:#?}").lines().map(str::to_owned).collect() };
    let (is, should) = (lines(is), lines(should));
    let more: Vec<&String> = is.iter().filter(|l| !should.contains(l)).collect();
    let less: Vec<&String> = should.iter().filter(|l| !is.contains(l)).collect();
    panic!("{name}: left over {more:?} missing {less:?}\n{}", run.story());
}

struct Case<'a> {
    shape: &'a Shape,
    fresh: Run,
    before: (Summary, Known),
    after: (Summary, Known),
    count: usize,
}

impl Case<'_> {
    fn go(&mut self, faults: Vec<(usize, Fault)>) -> (Run, Verdict) {
        self.count += 1;
        let mut run = self.fresh.clone();
        run.faults = faults;
        let shape = self.shape;
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let verdict = run.run();
            (run, verdict)
        }));
        told.unwrap_or_else(|e| {
            let why = e.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{}: {why}", shape.name)
        })
    }

    fn expect(&self, run: &Run, verdict: Verdict, want: Verdict) {
        let name = &self.shape.name;
        assert_eq!(verdict, want, "{name}\n{}", run.story());
        let clean = run.progress.leftovers().is_empty();
        let (host, state) = at_rest(&run.host, &run.state);
        match want {
            Verdict::Committed if clean => {
                same(&host, &self.after.0, name, run);
                assert!(state == self.after.1, "{name}: {state:?} != {:?}\n{}", self.after.1, run.story());
            }
            Verdict::RolledBack => {
                same(&host, &self.before.0, name, run);
                assert!(state == self.before.1, "{name}: {state:?} != {:?}\n{}", self.before.1, run.story());
            }
            _ => {}
        }
    }

    /// After a run that got stuck the next push brings the host into order.
    fn mend(&mut self, run: &Run) {
        self.count += 1;
        let Ask::Push { spec, .. } = &self.shape.ask else { return };
        let (mut host, mut state) = (run.host.clone(), run.state.clone());
        tidy(&mut host, &mut state);
        let plan = planned(&push(spec, 9), &state, &host).unwrap();
        let mut next = Run::new(host, state, plan, crate::driver::Serving::Unwatched);
        let verdict = next.run();
        assert_eq!(verdict, Verdict::Committed, "{}\n{}{}", self.shape.name, run.story(), next.story());
        let (host, state) = at_rest(&next.host, &next.state);
        assert_eq!(state.0, state.1, "{}", self.shape.name);
        let only = format!("-{}", state.0.unwrap());
        let shared = |u: &&String| u.contains("-sock.socket") || u.starts_with(EPMD);
        let foreign = |u: &&String| !u.contains(&only) && !shared(u);
        let left: Vec<&String> = host.processes.iter().chain(&host.listening).filter(foreign).collect();
        assert!(left.is_empty(), "{}: {left:?} after\n{}{}", self.shape.name, run.story(), next.story());
    }

    /// What was asked for and ended in the middle is asked for again, and ends as if nothing had been wrong.
    fn ask_again(&mut self, run: &Run) {
        self.count += 1;
        let plan = planned(&self.shape.ask, &run.state, &run.host).unwrap();
        let mut again =
            Run::new(run.host.clone(), run.state.clone(), plan, crate::driver::Serving::Unwatched);
        let verdict = again.run();
        self.expect(&again, verdict, Verdict::Committed);
    }

    fn all(&mut self) {
        let (straight, _) = self.go(vec![]);
        refuses_edits(&straight);
        let crossing = straight.plan.steps.iter().position(|s| s.no_return).unwrap_or(usize::MAX);
        for (at, point) in straight.points.iter().enumerate() {
            for lost in [false, true] {
                let (run, verdict) = self.go(vec![(at, Fault::Crash { lost })]);
                self.expect(&run, verdict, Verdict::Committed);
            }
            let (run, verdict) = self.go(vec![(at, Fault::Reboot)]);
            let crossed = match point {
                Point::Between => run.progress.crossed(),
                Point::Before(step) => *step > crossing,
                Point::After(step) => *step >= crossing,
                _ => false,
            };
            let record = matches!(point, Point::After(s) if *s == crossing && is_record(&run, *s));
            let want = if crossed && !record { Verdict::Committed } else { Verdict::RolledBack };
            self.expect(&run, verdict, want);
            self.second(at, Fault::Reboot, &run, verdict);
            self.failures(at, *point, &straight, crossing);
        }
    }

    fn failures(&mut self, at: usize, point: Point, straight: &Run, crossing: usize) {
        let abort = match point {
            Point::Between => !Self::crossed_at(straight, at),
            Point::Before(step) => step < crossing,
            _ => false,
        };
        if abort {
            let (run, verdict) = self.go(vec![(at, Fault::Abort)]);
            self.expect(&run, verdict, Verdict::RolledBack);
        }
        let (Point::Before(step) | Point::After(step)) = point else { return };
        let kind = &straight.plan.steps[step];
        if kind.is_supersedable() && matches!(point, Point::Before(_)) {
            let (run, verdict) = self.go(vec![(at, Fault::Supersede)]);
            self.expect(&run, verdict, Verdict::Committed);
        }
        let commit_done = matches!(kind.action, Action::Commit { .. }) && matches!(point, Point::After(_));
        // A record either stands or the run stops: it cannot fail.
        if matches!(kind.action, Action::Record { .. }) || commit_done {
            return;
        }
        let (run, verdict) = self.go(vec![(at, Fault::Fail)]);
        let whole = matches!(straight.plan.kind, Kind::Stop | Kind::Remove);
        let want = match step > crossing {
            true if whole => Verdict::Stuck,
            true => Verdict::Committed,
            false => Verdict::RolledBack,
        };
        self.expect(&run, verdict, want);
        refuses_edits(&run);
        if want == Verdict::Stuck {
            return self.ask_again(&run);
        }
        self.second(at, Fault::Fail, &run, verdict);
    }

    fn crossed_at(straight: &Run, at: usize) -> bool {
        let crossing = straight.plan.steps.iter().position(|s| s.no_return);
        let commit = crossing.and_then(|c| straight.points.iter().position(|p| *p == Point::After(c)));
        commit.is_some_and(|c| at > c)
    }

    /// A second fault while the first one is undone.
    fn second(&mut self, at: usize, first: Fault, run: &Run, verdict: Verdict) {
        for (then, point) in run.points.iter().enumerate().skip(at + 1) {
            // What stands after one action and its records stands before the next one too, so each of
            // these is looked at where it can differ.
            let faults: &[Fault] = match point {
                Point::BeforeUndo(_) => &[Fault::Crash { lost: false }, Fault::Reboot],
                Point::AfterUndo(_) => &[Fault::Crash { lost: true }],
                _ => continue,
            };
            for fault in faults {
                let (run, again) = self.go(vec![(at, first), (then, *fault)]);
                self.expect(&run, again, verdict);
            }
            {
                let (run, stuck) = self.go(vec![(at, first), (then, Fault::Fail)]);
                // An undo that is a record cannot fail: then nothing was injected.
                let failed = run.progress.steps().contains(&StepState::UndoFailed);
                self.expect(&run, stuck, if failed { Verdict::Stuck } else { verdict });
                if failed {
                    self.mend(&run);
                }
            }
        }
    }
}

/// No record can be missing, doubled or moved, except those that decide nothing and intents, which a crash
/// repeats.
fn refuses_edits(run: &Run) {
    let free = |r: &Record| matches!(r, Record::Learned { .. } | Record::Rebooted { .. });
    let refused = |records: &[Record]| Progress::replay(&run.plan, records).is_err();
    for (i, record) in run.records.iter().enumerate().take(run.records.len() - 1) {
        if free(record) {
            continue;
        }
        let mut edited = run.records.clone();
        edited.remove(i);
        assert!(refused(&edited), "{record:?} may be missing");
        if !matches!(record, Record::Started { .. } | Record::UndoStarted { .. } | Record::Abort { .. }) {
            let mut edited = run.records.clone();
            edited.insert(i, record.clone());
            assert!(refused(&edited), "{record:?} may be doubled");
        }
        if !free(&run.records[i + 1]) {
            let mut edited = run.records.clone();
            edited.swap(i, i + 1);
            assert!(refused(&edited), "{record:?} may be moved");
        }
    }
}

fn is_record(run: &Run, step: usize) -> bool {
    matches!(run.plan.steps[step].action, Action::Record { .. })
}

fn prove(shape: &Shape) -> usize {
    let fresh = shape.run();
    let mut straight = fresh.clone();
    let verdict = straight.run();
    assert_eq!(verdict, Verdict::Committed, "{}\n{}", shape.name, straight.story());
    let mut before = (fresh.host.clone(), fresh.state.clone());
    tidy(&mut before.0, &mut before.1);
    let before = (before.0.summary(), known(&before.1));
    let after = at_rest(&straight.host, &straight.state);
    let mut case = Case { shape, fresh, before, after, count: 0 };
    case.fresh.twice = true;
    case.go(vec![]);
    case.fresh.twice = false;
    case.all();
    case.count
}

#[expect(clippy::disallowed_methods, reason = "the proof has threads, what it proves has none")]
#[test]
fn every_shape_every_point_every_fault() {
    let shapes = all();
    let (mut count, mut wrong) = (0, Vec::new());
    let half = shapes.len() / 2;
    let told: Vec<(&Shape, std::thread::Result<usize>)> = std::thread::scope(|scope| {
        let (first, second) = shapes.split_at(half);
        let run = |of: &[Shape]| of.iter().map(|s| std::panic::catch_unwind(|| prove(s))).collect::<Vec<_>>();
        let other = scope.spawn(move || run(second));
        let mut all = run(first);
        all.extend(other.join().unwrap());
        shapes.iter().zip(all).collect()
    });
    for (shape, result) in told {
        match result {
            Ok(n) => count += n,
            Err(e) => {
                let why = e.downcast_ref::<String>().cloned().unwrap_or_default();
                wrong.push(format!("## {}: {why}", shape.name));
            }
        }
    }
    println!("{} shapes, {count} runs", shapes.len());
    assert!(wrong.is_empty(), "{} shapes fail:\n{}", wrong.len(), wrong.join("\n"));
}
