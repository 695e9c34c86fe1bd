//! Borrows listeners from PID 1, and lends them to relays.
//!
//! A template oneshot with `Sockets=` (`deployd-fd@….service`) gets the descriptor from PID 1, connects here
//! and passes it on; so does its sibling `deployd-fd-nb@….service`, with `NonBlocking=yes`. **Which of the
//! two matters**: starting either sets or clears `O_NONBLOCK` for every holder of the socket, the app
//! included. The caller knows the right one; this module must never choose.
//!
//! Messages on the `SOCK_SEQPACKET` socket, one each way: `lend UNIT\nNAMES` with one descriptor, or
//! `take UNIT`, answered by `ok` (with the descriptor) or `refused REASON`. A peer must be root *and* run in
//! the cgroup of the one unit that may send that message.

mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::listener::{Blocking, Listener, ListenerError};
use super::sockopt;
use super::systemd::{JobResult, Systemd, SystemdError};
use wire::{Peer, Request};

/// Where lenders and relays connect.
pub const LENDER_SOCKET: &str = "/run/deployd/lender.sock";
/// How long a peer may take to send its message, or the descriptor to follow its job.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after an accept that failed.
const REST: Duration = Duration::from_millis(50);

/// Why a listener could not be borrowed or the socket not be served.
#[derive(Debug, thiserror::Error)]
pub enum LenderError {
    /// The socket for lenders.
    #[error("failed to serve {path}")]
    Serve {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not the name of a socket unit.
    #[error("failed to borrow from {unit}: it is no socket unit")]
    NotASocket {
        /// The unit.
        unit: String,
    },
    /// The lender could not be started.
    #[error("failed to start {lender}")]
    Start {
        /// The lender's unit.
        lender: String,
        /// Why.
        #[source]
        source: SystemdError,
    },
    /// The lender ran, and failed.
    #[error("failed to borrow through {lender}: its job ended as {job:?}")]
    Failed {
        /// The lender's unit.
        lender: String,
        /// How its job ended.
        job: JobResult,
    },
    /// The lender ended well, yet sent nothing.
    #[error("failed to borrow through {lender}: it sent no descriptor")]
    Nothing {
        /// The lender's unit.
        lender: String,
    },
    /// What it sent is no listener.
    #[error("failed to use what {lender} sent")]
    NotAListener {
        /// The lender's unit.
        lender: String,
        /// Why.
        #[source]
        source: ListenerError,
    },
}

/// The unit whose start lends the listener of a socket unit. `None` if that is no socket unit.
pub fn lender_unit(socket_unit: &str, app_is: Blocking) -> Option<String> {
    let stem = socket_unit.strip_suffix(".socket")?;
    Some(match app_is {
        Blocking::Blocking => format!("deployd-fd@{stem}.service"),
        Blocking::NonBlocking => format!("deployd-fd-nb@{stem}.service"),
    })
}

/// Whether this unit may take the listener of a socket unit, to relay what is left in its queue. A number
/// after the name tells a second relay from a first that still carries what it took.
fn is_relay(unit: &str, socket_unit: &str) -> bool {
    let Some(stem) = socket_unit.strip_suffix(".socket") else { return false };
    let rest = unit.strip_prefix("deployd-relay-").and_then(|u| u.strip_prefix(stem));
    let number = rest.and_then(|r| r.strip_suffix(".service"));
    number.is_some_and(|n| {
        let digits = n.strip_prefix('_').unwrap_or_default();
        n.is_empty() || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// A listener that somebody waits for.
#[derive(Debug)]
struct Waiting {
    lender: String,
    send: mpsc::UnboundedSender<OwnedFd>,
    /// Which expectation it is: a later one of the same unit must not be taken for it.
    number: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits, by socket unit.
    waiting: Mutex<HashMap<String, Waiting>>,
    /// What relays may take, by socket unit.
    offered: Mutex<HashMap<String, Arc<Listener>>>,
    /// One loan of a socket unit at a time.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// How many expectations there were.
    count: AtomicU64,
}

/// The agent's side of lending. Clones share one table.
#[derive(Debug, Clone, Default)]
pub struct Lender {
    shared: Arc<Shared>,
}

/// The bound socket; [`LenderSocket::serve`] runs until it is dropped.
#[derive(Debug)]
pub struct LenderSocket {
    socket: AsyncFd<OwnedFd>,
    lender: Lender,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these maps valid: entries are inserted and removed whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lender {
    /// A lender and its socket at `path`, mode 0600. An old socket there is replaced.
    pub fn bind(path: &Path) -> Result<(Self, LenderSocket), LenderError> {
        let lender = Self::default();
        let bound = wire::bind(path).and_then(sockopt::watch);
        let socket = bound.map_err(|source| LenderError::Serve { path: path.to_owned(), source })?;
        Ok((lender.clone(), LenderSocket { socket, lender }))
    }

    /// Borrows the listener of a socket unit. `app_is` must be how the app needs the socket, because the
    /// loan makes it so.
    pub async fn borrow(
        &self,
        systemd: &Systemd,
        socket_unit: &str,
        app_is: Blocking,
    ) -> Result<Listener, LenderError> {
        let lender = lender_unit(socket_unit, app_is)
            .ok_or_else(|| LenderError::NotASocket { unit: socket_unit.to_owned() })?;
        let turn = lock(&self.shared.turns).entry(socket_unit.to_owned()).or_default().clone();
        let turn = turn.lock().await;
        let (entry, mut received) = self.expect(socket_unit, &lender);
        let mut job = start(systemd, &lender).await?;
        if job == JobResult::Failed {
            // A lender that an agent before this one had started is turned away while nobody waits, and a start
            // joins its job if that still runs. Every lender that starts from now on is expected.
            job = start(systemd, &lender).await?;
        }
        if job != JobResult::Done {
            return Err(LenderError::Failed { lender, job });
        }
        let fd = timeout(PEER_TIMEOUT, received.recv()).await;
        drop((entry, turn));
        match fd {
            Ok(Some(fd)) => {
                Listener::adopt(fd).map_err(|source| LenderError::NotAListener { lender, source })
            }
            Ok(None) | Err(_) => Err(LenderError::Nothing { lender }),
        }
    }

    /// Until the entry is dropped: two runs of the lender may come, the one of an agent before this one and ours.
    fn expect(&self, unit: &str, lender: &str) -> (Entry, mpsc::UnboundedReceiver<OwnedFd>) {
        let (send, received) = mpsc::unbounded_channel();
        let number = self.shared.count.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { lender: lender.to_owned(), send, number };
        lock(&self.shared.waiting).insert(unit.to_owned(), waiting);
        (Entry { lender: self.clone(), unit: unit.to_owned(), number }, received)
    }

    /// Lets the relay unit of this socket unit take its listener.
    pub fn offer(&self, socket_unit: &str, listener: Arc<Listener>) {
        lock(&self.shared.offered).insert(socket_unit.to_owned(), listener);
    }

    /// Ends that.
    pub fn withdraw(&self, socket_unit: &str) {
        lock(&self.shared.offered).remove(socket_unit);
    }

    async fn talk(&self, peer: Peer) -> io::Result<()> {
        let sender = peer.sender()?;
        match peer.receive().await? {
            Request::Lend { unit, fd } => {
                let accepted = self.accept_loan(&unit, &sender, fd);
                tracing::debug!(unit, %sender, ?accepted, "a lender came");
                match accepted {
                    Ok(()) => peer.answer("ok", None).await,
                    Err(reason) => peer.answer(&format!("refused {reason}"), None).await,
                }
            }
            Request::Take { unit } => {
                let wanted = is_relay(&sender, &unit);
                let listener = lock(&self.shared.offered).get(&unit).filter(|_| wanted).cloned();
                match listener {
                    Some(listener) => peer.answer("ok", Some(&listener)).await,
                    None => peer.answer("refused not offered to this unit", None).await,
                }
            }
        }
    }

    fn accept_loan(&self, unit: &str, sender: &str, fd: OwnedFd) -> Result<(), &'static str> {
        match lock(&self.shared.waiting).get(unit) {
            None => Err("nobody waits for it"),
            Some(entry) if entry.lender != sender => Err("not the lender that was started"),
            Some(entry) => entry.send.send(fd).map_err(|_| "nobody waits for it any more"),
        }
    }
}

async fn start(systemd: &Systemd, lender: &str) -> Result<JobResult, LenderError> {
    let started = systemd.start(lender).await;
    started.map_err(|source| LenderError::Start { lender: lender.to_owned(), source })
}

/// Removes an expectation when its borrower gives up.
struct Entry {
    lender: Lender,
    unit: String,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut waiting = lock(&self.lender.shared.waiting);
        if waiting.get(&self.unit).is_some_and(|w| w.number == self.number) {
            waiting.remove(&self.unit);
        }
    }
}

impl LenderSocket {
    /// Serves lenders and relays for ever. A peer that misbehaves only harms itself.
    pub async fn serve(self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let Ok(accepted) = ready.try_io(|socket| wire::accept(socket.get_ref())) else {
                continue;
            };
            let peer = match accepted.and_then(Peer::new) {
                Ok(peer) => peer,
                Err(error) => {
                    // Out of descriptors, most likely: the next one may have better luck.
                    tracing::warn!(%error, "a connection to the lender socket was not accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let lender = self.lender.clone();
            tokio::spawn(async move {
                match timeout(PEER_TIMEOUT, lender.talk(peer)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a peer of the lender socket was turned away"),
                    Err(_) => tracing::warn!("a peer of the lender socket said nothing"),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A borrower that gives up late must not take away what another one waits for by then.
    #[test]
    fn only_its_own_expectation_ends_with_a_borrower() {
        let lender = Lender::default();
        let (first, _received) = lender.expect("a.socket", "deployd-fd@a.service");
        let (second, mut received) = lender.expect("a.socket", "deployd-fd@a.service");
        drop(first);
        let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(lender.accept_loan("a.socket", "deployd-fd@a.service", fd), Ok(()));
        assert!(received.try_recv().is_ok());
        drop(second);
        assert!(lock(&lender.shared.waiting).is_empty());
    }

    /// The lender that an agent before this one had started comes first, and must not use up the expectation of ours.
    #[test]
    fn every_lender_is_accepted_while_somebody_waits() {
        let lender = Lender::default();
        let lend = |sender| {
            let fd = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            lender.accept_loan("a.socket", sender, fd)
        };
        let (entry, mut received) = lender.expect("a.socket", "deployd-fd@a.service");
        assert_eq!(lend("deployd-fd-nb@a.service"), Err("not the lender that was started"));
        assert_eq!(lend("deployd-fd@a.service"), Ok(()));
        assert_eq!(lend("deployd-fd@a.service"), Ok(()));
        assert!(received.try_recv().is_ok());
        drop(entry);
        assert_eq!(lend("deployd-fd@a.service"), Err("nobody waits for it"));
    }

    #[test]
    fn relays_are_known_by_their_names() {
        let socket = "deployd-shop-http-v1.socket";
        for (unit, is) in [
            ("deployd-relay-deployd-shop-http-v1.service", true),
            ("deployd-relay-deployd-shop-http-v1_2.service", true),
            ("deployd-relay-deployd-shop-http-v1.2.service", false),
            ("deployd-relay-deployd-shop-http-v1_.service", false),
            ("deployd-relay-deployd-shop-http-v1_x.service", false),
            ("deployd-relay-deployd-shop-http-v12.service", false),
            ("deployd-shop-http-v1.service", false),
        ] {
            assert_eq!(is_relay(unit, socket), is, "{unit}");
        }
    }
}
