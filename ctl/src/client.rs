//! Typed calls to an agent: HTTP/1.1 over its Unix socket or over TLS, one idle connection kept.
//!
//! A call fails at once when the agent was never there; [`Client::patiently`] is for calls in the
//! middle of a deployment, where the agent may be restarting.
//!
//! | module | does |
//! |---|---|
//! | [`transport`] | connects, keeps the idle connection, sends one request |
//! | [`tls`] | the TLS of an identity, and what its refusals mean |
//! | [`patience`] | growing waits |
//! | [`lines`] | NDJSON as it arrives |

mod lines;
mod patience;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod tls;
mod transport;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use deployd_api::API_VERSION;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::LEASE_HEADER;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::lines::Lines;
pub(crate) use self::patience::BackOff;
pub(crate) use self::transport::Remote;
use self::transport::{Endpoint, Line};
use crate::error::CtlError;

/// What a request carries.
pub(crate) type Body = BoxBody<Bytes, io::Error>;
/// The bytes of a connection after its upgrade.
pub(crate) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

const JSON: &str = "application/json";
const PEM: &str = "application/x-pem-file";

/// An agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    line: Arc<Line>,
    headers: Vec<(&'static str, String)>,
}

impl Client {
    /// The agent of this host.
    pub(crate) fn local(socket: PathBuf) -> Self {
        Self::over(Endpoint::Local(socket))
    }

    /// The agent of another host.
    pub(crate) fn remote(remote: Remote) -> Self {
        Self::over(Endpoint::Remote(Box::new(remote)))
    }

    fn over(endpoint: Endpoint) -> Self {
        Self { line: Arc::new(Line::new(endpoint)), headers: Vec::new() }
    }

    /// The same agent, and the same connection, with a header on every call.
    pub(crate) fn with_header(&self, name: &'static str, value: String) -> Self {
        let mut client = self.clone();
        client.headers.retain(|(known, _)| *known != name);
        client.headers.push((name, value));
        client
    }

    /// The same agent, called under a lease: `ID;EPOCH`.
    #[cfg_attr(not(test), expect(dead_code, reason = "rollouts use it"))]
    pub(crate) fn under(&self, lease: String) -> Self {
        self.with_header(LEASE_HEADER, lease)
    }

    /// One request. `path` begins after the version: `/apps/shop`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, CtlError> {
        let request = self.request(method, path, JSON, body)?;
        self.answered(request).await
    }

    /// One request that leaves HTTP: the connection's bytes, once the agent has said yes.
    pub(crate) async fn upgrade(
        &self,
        method: Method,
        path: &str,
        protocol: &'static str,
        body: &impl Serialize,
    ) -> Result<Upgraded, CtlError> {
        let during = format!("{method} {path}");
        let mut request = self.request(method, path, JSON, json(&during, body)?)?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
        let response = self.line.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let error = refusal(&during, response).await;
            return Err(error);
        }
        let upgraded = hyper::upgrade::on(response).await;
        upgraded.map(TokioIo::new).map_err(|e| self.line.lost(&during, e.into()))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        kind: &'static str,
        body: Body,
    ) -> Result<Request<Body>, CtlError> {
        let during = format!("{method} {path}");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v{API_VERSION}{path}"))
            .header(HOST, "deployd")
            .header(CONTENT_TYPE, kind);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(body).map_err(|e| CtlError::Wire { during, source: e.into() })
    }

    async fn answered(&self, request: Request<Body>) -> Result<Response<Incoming>, CtlError> {
        let during = transport::name_of(&request);
        let response = self.line.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(&during, response).await)
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
        let body = json(&format!("{method} {path}"), body)?;
        self.read(method, path, body).await
    }

    /// A call that changes something and needs no body.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, CtlError> {
        self.read(Method::POST, path, empty()).await
    }

    /// A call without a body whose answer does not matter.
    pub(crate) async fn tell(&self, method: Method, path: &str) -> Result<(), CtlError> {
        let during = format!("{method} {path}");
        let response = self.send(method, path, empty()).await?;
        // Read to its end, the connection can be used again.
        self.bytes(&during, response).await.map(drop)
    }

    /// A call with a PEM body, or none, that is answered with text.
    pub(crate) async fn pem(&self, method: Method, path: &str, text: String) -> Result<String, CtlError> {
        let during = format!("{method} {path}");
        let request = self.request(method, path, PEM, full(text.into()))?;
        let response = self.answered(request).await?;
        let bytes = self.bytes(&during, response).await?;
        String::from_utf8(bytes.to_vec()).map_err(|e| CtlError::Wire { during, source: e.into() })
    }

    async fn read<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, CtlError> {
        let during = format!("{method} {path}");
        let response = self.send(method, path, body).await?;
        let bytes = self.bytes(&during, response).await?;
        serde_json::from_slice(&bytes).map_err(|e| CtlError::Wire { during, source: e.into() })
    }

    async fn bytes(&self, during: &str, response: Response<Incoming>) -> Result<Bytes, CtlError> {
        let body = response.into_body().collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|e| self.line.lost(during, e.into()))
    }

    /// A stream of JSON lines.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, CtlError> {
        let response = self.send(Method::GET, path, empty()).await?;
        Ok(Lines::new(format!("GET {path}"), response.into_body()))
    }

    /// Repeats a call that may be repeated while the agent is away, for at most [`patience::PATIENCE`].
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

/// Why the agent said no.
async fn refusal(during: &str, response: Response<Incoming>) -> CtlError {
    let status = response.status();
    let bytes = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => return CtlError::Lost { during: during.to_owned(), source: e.into() },
    };
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let what = format!("{during}: the agent answered {status} without saying why");
        ErrorBody::new(ErrorCode::Internal, what, "see: journalctl -u deployd")
    });
    CtlError::Answer(Box::new(body))
}

fn json(during: &str, body: &impl Serialize) -> Result<Body, CtlError> {
    let text = serde_json::to_vec(body);
    text.map(|t| full(t.into())).map_err(|e| CtlError::Wire { during: during.to_owned(), source: e.into() })
}

/// A body of nothing.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}
