//! The one way to wait: poll a condition until a deadline, and say what was last seen when it passes.
//!
//! Tests never sleep for a fixed time to let something happen; they name the condition here.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to pause between two looks: short against everything that is waited for, long against a busy loop.
const PAUSE: Duration = Duration::from_millis(15);

/// Calls `look` until it returns `Ok`, at least once, for at most `within`.
///
/// `look` returns `Err(status)` while the condition does not hold; the last status is part of the error, so that
/// a time-out explains itself.
pub fn until<T, S: Display>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, S>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(status) if Instant::now() >= deadline => {
                bail!("waited {within:?} for {what}; last seen: {status}")
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_value_of_the_first_success() {
        let mut looks = 0;
        let value = until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        });
        assert_eq!(value.expect("third look succeeds"), 3);
    }

    #[test]
    fn a_time_out_names_the_last_status() {
        let error =
            until(Duration::ZERO, "a miracle", || Err::<(), _>("still nothing")).expect_err("never holds");
        let text = error.to_string();
        assert!(text.contains("a miracle") && text.contains("still nothing"), "{text}");
    }
}
