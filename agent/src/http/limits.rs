//! What one certificate may take of the agent: so many connections, so many requests a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::tls::certificate::Serial;

/// Requests a second that one certificate may make for long.
const RATE: u32 = 200;
/// Requests that it may make at once.
const BURST: u32 = 400;
/// Connections that it may have.
pub(super) const CONNECTIONS_MAX: usize = 128;

/// A bucket that fills at a rate, and that each request takes one from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bucket {
    rate: u32,
    burst: u32,
    /// In thousandths of a request: no fraction is lost.
    level: u64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { rate, burst, level: u64::from(burst) * 1000, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        // Less than a millisecond goes on counting from where it was.
        self.at += Duration::from_millis(passed);
        let more = passed.saturating_mul(u64::from(self.rate));
        self.level = self.level.saturating_add(more).min(u64::from(self.burst) * 1000);
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let enough = self.level >= 1000;
        self.level -= if enough { 1000 } else { 0 };
        enough
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level == u64::from(self.burst) * 1000
    }
}

#[derive(Debug)]
struct Usage {
    connections: usize,
    bucket: Bucket,
}

/// What all certificates take. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits(Arc<Mutex<HashMap<Serial, Usage>>>);

/// A connection of a certificate: counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    limits: Limits,
    serial: Serial,
    /// Whether it is one too many: it is told so, and closed.
    pub(super) is_over: bool,
}

impl Limits {
    /// One more connection.
    pub(super) fn connect(&self, serial: &Serial, now: Instant) -> Counted {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has gone and rested is forgotten.
        all.retain(|_, usage| usage.connections > 0 || !usage.bucket.is_full(now));
        let fresh = || Usage { connections: 0, bucket: Bucket::new(RATE, BURST, now) };
        let usage = all.entry(serial.clone()).or_insert_with(fresh);
        usage.connections += 1;
        let is_over = usage.connections > CONNECTIONS_MAX;
        Counted { limits: self.clone(), serial: serial.clone(), is_over }
    }
}

impl Counted {
    /// Whether one more request is within the rate.
    pub(super) fn request(&self, now: Instant) -> bool {
        let mut all = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(&self.serial).is_some_and(|usage| usage.bucket.take(now))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = all.get_mut(&self.serial) {
            usage.connections = usage.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(200, 400, start);
        let taken = |bucket: &mut Bucket, at| (0..1000).filter(|_| bucket.take(at)).count();
        assert_eq!(taken(&mut bucket, start), 400);
        for (after_ms, given) in [(4, 0), (5, 1), (1005, 200), (1007, 0), (1010, 1), (60_000, 400)] {
            assert_eq!(taken(&mut bucket, start + Duration::from_millis(after_ms)), given, "{after_ms}");
        }
        // A clock that stands or goes back gives nothing.
        assert_eq!(taken(&mut bucket, start), 0);
    }

    #[test]
    fn connections_are_counted_for_each_certificate_and_given_back() {
        let (limits, now) = (Limits::default(), Instant::now());
        let held: Vec<Counted> = (0..CONNECTIONS_MAX).map(|_| limits.connect(&vec![1], now)).collect();
        assert!(held.iter().all(|one| !one.is_over));
        assert!(limits.connect(&vec![1], now).is_over);
        assert!(!limits.connect(&vec![2], now).is_over);
        drop(held);
        assert!(!limits.connect(&vec![1], now).is_over);
    }

    #[test]
    fn a_new_connection_is_no_new_burst() {
        let (limits, now) = (Limits::default(), Instant::now());
        let first = limits.connect(&vec![1], now);
        assert_eq!((0..1000).filter(|_| first.request(now)).count(), 400);
        drop(first);
        assert!(!limits.connect(&vec![1], now).request(now));
        // Rested, it is as one that never called; the other is forgotten.
        let later = now + Duration::from_secs(10);
        assert!(limits.connect(&vec![2], later).request(later));
        assert_eq!(limits.0.lock().unwrap().len(), 1);
    }
}
