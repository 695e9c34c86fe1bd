//! Typed calls to an agent: HTTP/1.1 over its Unix socket, one connection a call.
//!
//! A call fails at once when the agent was never there; [`Client::patiently`] is for calls in the
//! middle of a deployment, where the agent may be restarting.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use deployd_api::API_VERSION;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::LEASE_HEADER;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::error::CtlError;

/// How long a restarting agent is waited for: an upgrade of the package takes a few seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// First wait between tries; it doubles.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between tries.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// What a request carries.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// An agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
    /// `ID;EPOCH` of the lease that calls are made under.
    lease: Option<String>,
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, lease: None }
    }

    /// The same agent, called under a lease.
    pub(crate) fn under(&self, lease: String) -> Self {
        Self { lease: Some(lease), ..self.clone() }
    }

    /// One request. `path` begins after the version: `/apps/shop`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, CtlError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| CtlError::Connect { path: self.socket.clone(), source })?;
        let during = format!("{method} {path}");
        let lost = |e: hyper::Error| CtlError::Lost { during: during.clone(), source: e.into() };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // It ends with the response; its error comes out of the response too.
        tokio::spawn(connection);
        let mut request = Request::builder();
        if let Some(lease) = &self.lease {
            request = request.header(LEASE_HEADER, lease);
        }
        let request = request
            .method(method)
            .uri(format!("/v{API_VERSION}{path}"))
            .header("host", "deployd")
            .header("content-type", "application/json")
            .body(body)
            .map_err(|e| CtlError::Wire { during: during.clone(), source: e.into() })?;
        let response = sender.send_request(request).await.map_err(lost)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let what = format!("{during}: the agent answered {status} without saying why");
            ErrorBody::new(ErrorCode::Internal, what, "see: journalctl -u deployd")
        });
        Err(CtlError::Answer(Box::new(body)))
    }

    /// A call without a body.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        self.read(Method::GET, path, empty()).await
    }

    /// A call with a JSON body.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CtlError> {
        let text = serde_json::to_vec(body)
            .map_err(|e| CtlError::Wire { during: format!("{method} {path}"), source: e.into() })?;
        self.read(method, path, full(text.into())).await
    }

    /// A call that changes something and needs no body.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        self.read(Method::POST, path, empty()).await
    }

    /// A call without a body whose answer does not matter.
    pub(crate) async fn tell(&self, method: Method, path: &str) -> Result<(), CtlError> {
        self.send(method, path, empty()).await.map(drop)
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, CtlError> {
        let during = format!("{method} {path}");
        let response = self.send(method, path, body).await?;
        let bytes = response.into_body().collect().await;
        let bytes = bytes.map_err(|e| CtlError::Lost { during: during.clone(), source: e.into() })?;
        serde_json::from_slice(&bytes.to_bytes()).map_err(|e| CtlError::Wire { during, source: e.into() })
    }

    /// A stream of JSON lines.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, CtlError> {
        let response = self.send(Method::GET, path, empty()).await?;
        Ok(Lines { during: format!("GET {path}"), body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Repeats a call that may be repeated while the agent is away, for at most [`PATIENCE`].
    pub(crate) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, CtlError>
    where
        F: Future<Output = Result<T, CtlError>>,
    {
        let mut back_off = BackOff::new();
        loop {
            match call().await {
                Err(error) if error.is_absence() && back_off.wait().await => {}
                outcome => return outcome,
            }
        }
    }
}

/// Growing waits, until patience ends.
#[derive(Debug)]
pub(crate) struct BackOff {
    until: Instant,
    next: Duration,
}

impl BackOff {
    pub(crate) fn new() -> Self {
        Self { until: Instant::now() + PATIENCE, next: BACK_OFF_MIN }
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

/// A body of nothing.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// NDJSON as it arrives.
#[derive(Debug)]
pub(crate) struct Lines {
    during: String,
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next object; `None` at the orderly end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CtlError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|e| CtlError::Wire { during: self.during.clone(), source: e.into() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().ok()),
                Some(Err(e)) => {
                    return Err(CtlError::Lost { during: self.during.clone(), source: e.into() });
                }
                None => return Ok(None),
            }
        }
    }
}
