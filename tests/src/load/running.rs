//! A load that runs in a thread of its own, with live counts for tests that wait for something to happen.

use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::engine::Engine;
use super::options::{Options, Priority};
use super::sample::{Kind, NO_RELEASE, Recording};
use crate::wait;

/// What the engine tells while it runs, and the order to stop.
#[derive(Debug)]
pub(super) struct Shared {
    stopping: AtomicBool,
    completed: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    of_release: Vec<AtomicU64>,
    names: Mutex<Vec<String>>,
}

impl Shared {
    fn new() -> Self {
        Self {
            stopping: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            of_release: (0..=NO_RELEASE).map(|_| AtomicU64::new(0)).collect(),
            names: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, kind: Kind, release: u8, retried: bool, names: &[String]) {
        if kind != Kind::Ok {
            self.failed.fetch_add(1, Ordering::Relaxed);
        } else if self.of_release[usize::from(release)].fetch_add(1, Ordering::Relaxed) == 0 {
            names.clone_into(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner));
        }
        self.retried.fetch_add(u64::from(retried), Ordering::Relaxed);
        self.completed.fetch_add(1, Ordering::Release);
    }
}

/// A running load. Dropping it stops the load and forgets what it saw.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Recording>>>,
}

impl fmt::Debug for Load {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Load").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Load {
    /// Starts the load.
    pub fn start(options: Options) -> Result<Self> {
        if options.clients == 0 {
            bail!("a load needs at least one client");
        }
        let shared = Arc::new(Shared::new());
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("load".to_owned()).spawn(move || {
            if let Some(netns) = &options.from {
                netns.enter_thread()?;
            }
            if options.priority == Priority::BeforeOthers {
                go_first();
            }
            Engine::new(options, for_thread)?.run()
        });
        Ok(Self { shared, thread: Some(thread.context("failed to start a thread")?) })
    }

    /// Ends the load: requests in flight are allowed to end. Returns all that happened.
    pub fn stop(mut self) -> Result<Recording> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load was already stopped")?;
        thread.join().map_err(|_| anyhow!("the load generator panicked"))?
    }

    /// Requests that have ended so far, failed ones included.
    pub fn completed(&self) -> u64 {
        self.shared.completed.load(Ordering::Acquire)
    }

    /// Failed requests so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Requests that were sent again so far.
    pub fn retried(&self) -> u64 {
        self.shared.retried.load(Ordering::Relaxed)
    }

    /// Right answers so far of the release whose body starts with `line`.
    pub fn ok_of(&self, line: &str) -> u64 {
        let names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .iter()
            .position(|name| name == line)
            .map_or(0, |index| self.shared.of_release[index].load(Ordering::Relaxed))
    }

    /// Waits until `count` more requests have ended, which proves that the load flows now.
    pub fn wait_flowing(&self, count: u64, within: Duration) -> Result<()> {
        let goal = self.completed() + count;
        wait::until(within, &format!("{count} more requests"), || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            match self.completed() {
                completed if completed >= goal => Ok(()),
                completed if ended => Err(format!("the load generator has ended at {completed}")),
                completed => Err(format!("{completed} of {goal}")),
            }
        })
    }
}

/// Lets the calling thread run before other programs of this machine. Niceness would not do: where the kernel groups
/// processes by session it holds only within one. Without the right to it the load is as steady as the machine is idle.
fn go_first() {
    let thread = nix::unistd::gettid().to_string();
    let asked = Command::new("chrt").args(["--rr", "--pid", "1", &thread]).output();
    if !asked.is_ok_and(|output| output.status.success()) {
        eprintln!("the load generator has no priority over other programs");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the load generator panicked");
        }
    }
}
