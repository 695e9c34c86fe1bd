//! Callers over the network: mutual TLS before a byte of the API, and limits before that.
//!
//! Until it has shown a certificate of the fleet a caller costs one of few places and five seconds at most
//! ([`Pending`]); then it has its own connections and rate ([`Limits`]).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::warn;

use super::limits::{Bucket, Limits};
use super::pending::{PENDING_MAX, Pending, Place};
use super::session::Session;
use crate::tls::{Certificate, Loaded, Peer, Trust};

/// How long a handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken: most likely there are no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Lines in the log about strangers, a second and at once: a flood of them is not to fill the journal.
const TOLD: (u32, u32) = (2, 20);

/// What all listeners of the network share.
#[derive(Debug, Clone)]
pub struct Doors {
    trust: Trust,
    pending: Pending,
    limits: Limits,
    log: Arc<Mutex<Quiet>>,
}

/// Tells so many lines and counts the others.
#[derive(Debug)]
struct Quiet {
    bucket: Bucket,
    untold: u64,
}

impl Doors {
    /// Doors that open by what is in force.
    pub fn new(trust: Trust) -> Self {
        let bucket = Bucket::new(TOLD.0, TOLD.1, Instant::now());
        let log = Arc::new(Mutex::new(Quiet { bucket, untold: 0 }));
        Self { trust, pending: Pending::new(PENDING_MAX), limits: Limits::default(), log }
    }

    /// Serves one listener until the task is dropped.
    pub async fn serve(self, listener: TcpListener, router: Router) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.greet(stream, from, &router),
                Err(e) => {
                    warn!(error = %e, "failed to accept a caller");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    /// Never waits: the next one is at the door.
    fn greet(&self, stream: TcpStream, from: SocketAddr, router: &Router) {
        // Nobody can be told apart without a certificate of our own.
        let Some(loaded) = self.trust.current() else { return };
        let place = self.pending.enter(from.ip());
        let (doors, router) = (self.clone(), router.clone());
        tokio::spawn(async move {
            match admit(stream, place, &loaded).await {
                Ok((stream, peer)) => {
                    let session = Session::new(peer, from, &loaded, &doors.limits, doors.trust.changes());
                    drop(loaded);
                    session.serve(stream, router).await;
                }
                Err(why) => doors.turned_away(from, &why),
            }
        });
    }

    fn turned_away(&self, from: SocketAddr, why: &Stranger) {
        let mut quiet = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if quiet.bucket.take(Instant::now()) {
            let untold = std::mem::take(&mut quiet.untold);
            warn!(%from, why = %why, untold, "turned a stranger away");
        } else {
            quiet.untold += 1;
        }
    }
}

/// Why somebody did not come in.
#[derive(Debug, thiserror::Error)]
enum Stranger {
    #[error("there was no room, and it was the oldest of the address with most handshakes")]
    Displaced,
    #[error("the handshake took too long")]
    Slow,
    #[error("{0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Certificate(String),
}

/// The handshake: ends with a caller, in time, or not at all.
async fn admit(
    stream: TcpStream,
    mut place: Place,
    loaded: &Loaded,
) -> Result<(TlsStream<TcpStream>, Peer), Stranger> {
    // Answers are whole when they are written.
    stream.set_nodelay(true).map_err(Stranger::Handshake)?;
    let handshake = TlsAcceptor::from(loaded.config.clone()).accept(stream);
    let stream = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE_MAX, handshake) => {
            done.map_err(|_| Stranger::Slow)?.map_err(Stranger::Handshake)?
        }
        _ = &mut place.gone => return Err(Stranger::Displaced),
    };
    let (_, connection) = stream.get_ref();
    let shown = connection.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.ok_or_else(|| Stranger::Certificate("there is no certificate".to_owned()))?;
    let certificate = Certificate::read(shown).map_err(|e| Stranger::Certificate(e.told()))?;
    let peer = Peer::of(&certificate).map_err(|e| {
        let name = certificate.name.as_deref().unwrap_or_default().escape_default();
        Stranger::Certificate(format!("{e}: {name}"))
    })?;
    Ok((stream, peer))
}
