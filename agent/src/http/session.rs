//! One connection of a caller who was let in: its requests, each with its caller, within the limits.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderValue, Request, header};
use axum::response::{IntoResponse as _, Response};
use deployd_api::error::{ErrorBody, ErrorCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::answer::Refused;
use super::audit::{self, Why};
use super::caller::Caller;
use super::limits::{Counted, Limits};
use crate::driver::clock;
use crate::tls::{Loaded, Peer};

/// How long the head of a request may take, and how long a connection may rest between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a certificate is taken for good without a look at the clock.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Most bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// A caller with its connection.
pub(super) struct Session {
    caller: Caller,
    peer: Peer,
    /// The CA that vouched for it.
    ca: String,
    counted: Counted,
    trust: watch::Receiver<Option<Arc<Loaded>>>,
}

impl Session {
    pub(super) fn new(
        peer: Peer,
        from: SocketAddr,
        met: &Loaded,
        limits: &Limits,
        trust: watch::Receiver<Option<Arc<Loaded>>>,
    ) -> Self {
        let counted = limits.connect(&peer.serial, Instant::now());
        let ca = met.material.ca.clone();
        Self { caller: Caller::remote(&peer, from), peer, ca, counted, trust }
    }

    /// Why nothing more is taken from this caller: what is in force has changed, or time has passed.
    fn ended(&self) -> Option<&'static str> {
        let trust = self.trust.borrow();
        trust.as_ref().and_then(|loaded| loaded.admits(&self.peer, &self.ca, clock::now()).err())
    }

    /// What is wrong with a request before it is looked at.
    fn refusal(&self) -> Option<ErrorBody> {
        if let Some(why) = self.ended() {
            let next = ErrorCode::CertificateInvalid.next();
            return Some(ErrorBody::new(ErrorCode::CertificateInvalid, why, next));
        }
        let name = &self.caller.name;
        let limited = if self.counted.is_over {
            format!("{name} has too many connections at once")
        } else if self.counted.request(Instant::now()) {
            return None;
        } else {
            format!("{name} calls too often")
        };
        Some(ErrorBody::new(ErrorCode::RateLimited, limited, ErrorCode::RateLimited.next()))
    }

    /// Ends when nothing more is taken from this caller, and tells so in the log.
    pub(super) async fn cut_off(&self) {
        let mut changes = self.trust.clone();
        let why = loop {
            changes.mark_unchanged();
            if let Some(why) = self.ended() {
                break why;
            }
            // By the wall clock, which may be set meanwhile: looked at now and then.
            let left = Duration::from_millis(self.peer.not_after.0.saturating_sub(clock::now().0) + 1);
            tokio::select! {
                // Without a sender the agent is ending; time goes on to count.
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
            }
        };
        let from = self.caller.from_told();
        warn!(caller = self.caller.name, from, why, "cut a caller off");
    }

    async fn answer(
        self: Arc<Self>,
        router: Router,
        mut request: Request<Incoming>,
    ) -> Result<Response, Infallible> {
        if let Some(refusal) = self.refusal() {
            let why = Why { code: refusal.code, message: refusal.message.clone() };
            audit::note(&self.caller, request.method(), request.uri().path(), &why);
            let mut response = Refused::from(refusal).into_response();
            if why.code == ErrorCode::RateLimited {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            if why.code == ErrorCode::CertificateInvalid || self.counted.is_over {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return Ok(response);
        }
        request.extensions_mut().insert(self.caller.clone());
        // What outlives the request, because it became a connection of its own, counts on and can be cut off.
        request.extensions_mut().insert(self.clone());
        router.oneshot(request).await
    }

    /// Serves the connection until it ends, or the caller is no longer good.
    pub(super) async fn serve<S>(self, stream: S, router: Router)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let this = Arc::new(self);
        let session = this.clone();
        let service = service_fn(move |request| {
            let (session, router) = (session.clone(), router.clone());
            async move { session.answer(router, request).await }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            done = served => {
                if let Err(e) = done {
                    debug!(caller = this.caller.name, error = %e, "a caller went away");
                }
            }
            () = this.cut_off() => {}
        }
    }
}

/// Serves a connection of root, which has no limits.
pub(super) fn serve_root<S>(stream: S, router: Router) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Caller::root());
        router.clone().oneshot(request)
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    async move {
        if let Err(e) = served.await {
            debug!(error = %e, "a caller went away");
        }
    }
}
