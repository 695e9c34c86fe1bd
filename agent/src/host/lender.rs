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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::listener::{Blocking, Listener, ListenerError};
use super::sockopt;
use super::systemd::{JobResult, Systemd, SystemdError};
use wire::{Peer, Request};

/// Where lenders and relays connect.
pub const LENDER_SOCKET: &str = "/run/deployd/lender.sock";
/// How long a peer may take to send its message, or the descriptor to follow its job.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// It is being borrowed already.
    #[error("failed to borrow from {unit}: it is being borrowed already")]
    Busy {
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

/// The transient unit that may take the listener of a socket unit, to relay what is left in its queue.
pub fn relay_unit(socket_unit: &str) -> Option<String> {
    Some(format!("deployd-relay-{}.service", socket_unit.strip_suffix(".socket")?))
}

/// A listener that somebody waits for.
#[derive(Debug)]
struct Waiting {
    lender: String,
    send: oneshot::Sender<OwnedFd>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits, by socket unit.
    waiting: Mutex<HashMap<String, Waiting>>,
    /// What relays may take, by socket unit.
    offered: Mutex<HashMap<String, Arc<Listener>>>,
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
        let (entry, received) = self.expect(socket_unit, &lender)?;
        let started = systemd.start(&lender).await;
        let job = started.map_err(|source| LenderError::Start { lender: lender.clone(), source })?;
        if job != JobResult::Done {
            return Err(LenderError::Failed { lender, job });
        }
        let fd = timeout(PEER_TIMEOUT, received).await;
        drop(entry);
        match fd {
            Ok(Ok(fd)) => Listener::adopt(fd).map_err(|source| LenderError::NotAListener { lender, source }),
            Ok(Err(_)) | Err(_) => Err(LenderError::Nothing { lender }),
        }
    }

    fn expect(&self, unit: &str, lender: &str) -> Result<(Entry, oneshot::Receiver<OwnedFd>), LenderError> {
        let (send, received) = oneshot::channel();
        let mut waiting = lock(&self.shared.waiting);
        if waiting.contains_key(unit) {
            return Err(LenderError::Busy { unit: unit.to_owned() });
        }
        waiting.insert(unit.to_owned(), Waiting { lender: lender.to_owned(), send });
        Ok((Entry { lender: self.clone(), unit: unit.to_owned() }, received))
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
                let wanted = relay_unit(&unit).is_some_and(|relay| relay == sender);
                let listener = lock(&self.shared.offered).get(&unit).filter(|_| wanted).cloned();
                match listener {
                    Some(listener) => peer.answer("ok", Some(&listener)).await,
                    None => peer.answer("refused not offered to this unit", None).await,
                }
            }
        }
    }

    fn accept_loan(&self, unit: &str, sender: &str, fd: OwnedFd) -> Result<(), &'static str> {
        let mut waiting = lock(&self.shared.waiting);
        match waiting.get(unit) {
            None => return Err("nobody waits for it"),
            Some(entry) if entry.lender != sender => return Err("not the lender that was started"),
            Some(_) => {}
        }
        let entry = waiting.remove(unit).ok_or("nobody waits for it")?;
        entry.send.send(fd).map_err(|_| "nobody waits for it any more")
    }
}

/// Removes an expectation when its borrower gives up.
struct Entry {
    lender: Lender,
    unit: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.lender.shared.waiting).remove(&self.unit);
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
                    tracing::warn!(%error, "a connection to the lender socket was not accepted");
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
