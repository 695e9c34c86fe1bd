//! Checks of one release on the public port: HTTP/1.1 and TCP, steered by `SO_MARK`.
//!
//! One try a call, with its own time limit; how often, and what a failure means, is decided elsewhere. The
//! mark is set before `connect()`, so the connection reaches the member that the program maps it to.

pub mod forward;
pub mod subset;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout};

use super::connections;
use super::sockdiag::{self, Served};

/// Most of a body that is read: a health check that says more says too much.
const BODY_MAX: usize = 1 << 20;
/// Most of a body that is shown.
const EXCERPT_MAX: usize = 400;

/// Where a probe connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Over TCP.
    Tcp {
        /// A local address of the listener.
        addr: SocketAddr,
        /// The mark that steers; `None` goes where any client goes.
        mark: Option<u32>,
    },
    /// Over a Unix socket, which no mark steers.
    Unix(PathBuf),
}

/// An HTTP check.
#[derive(Debug, Clone)]
pub struct HttpProbe {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host:`.
    pub host: String,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// Statuses that pass, as inclusive ranges.
    pub statuses: Vec<(u16, u16)>,
    /// What the JSON body must contain.
    pub json: Option<serde_json::Value>,
    /// How long the whole try may take.
    pub timeout: Duration,
}

/// What one try found.
#[derive(Debug, Clone, PartialEq)]
pub struct Probed {
    /// How long it took.
    pub latency: Duration,
    /// The HTTP status, if one came.
    pub status: Option<u16>,
    /// The first part of the body, if one came.
    pub excerpt: Option<String>,
    /// What was wrong; `None` is a pass.
    pub failure: Option<Failure>,
}

/// What was wrong with one try.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Nothing can be asked this way.
    #[error("the check cannot be sent: {0}")]
    Request(String),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// The kernel took the connection, and no program did.
    #[error("nobody accepted the connection in {} ms", .0.as_millis())]
    NotAccepted(Duration),
    /// It took too long.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection broke, or it was not HTTP.
    #[error("no HTTP answer: {0}")]
    Http(String),
    /// Another status.
    #[error("wanted status {wanted}, got {got}")]
    Status {
        /// The statuses that pass.
        wanted: String,
        /// The one that came.
        got: u16,
    },
    /// The body is not JSON, or too long.
    #[error("the body is not usable: {0}")]
    Body(String),
    /// The body lacks something.
    #[error("wanted {0}")]
    Json(subset::Mismatch),
}

/// A connection to a target.
async fn connect_tcp(addr: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark)?;
    }
    socket.connect(addr).await
}

/// Whether a program accepts a connection to the target. That it can be made says nothing: PID 1 listens,
/// and the kernel completes handshakes for programs that hang.
pub async fn tcp(target: &Target, limit: Duration) -> Probed {
    let begun = Instant::now();
    let mut connected = false;
    let failure = match timeout(limit, accepted(target, &mut connected)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Failure::Connect(error.to_string())),
        Err(_) if connected => Some(Failure::NotAccepted(limit)),
        Err(_) => Some(Failure::Timeout(limit)),
    };
    Probed { latency: begun.elapsed(), status: None, excerpt: None, failure }
}

/// How often it is looked whether a connection was accepted.
const LOOK: Duration = Duration::from_millis(5);

async fn accepted(target: &Target, connected: &mut bool) -> io::Result<()> {
    match target {
        Target::Tcp { addr, mark } => {
            let stream = connect_tcp(*addr, *mark).await?;
            *connected = true;
            accepted_tcp(&stream).await
        }
        Target::Unix(path) => {
            let _stream = UnixStream::connect(path).await?;
            *connected = true;
            while connections::unix_waiting(path)? > 0 {
                sleep(LOOK).await;
            }
            Ok(())
        }
    }
}

async fn accepted_tcp(stream: &TcpStream) -> io::Result<()> {
    let (server, client) = (stream.peer_addr()?, stream.local_addr()?);
    loop {
        match sockdiag::served(server, client)? {
            Served::Accepted => return Ok(()),
            Served::Waiting => {}
            // Accepted and closed again, or broken off because nobody did.
            Served::Gone => match stream.try_read(&mut [0; 1]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                ended => return ended.map(drop),
            },
        }
        sleep(LOOK).await;
    }
}

/// One HTTP request to the target, judged by status and body.
pub async fn http(target: &Target, probe: &HttpProbe) -> Probed {
    let begun = Instant::now();
    let mut seen = Seen::default();
    let failure = match timeout(probe.timeout, ask(target, probe, &mut seen)).await {
        Ok(result) => result.err(),
        Err(_) => Some(Failure::Timeout(probe.timeout)),
    };
    Probed { latency: begun.elapsed(), status: seen.status, excerpt: seen.excerpt, failure }
}

/// What came before a try ended.
#[derive(Default)]
struct Seen {
    status: Option<u16>,
    excerpt: Option<String>,
}

async fn ask(target: &Target, probe: &HttpProbe, seen: &mut Seen) -> Result<(), Failure> {
    let request = request(probe)?;
    let connected = |e: io::Error| Failure::Connect(e.to_string());
    let response = match target {
        Target::Tcp { addr, mark } => {
            exchange(connect_tcp(*addr, *mark).await.map_err(connected)?, request).await?
        }
        Target::Unix(path) => exchange(UnixStream::connect(path).await.map_err(connected)?, request).await?,
    };
    let status = response.status().as_u16();
    seen.status = Some(status);
    let (body, end) = read_body(response.into_body()).await;
    seen.excerpt = Some(excerpt(&body));
    if !probe.statuses.iter().any(|(low, high)| (*low..=*high).contains(&status)) {
        return Err(Failure::Status { wanted: describe_statuses(&probe.statuses), got: status });
    }
    end?;
    let Some(wanted) = &probe.json else {
        return Ok(());
    };
    let got = serde_json::from_slice(&body).map_err(|e| Failure::Body(format!("it is not JSON: {e}")))?;
    subset::check(wanted, &got).map_err(Failure::Json)
}

fn request(probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, Failure> {
    let bad = |what: &str, e: &dyn std::fmt::Display| Failure::Request(format!("{what}: {e}"));
    let method = Method::from_bytes(probe.method.as_bytes()).map_err(|e| bad("method", &e))?;
    let uri: Uri = probe.path.parse().map_err(|e| bad("path", &e))?;
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("host", &probe.host)
        .header("user-agent", concat!("deployd/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close");
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| bad("headers", &e))
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: hyper::Error| Failure::Http(e.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection ends with the request that is dropped with its body; its own error shows there, too.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

/// The body, as far as it may be read, and whether that is all of it.
async fn read_body(mut body: Incoming) -> (Vec<u8>, Result<(), Failure>) {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
            Err(e) => return (bytes, Err(Failure::Http(e.to_string()))),
        }
        if bytes.len() > BODY_MAX {
            return (bytes, Err(Failure::Body(format!("it is longer than {BODY_MAX} bytes"))));
        }
    }
    (bytes, Ok(()))
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let mut short: String = text.trim().chars().take(EXCERPT_MAX).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

fn describe_statuses(ranges: &[(u16, u16)]) -> String {
    let one = |(low, high): &(u16, u16)| {
        if low == high { low.to_string() } else { format!("{low}-{high}") }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
