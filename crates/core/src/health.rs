//! From samples of a check to a judgement: failures in a row, grace, passes.

use deployd_api::spec::Check;

/// What one try of a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sample {
    /// It passed.
    Pass,
    /// It failed, because of this.
    Fail(String),
}

/// What the samples of one check say so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The last try passed.
    Passing,
    /// No judgement yet.
    Waiting,
    /// Too many failures in a row: the last one's reason.
    Failed(String),
}

/// The running judgement of one check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    in_a_row: u32,
    tries: u32,
    passed_once: bool,
    last: Option<String>,
}

impl Tally {
    /// Takes a sample in. `age_ms` is the time since the instance started: within `grace` failures do
    /// not count. Before the first pass failures only wait (a start takes its time: the caller has a
    /// deadline); after it, `failures` in a row are a failure.
    pub fn add(&mut self, check: &Check, age_ms: u64, sample: Sample) -> Judgement {
        self.tries += 1;
        match sample {
            Sample::Pass => {
                self.in_a_row = 0;
                self.passed_once = true;
                self.last = None;
                Judgement::Passing
            }
            Sample::Fail(why) => {
                if age_ms >= check.grace.0 {
                    self.in_a_row += 1;
                }
                self.last = Some(why.clone());
                if self.in_a_row >= check.failures { Judgement::Failed(why) } else { Judgement::Waiting }
            }
        }
    }

    /// Whether the last try failed.
    pub fn is_failing(&self) -> bool {
        self.last.is_some()
    }

    /// How many tries there were.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Whether it ever passed.
    pub fn passed_once(&self) -> bool {
        self.passed_once
    }

    /// Why the last try failed.
    pub fn last_failure(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use deployd_api::spec::{CheckKind, Gate, Millis};

    use super::*;

    fn check(failures: u32, grace: u64) -> Check {
        let kind = CheckKind::Tcp { listener: "http".parse().unwrap() };
        let (interval, timeout) = (Millis(1000), Millis(1000));
        Check { kind, gate: Gate::Both, interval, timeout, grace: Millis(grace), failures }
    }

    #[test]
    fn failures_count_only_in_a_row_and_after_grace() {
        let c = check(2, 1000);
        let mut t = Tally::default();
        let fail = || Sample::Fail("x".into());
        assert_eq!(t.add(&c, 0, fail()), Judgement::Waiting);
        assert_eq!(t.add(&c, 999, fail()), Judgement::Waiting);
        assert_eq!(t.add(&c, 1000, fail()), Judgement::Waiting);
        assert_eq!(t.add(&c, 1001, Sample::Pass), Judgement::Passing);
        assert_eq!(t.add(&c, 1002, fail()), Judgement::Waiting);
        assert_eq!(t.add(&c, 1003, fail()), Judgement::Failed("x".into()));
    }
}
