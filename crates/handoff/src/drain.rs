//! Draining: stop taking work, let what is in flight end, up to a limit.
//!
//! A [`Guard`] is held for as long as a request or connection is in flight. After [`Drain::begin`] no
//! new guard is given. Must never cut anything itself: the caller decides what to do with what is left.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Nothing is in flight any more.
    Empty,
    /// This many were still in flight at the limit.
    Left(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}

type Observer = Box<dyn Fn() + Send + Sync>;

struct Shared {
    state: Mutex<(Phase, usize)>,
    changed: Condvar,
    observer: Option<Observer>,
}

/// Counts what is in flight. Clones share one count.
#[derive(Clone)]
pub struct Drain(Arc<Shared>);

impl Drain {
    /// A drain that has not begun, with nothing in flight.
    pub fn new() -> Self {
        Self::build(None)
    }

    /// As [`Drain::new`], calling `observer` when the drain begins and when it becomes empty.
    pub fn with_observer(observer: impl Fn() + Send + Sync + 'static) -> Self {
        Self::build(Some(Box::new(observer)))
    }

    fn build(observer: Option<Observer>) -> Self {
        Self(Arc::new(Shared { state: Mutex::new((Phase::Serving, 0)), changed: Condvar::new(), observer }))
    }

    /// Counts one more in flight until the guard is dropped; `None` once the drain has begun.
    pub fn enter(&self) -> Option<Guard> {
        let mut state = self.lock();
        if state.0 == Phase::Draining {
            return None;
        }
        state.1 += 1;
        Some(Guard(self.clone()))
    }

    /// Counts one more in flight even while draining: for a connection that the kernel had accepted
    /// for us before the drain began.
    pub fn enter_late(&self) -> Guard {
        self.lock().1 += 1;
        Guard(self.clone())
    }

    /// Begins the drain; again does nothing.
    pub fn begin(&self) {
        self.lock().0 = Phase::Draining;
        self.announce();
    }

    /// Whether [`Drain::begin`] was called: a server says `Connection: close` from then on.
    pub fn has_begun(&self) -> bool {
        self.lock().0 == Phase::Draining
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> usize {
        self.lock().1
    }

    /// Waits until nothing is in flight, at most `limit`.
    pub fn wait(&self, limit: Duration) -> Drained {
        let end = Instant::now().checked_add(limit);
        let mut state = self.lock();
        while state.1 > 0 {
            let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Drained::Left(state.1);
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Drained::Empty
    }

    fn lock(&self) -> MutexGuard<'_, (Phase, usize)> {
        // A count is never left half-changed, so a poisoned lock is as good as any.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.0.changed.notify_all();
        if let Some(observer) = &self.0.observer {
            observer();
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (phase, count) = *self.lock();
        out.debug_struct("Drain").field("phase", &phase).field("in_flight", &count).finish()
    }
}

/// Something in flight. Dropping it is its end.
#[derive(Debug)]
#[must_use = "what is not held is not waited for"]
pub struct Guard(Drain);

impl Guard {
    /// Whether the drain that this belongs to has begun.
    pub fn should_finish(&self) -> bool {
        self.0.has_begun()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.1 = state.1.saturating_sub(1);
            state.1
        };
        if left == 0 {
            self.0.announce();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn nothing_enters_once_it_has_begun() {
        let drain = Drain::new();
        let guard = drain.enter().unwrap();
        assert!(!guard.should_finish());
        drain.begin();
        assert!(guard.should_finish());
        assert!(drain.enter().is_none());
        let late = drain.enter_late();
        assert_eq!(drain.wait(Duration::ZERO), Drained::Left(2));
        drop((guard, late));
        assert_eq!(drain.wait(Duration::ZERO), Drained::Empty);
    }

    #[test]
    fn waiting_ends_with_the_last_guard() {
        let (tell, told) = mpsc::channel();
        let drain = Drain::with_observer(move || {
            let _ = tell.send(());
        });
        let guard = drain.enter().unwrap();
        drain.begin();
        told.recv().unwrap();
        let waiting = drain.clone();
        let waiter = std::thread::spawn(move || waiting.wait(Duration::from_secs(30)));
        drop(guard);
        assert_eq!(waiter.join().unwrap(), Drained::Empty);
        told.recv().unwrap();
    }
}
