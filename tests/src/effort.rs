//! How much a suite should do: the default run samples large matrices, a full run takes all of them.
//!
//! `cargo xtask test` sets the two variables; a suite run by hand gets the default effort and a seed of its own.

use std::env;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::image::Suite;

/// Set to `1` by `cargo xtask test --full`.
pub const FULL_VARIABLE: &str = "DEPLOYD_TEST_FULL";
/// A decimal number; the same seed gives the same samples.
pub const SEED_VARIABLE: &str = "DEPLOYD_TEST_SEED";

/// How much of a matrix is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Representative samples; the whole project stays under its time limit.
    Default,
    /// Every case.
    Full,
}

impl Effort {
    /// The effort asked for by the environment.
    pub fn of_this_run() -> Self {
        if env::var(FULL_VARIABLE).is_ok_and(|value| value == "1") { Self::Full } else { Self::Default }
    }

    /// Picks one of two values: `default` or `full`.
    pub fn pick<T>(self, default: T, full: T) -> T {
        match self {
            Self::Default => default,
            Self::Full => full,
        }
    }

    /// The Debian releases that a case runs on when it need not run on both: one by default, by the seed, so that of
    /// two cases with neighbouring numbers one runs on each.
    pub fn suites(self, case: usize) -> Vec<Suite> {
        self.pick(vec![Suite::ALL[by_turns(seed(), case, Suite::ALL.len())]], Suite::ALL.to_vec())
    }
}

/// Runs a case on the Debian releases of [`Effort::suites`]. Cases of one binary have different numbers, and those of
/// two binaries are as likely as not on the same one: over a few runs everything has been everywhere.
pub fn on_suites(case: usize, mut run: impl FnMut(Suite) -> Result<()>) -> Result<()> {
    Effort::of_this_run().suites(case).into_iter().try_for_each(|suite| {
        eprintln!("on {}", suite.name());
        run(suite).with_context(|| format!("on {}", suite.name()))
    })
}

/// One of `of` alternatives for a case: another one for the next case, and for another seed perhaps another one.
fn by_turns(seed: u64, case: usize, of: usize) -> usize {
    (split_mix(seed) as usize).wrapping_add(case) % of
}

/// The seed of this run, printed once per process so that a failure can be repeated.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = env::var(SEED_VARIABLE).ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(fresh_seed);
        eprintln!("{SEED_VARIABLE}={seed}");
        seed
    })
}

/// A seed that differs from run to run.
pub fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
}

/// At most `count` of the numbers `0..of`, in ascending order, chosen by `seed` (all of them when `count >= of`).
pub fn sample(seed: u64, count: usize, of: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..of).collect();
    let mut state = seed;
    for index in 0..count.min(of) {
        state = split_mix(state);
        let other = index + (state % (of - index) as u64) as usize;
        numbers.swap(index, other);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

/// One step of SplitMix64: small, and good enough to choose cases.
fn split_mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_cases_take_turns() {
        let of = |seed| [0, 1, 2, 3].map(|case| by_turns(seed, case, 2));
        assert!((0..20).all(|seed| [[0, 1, 0, 1], [1, 0, 1, 0]].contains(&of(seed))));
        assert!((0..20).any(|seed| of(seed) != of(0)), "the seed decides nothing");
    }

    #[test]
    fn a_sample_is_repeatable_distinct_and_in_range() {
        let first = sample(42, 5, 40);
        assert_eq!(first, sample(42, 5, 40));
        assert_eq!(first.len(), 5);
        assert!(first.windows(2).all(|pair| pair[0] < pair[1]) && first[4] < 40, "{first:?}");
        assert_ne!(first, sample(43, 5, 40));
        assert_eq!(sample(1, 9, 3), vec![0, 1, 2]);
    }
}
