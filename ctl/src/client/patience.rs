//! Growing waits for an agent that restarts, until patience ends.

use std::time::{Duration, Instant};

/// How long a restarting agent is waited for: an upgrade of the package takes a few seconds.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// First wait between tries; it doubles.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Growing waits, until patience ends.
#[derive(Debug)]
pub(crate) struct BackOff {
    until: Instant,
    next: Duration,
}

impl BackOff {
    pub(crate) fn new() -> Self {
        Self::lasting(PATIENCE)
    }

    /// With another patience.
    pub(crate) fn lasting(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, next: BACK_OFF_MIN }
    }

    /// Waits; `false` when patience has ended.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(BACK_OFF_MAX);
        true
    }
}
