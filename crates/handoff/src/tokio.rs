//! Adapter for tokio: the listener, and a lifecycle that drains on SIGTERM.
//!
//! Must be called inside a tokio runtime with I/O and time enabled. Called by applications with the
//! feature `tokio`.

use crate::drain::{Drain, Drained, Guard};
use crate::listeners::{Error, Listeners};
use crate::notify;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long to rest after an accept that failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(20);

/// The passed listener `name`, or a new one on `address`, registered with the runtime.
pub fn listener(listeners: &mut Listeners, name: &str, address: &str) -> Result<TcpListener, Error> {
    let listener = listeners.tcp(name, address)?;
    let failed = |source| Error::Bind { address: format!("{name} in tokio"), source };
    // The flag is shared with every process that has this socket: write it only when it differs.
    let flags = fcntl(&listener, FcntlArg::F_GETFL).map_err(|errno| failed(errno.into()))?;
    if !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK) {
        listener.set_nonblocking(true).map_err(failed)?;
    }
    TcpListener::from_std(listener).map_err(failed)
}

/// Serving, then draining. Clones share it.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    drain: Drain,
    changed: Arc<Notify>,
}

impl Lifecycle {
    /// A lifecycle that drains when the process gets SIGTERM or SIGINT, and tells the manager then.
    pub fn on_signal() -> io::Result<Self> {
        let lifecycle = Self::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let drain = lifecycle.drain.clone();
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            // A manager that cannot be told is no reason not to drain.
            let _ = notify::stopping();
            drain.begin();
        });
        Ok(lifecycle)
    }

    /// A lifecycle that drains when [`Drain::begin`] is called on its drain.
    pub fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        Self { drain: Drain::with_observer(move || wake.notify_waiters()), changed }
    }

    /// The count behind it.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Waits until the drain has begun.
    pub async fn draining(&self) {
        self.until(|| self.drain.has_begun()).await;
    }

    /// Waits until nothing is in flight, at most `limit`.
    pub async fn wait(&self, limit: Duration) -> Drained {
        let empty = self.until(|| self.drain.in_flight() == 0);
        match tokio::time::timeout(limit, empty).await {
            Ok(()) => Drained::Empty,
            Err(_) => self.drain.wait(Duration::ZERO),
        }
    }

    async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before looking, so that no change falls in between.
            changed.as_mut().enable();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Accepts until the drain begins, then what the kernel had queued, then closes the listener.
    /// Each connection is a task with a guard. It does not wait for them: [`Lifecycle::wait`] does.
    pub async fn serve<F, T>(&self, listener: TcpListener, connection: F)
    where
        F: Fn(TcpStream, Guard) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        loop {
            let accepted = tokio::select! {
                // Draining first: under load there is always something to accept.
                biased;
                () = self.draining() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, self.drain.enter_late()))),
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            }
        }
        // Asked of the kernel itself: tokio may not have heard of the latest arrivals yet.
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                drop(tokio::spawn(connection(stream, self.drain.enter_late())));
            }
        }
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}
