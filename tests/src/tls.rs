//! Clients of the agents' port: with any certificate or none, and what became of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::api::{Reply, request};
use crate::netns::NetPath;
use crate::pki::Identity;

const LIMIT: Duration = Duration::from_secs(10);

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API answered.
    Answered(Reply),
    /// The handshake failed, or the connection ended before a byte of an answer; why, as far as it was told.
    Refused(String),
}

impl Outcome {
    /// The answer of the API.
    pub fn answer(self) -> Result<Reply> {
        match self {
            Self::Answered(reply) => Ok(reply),
            Self::Refused(why) => bail!("refused: {why}"),
        }
    }
}

/// A client of one host.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where it calls from.
    pub from: NetPath,
    /// Where the API is.
    pub target: SocketAddr,
    /// The name that the host's certificate must have.
    pub name: String,
    /// PEM of the authority that the host's certificate must be of.
    pub ca: String,
}

impl Caller {
    /// One call with this certificate, or none.
    pub fn call(&self, identity: Option<&Identity>, method: &str, path: &str, body: &str) -> Result<Outcome> {
        let text = request(method, path, body);
        self.inside(|| Ok(exchange(&mut self.connect(identity)?, &text)))?
    }

    /// `GET /v1/host`: what every role may see.
    pub fn host(&self, identity: Option<&Identity>) -> Result<Outcome> {
        self.call(identity, "GET", "/v1/host", "")
    }

    /// A connection whose handshake is not begun.
    pub fn connect(&self, identity: Option<&Identity>) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).map_err(|e| anyhow!("{e:?}"))?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
                let (chain, key) = (chain.map_err(|e| anyhow!("{e:?}"))?, key.map_err(|e| anyhow!("{e:?}"))?);
                builder.with_client_auth_cert(vec![chain], key)?
            }
        };
        let tcp = TcpStream::connect_timeout(&self.target, LIMIT).context("failed to connect")?;
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_write_timeout(Some(LIMIT))?;
        let name = ServerName::try_from(self.name.clone())?;
        Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, tcp))
    }

    /// Runs `task` in a thread inside the namespace of clients.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let run = || {
            self.from.enter_thread()?;
            task()
        };
        thread::scope(|scope| scope.spawn(run).join().map_err(|_| anyhow!("a client panicked"))?)
    }
}

/// Sends and reads to the end. A server checks a client's certificate after the client's own handshake is over, so
/// that a refusal appears where an answer would.
fn exchange(stream: &mut StreamOwned<ClientConnection, TcpStream>, text: &str) -> Result<Outcome> {
    if let Err(error) = stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
        return refused(&error);
    }
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if bytes.is_empty() => refused(&error),
        Ok(_) if bytes.is_empty() => Ok(Outcome::Refused("the connection ended".to_owned())),
        // An end without a close of TLS after a whole answer is no refusal.
        _ => Ok(Outcome::Answered(Reply::parse(&bytes)?)),
    }
}

/// A time-out is no refusal: nobody said no.
fn refused(error: &std::io::Error) -> Result<Outcome> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => bail!("neither an answer nor a refusal: {error}"),
        _ => Ok(Outcome::Refused(error.to_string())),
    }
}
