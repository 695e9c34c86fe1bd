//! Calls over real TLS on the loopback: certificates of the CA that `pki` makes, an agent that is rustls and hyper.

use std::future::ready;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deployd_api::access::Role;
use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;
use http_body_util::Full;
use hyper::service::service_fn;
use rcgen::CertificateParams;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::human;
use crate::pki::authority::{Authority, OPERATOR_TTL, Signed, new_key};
use crate::pki::issued::Issued;
use crate::pki::{Home, Identity, home};

/// A fleet's CA in a folder of its own.
pub(crate) struct Ca {
    dir: tempfile::TempDir,
    pub(crate) authority: Authority,
    now: Timestamp,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let now = human::now();
        let authority = Authority::create(&home, "test", now).unwrap().authority;
        let crl = authority.revocations(&[], now).unwrap();
        home.write(home::CRL, crl.as_bytes()).unwrap();
        Self { dir, authority, now }
    }

    fn at(&self, now: Timestamp) -> (Signed, String) {
        let key = new_key().unwrap();
        let signed = self.authority.operator("ops-1", &[Role::Admin], OPERATOR_TTL, &key, now).unwrap();
        (signed, key.serialize_pem())
    }

    /// An operator's identity, issued at this moment.
    fn identity(&self, now: Timestamp) -> (Identity, Signed) {
        let (signed, key) = self.at(now);
        let path = self.dir.path().join("identity.pem");
        std::fs::write(&path, format!("{}{key}{}", signed.pem, self.authority.ca_pem())).unwrap();
        (Identity::read(&path).unwrap(), signed)
    }

    /// A host's certificate and key.
    pub(crate) fn host(&self, name: &str, now: Timestamp) -> (Signed, String) {
        let key = new_key().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let signed = self.authority.host(&name.parse().unwrap(), &request, now).unwrap();
        (signed, key.serialize_pem())
    }

    fn revoke(&self, signed: &Signed) -> CertificateRevocationListDer<'static> {
        let mut issued = Issued::of(&signed.facts);
        issued.revoked = Some(self.now);
        let pem = self.authority.revocations(&[issued], self.now).unwrap();
        CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap()
    }
}

/// An agent: answers `GET` with the path and the connection's number, upgrades to an echo.
struct Agent {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    async fn start(
        ca: &Ca,
        certificate: &(Signed, String),
        revoked: Vec<CertificateRevocationListDer<'static>>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.authority.ca_pem().as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .with_crls(revoked)
            .allow_unknown_revocation_status()
            .build()
            .unwrap();
        let chain = vec![CertificateDer::from_pem_slice(certificate.0.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(certificate.1.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(number, request));
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    let _ = served.await;
                });
            }
        });
        Self { address, connections, task }
    }
}

type Answered = std::future::Ready<Result<Response<Full<Bytes>>, std::convert::Infallible>>;

fn answer(number: usize, request: Request<Incoming>) -> Answered {
    let path = request.uri().path().to_owned();
    let header = request.headers().get("deployd-lease").map(|v| v.to_str().unwrap().to_owned());
    if request.headers().contains_key(UPGRADE) && path == "/v1/echo" {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        let response = Response::builder().status(101).header(CONNECTION, "upgrade");
        return ready(Ok(response.header(UPGRADE, "deployd-command").body(Full::default()).unwrap()));
    }
    let text = serde_json::json!({ "path": path, "connection": number, "lease": header }).to_string();
    let mut response = Response::new(Full::from(text));
    if path == "/v1/last" {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    ready(Ok(response))
}

fn client(agent: SocketAddr, host: &str, identity: &Identity) -> Client {
    revoking(agent, host, identity, None)
}

fn revoking(
    agent: SocketAddr,
    host: &str,
    identity: &Identity,
    revoked: Option<CertificateRevocationListDer<'static>>,
) -> Client {
    let tls = Arc::new(tls::config(identity, revoked).unwrap());
    Client::remote(Remote { host: host.to_owned(), address: agent.to_string().parse().unwrap(), tls })
}

/// How a call was refused: its exit code, and the whole text.
async fn refused(client: &Client) -> (ExitCode, String) {
    let error = client.get::<Value>("/x").await.unwrap_err();
    let body = error.to_body();
    assert!(!body.hint.is_empty());
    let causes: Vec<String> = body.causes.iter().map(|(h, t)| format!("{h}: {t}")).collect();
    (error.exit(), format!("{} | {}", body.message, causes.join(" | ")))
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_is_replaced_when_closed() {
    let ca = Ca::new();
    let agent = Agent::start(&ca, &ca.host("web1", ca.now), vec![]).await;
    let client = client(agent.address, "web1", &ca.identity(ca.now).0);
    for _ in 0..3 {
        let value: Value = client.get("/x").await.unwrap();
        assert_eq!((&value["path"], &value["connection"]), (&"/v1/x".into(), &1.into()));
    }
    let leased = client.under("abc;7".to_owned());
    let value: Value = leased.get("/x").await.unwrap();
    assert_eq!((&value["lease"], &value["connection"]), (&"abc;7".into(), &1.into()));
    let value: Value = client.get("/last").await.unwrap();
    assert_eq!((&value["lease"], &value["connection"]), (&Value::Null, &1.into()));
    let value: Value = client.post("/x").await.unwrap();
    assert_eq!(value["connection"], 2, "the agent closed the first");
    assert_eq!(agent.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_over_tls_and_over_the_socket() {
    let ca = Ca::new();
    let agent = Agent::start(&ca, &ca.host("web1", ca.now), vec![]).await;
    let remote = client(agent.address, "web1", &ca.identity(ca.now).0);
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let served = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request| answer(1, request));
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    for client in [remote, Client::local(dir.path().join("s"))] {
        let mut stream = client.upgrade(Method::POST, "/echo", "deployd-command", &1).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        let error = client.upgrade(Method::POST, "/x", "deployd-command", &1).await.unwrap_err();
        assert_eq!(error.exit(), ExitCode::Internal, "an answer that is no upgrade");
    }
    served.abort();
}

#[tokio::test]
async fn certificates_of_hosts_that_are_not_right_are_told_apart() {
    let (ca, other) = (Ca::new(), Ca::new());
    let identity = ca.identity(ca.now).0;
    let long_ago = Timestamp(ca.now.0 - 200 * 24 * 3600 * 1000);
    let later = Timestamp(ca.now.0 + 10 * 24 * 3600 * 1000);
    for (certificate, want) in [
        (ca.host("web2", ca.now), "what answers is not web1 | what: its certificate is that of web2"),
        (other.host("web1", ca.now), "web1 is not a host of your fleet"),
        (ca.host("web1", long_ago), "the certificate of web1 has expired"),
        (ca.host("web1", later), "the certificate of web1 is not valid yet"),
        (ca.at(ca.now), "web1 shows a certificate that is not a host's"),
    ] {
        let agent = Agent::start(&ca, &certificate, vec![]).await;
        let (code, text) = refused(&client(agent.address, "web1", &identity)).await;
        let place = format!("where: web1, {}", agent.address);
        assert!(text.starts_with(want) && text.contains(&place), "{text}");
        assert_eq!(code, ExitCode::Unauthorized, "{text}");
    }
    let certificate = ca.host("web1", ca.now);
    let agent = Agent::start(&ca, &certificate, vec![]).await;
    let list = Some(ca.revoke(&certificate.0));
    let (code, text) = refused(&revoking(agent.address, "web1", &identity, list)).await;
    assert!(text.starts_with("the certificate of web1 is revoked"), "{text}");
    assert_eq!(code, ExitCode::Unauthorized);
}

#[tokio::test]
async fn a_refused_identity_is_told_apart() {
    let (ca, other) = (Ca::new(), Ca::new());
    let long_ago = Timestamp(ca.now.0 - 500 * 24 * 3600 * 1000);
    let (good, signed) = ca.identity(ca.now);
    let host = ca.host("web1", ca.now);
    let mixed = |certificate: &(Signed, String)| {
        let path = ca.dir.path().join("mixed.pem");
        let text = format!("{}{}{}", certificate.0.pem, certificate.1, ca.authority.ca_pem());
        std::fs::write(&path, text).unwrap();
        Identity::read(&path).unwrap()
    };
    for (identity, revoked, want) in [
        (good, vec![ca.revoke(&signed)], "web1 refused your identity: it is revoked"),
        (ca.identity(long_ago).0, vec![], "web1 refused your identity: it has expired, by the host's clock"),
        (mixed(&other.at(ca.now)), vec![], "web1 refused your identity: another CA signed it"),
        (
            mixed(&ca.host("web9", ca.now)),
            vec![],
            "web1 refused your identity | what: the certificate is not",
        ),
    ] {
        let agent = Agent::start(&ca, &host, revoked).await;
        let (code, text) = refused(&client(agent.address, "web1", &identity)).await;
        assert!(text.starts_with(want), "{want}: {text}");
        assert_eq!(code, ExitCode::Unauthorized, "{text}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_unreachable() {
    let ca = Ca::new();
    let identity = ca.identity(ca.now).0;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        drop(listener);
    });
    let (code, text) = refused(&client(address, "web1", &identity)).await;
    assert!(text.starts_with("no TLS with web1"), "{text}");
    assert_eq!(code, ExitCode::Unauthorized);
    plain.await.unwrap();
    let client = client(address, "web1", &identity);
    let error = client.get::<Value>("/x").await.unwrap_err();
    assert!(error.is_absence());
    let (code, text) = refused(&client).await;
    assert!(text.starts_with(&format!("cannot reach web1 at {address}")), "{text}");
    assert_eq!(code, ExitCode::Partial);
}

#[test]
fn an_identity_is_judged_before_any_call() {
    let ca = Ca::new();
    let day = |n: i64| Timestamp((i64::try_from(ca.now.0).unwrap() + n * 24 * 3600 * 1000) as u64);
    let identity = ca.identity(ca.now).0;
    for (now, want) in [
        (day(0), None),
        (day(364), None),
        (day(369), Some("your identity ops-1 expired 3 d ago")),
        (day(-3), Some("your identity ops-1 is not valid yet")),
    ] {
        let told = identity.must_be_valid(now).err();
        assert_eq!(told.as_ref().map(|e| e.to_body().message).as_deref(), want);
        assert!(told.is_none_or(|e| e.exit() == ExitCode::Unauthorized));
    }
    let (signed, key) = ca.host("web1", ca.now);
    let path = Path::new(ca.dir.path()).join("host.pem");
    std::fs::write(&path, format!("{}{key}{}", signed.pem, ca.authority.ca_pem())).unwrap();
    let told = Identity::read(&path).unwrap().must_be_valid(ca.now).unwrap_err();
    assert!(told.to_string().contains("is a host's"), "{told}");
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}
