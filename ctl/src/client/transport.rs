//! One agent's connection: made when it is needed, kept while it is idle, one request at a time.
//!
//! A kept connection may have been closed by the other side. A request that was not sent goes out again on a
//! new one; so does one that only reads. Anything else is lost, and its caller knows whether to repeat it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Body, tls};
use crate::error::CtlError;
use crate::fleet::Address;

/// How long a host may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long what was sent may stay unheard before the connection is given up: a host that dies closes none.
const UNHEARD: Duration = Duration::from_secs(20);
/// A connection on which nothing comes is probed after so many seconds, and as often again.
const PROBE_S: u32 = 5;
/// How many probes may stay unheard.
const PROBES: u32 = 3;
/// How long an idle connection is trusted: shorter than the agent keeps one.
const IDLE: Duration = Duration::from_secs(5);
/// How long the reason of a refusal is waited for.
const REASON: Duration = Duration::from_secs(2);

/// A host that is reached over TLS.
#[derive(Clone)]
pub(crate) struct Remote {
    /// Its name: the certificate must have it.
    pub(crate) host: String,
    pub(crate) address: Address,
    pub(crate) tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.host, self.address)
    }
}

/// Where an agent is.
#[derive(Debug)]
pub(super) enum Endpoint {
    Local(PathBuf),
    Remote(Box<Remote>),
}

/// An agent with its idle connection.
#[derive(Debug)]
pub(super) struct Line {
    endpoint: Endpoint,
    idle: Mutex<Option<(SendRequest<Body>, Instant)>>,
}

/// A request, as errors name it: `GET /apps`.
pub(super) fn name_of(request: &Request<Body>) -> String {
    let path = request.uri().path_and_query().map_or("", |p| p.as_str());
    let prefix = format!("/v{}", deployd_api::API_VERSION);
    format!("{} {}", request.method(), path.strip_prefix(&prefix).unwrap_or(path))
}

impl Line {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::default() }
    }

    /// One request, over the idle connection or a new one.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, CtlError> {
        let during = name_of(&request);
        let again = repeatable(&request);
        let mut request = request;
        if let Some(mut kept) = self.take().await {
            match kept.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(kept, response)),
                Err(mut failed) => match (failed.take_message(), again) {
                    (Some(unsent), _) => request = unsent,
                    (None, Some(same)) => request = same,
                    (None, None) => return Err(self.lost(&during, failed.into_error().into())),
                },
            }
        }
        let mut sender = self.connect().await?;
        match sender.send_request(request).await {
            Ok(response) => Ok(self.keep(sender, response)),
            Err(error) => Err(self.explain(&during, error).await),
        }
    }

    /// The idle connection, if it can still be used.
    async fn take(&self) -> Option<SendRequest<Body>> {
        let (sender, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if since.elapsed() > IDLE {
            return None;
        }
        // The task of the connection has to see the end of the last answer, or of the connection.
        for _ in 0..2 {
            if !sender.is_ready() {
                tokio::task::yield_now().await;
            }
        }
        (sender.is_ready() && !sender.is_closed()).then_some(sender)
    }

    fn keep(&self, sender: SendRequest<Body>, response: Response<Incoming>) -> Response<Incoming> {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some((sender, Instant::now()));
        response
    }

    async fn connect(&self) -> Result<SendRequest<Body>, CtlError> {
        match &self.endpoint {
            Endpoint::Local(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|source| CtlError::Connect { path: path.clone(), source })?;
                self.speak(stream).await
            }
            Endpoint::Remote(remote) => self.speak(remote.connect().await?).await,
        }
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Body>, CtlError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let made = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|e| self.lost("connecting", e.into()))?;
        // It ends with the last response; its error comes out of the response too.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    /// The connection broke. What TLS said of it comes first.
    pub(super) fn lost(&self, during: &str, error: Box<dyn std::error::Error + Send + Sync>) -> CtlError {
        let Endpoint::Remote(remote) = &self.endpoint else {
            return CtlError::Lost { during: during.to_owned(), source: error };
        };
        match tls::cause_of(error.as_ref()) {
            Some(cause) => tls::refused(&remote.host, &remote.address, cause),
            None => CtlError::Lost { during: format!("{during} on {}", remote.host), source: error },
        }
    }

    /// Why the first request of a new connection failed. In TLS 1.3 a host refuses a certificate when the client
    /// thinks the handshake over; the alert is lost when the request meets a closed connection. A connection
    /// that only listens hears it.
    async fn explain(&self, during: &str, error: hyper::Error) -> CtlError {
        let error = self.lost(during, error.into());
        let (CtlError::Lost { .. }, Endpoint::Remote(remote)) = (&error, &self.endpoint) else {
            return error;
        };
        let listen = async {
            let mut stream = remote.connect().await?;
            let heard = stream.read(&mut [0; 1]).await;
            heard.map_err(|e| self.lost(during, e.into())).map(drop)
        };
        match tokio::time::timeout(REASON, listen).await {
            Ok(Err(reason @ CtlError::Answer(_))) => reason,
            _ => error,
        }
    }
}

impl Remote {
    /// TCP and TLS.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, CtlError> {
        let unreachable = |source| CtlError::Unreachable {
            host: self.host.clone(),
            address: self.address.to_string(),
            source,
        };
        let name = rustls_pki_types::ServerName::try_from(self.host.clone())
            .map_err(|e| unreachable(io::Error::other(e)))?;
        let connected = async {
            let stream = TcpStream::connect((self.address.host(), self.address.port())).await?;
            stream.set_nodelay(true)?;
            watch(&stream)?;
            TlsConnector::from(self.tls.clone()).connect(name, stream).await
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(match tls::cause_of(&error) {
                Some(cause) => tls::refused(&self.host, &self.address, cause),
                None => unreachable(error),
            }),
            Err(_) => {
                let text = format!("no answer in {} s", CONNECT.as_secs());
                Err(unreachable(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
        }
    }
}

/// Has the kernel notice that the other side is gone.
fn watch(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    let unheard = u32::try_from(UNHEARD.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &unheard)?;
    Ok(())
}

/// The same request, when sending it twice does nothing more than sending it once, and it has no body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    if request.method() != Method::GET {
        return None;
    }
    let mut same = Request::new(super::empty());
    *same.method_mut() = request.method().clone();
    *same.uri_mut() = request.uri().clone();
    *same.headers_mut() = request.headers().clone();
    Some(same)
}
