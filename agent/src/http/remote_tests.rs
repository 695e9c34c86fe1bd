//! Real handshakes over loopback, with the real table of routes: who comes in, and how far.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::on;
use deployd_api::access::{Role, host_uri};
use hyper::upgrade::OnUpgrade;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::limits::CONNECTIONS_MAX;
use super::pending::PENDING_MAX;
use super::remote::Doors;
use super::routes::{assemble, filter};
use super::session::Session;
use crate::driver::clock;
use crate::store::atomic;
use crate::tls::pki::{Caller, Fleet, Identity};
use crate::tls::trust::Reloaded;
use crate::tls::{Trust, enroll};

/// A host that is enrolled, and listens. Its handlers only say that they were reached.
struct Host {
    dir: tempfile::TempDir,
    fleet: Fleet,
    trust: Trust,
    at: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Host {
    async fn start() -> Self {
        Self::with(assemble(|route| Some(on(filter(route.method), || async { StatusCode::NO_CONTENT }))))
            .await
    }

    async fn with(router: Router) -> Self {
        let (dir, fleet) = (tempfile::tempdir().unwrap(), Fleet::new());
        fleet.enroll(dir.path(), "web1");
        let trust = Trust::open(dir.path(), clock::now());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(Doors::new(trust.clone()).serve(listener, router));
        Self { dir, fleet, trust, at, server }
    }

    /// A connection after the handshake, as far as the client can tell.
    async fn connect(&self, identity: Option<Identity>) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.at).await?;
        connector(&self.fleet, identity).connect("web1".try_into().unwrap(), stream).await
    }

    /// All that the host says to one request.
    async fn ask(&self, identity: Option<Identity>, line: &str) -> Vec<u8> {
        let mut said = Vec::new();
        let Ok(mut stream) = self.connect(identity).await else { return said };
        let request = format!("{line} HTTP/1.1\r\nhost: web1\r\nconnection: close\r\n\r\n");
        // Whoever is refused may be so at any of these.
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_end(&mut said).await;
        }
        said
    }

    fn write(&self, name: &str, text: &str) {
        atomic::write(&self.dir.path().join(name), text.as_bytes(), 0o644).unwrap();
    }
}

fn connector(fleet: &Fleet, identity: Option<Identity>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(fleet.ca_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => config.with_client_auth_cert(identity.chain, identity.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn status(said: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(said);
    text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// One request on a connection that stays; the handlers' answers have no body.
async fn again(stream: &mut TlsStream<TcpStream>) -> std::io::Result<u16> {
    stream.write_all(b"GET /v1/host HTTP/1.1\r\nhost: web1\r\n\r\n").await?;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => said.extend(&part[..n]),
        }
    }
    Ok(status(&said))
}

/// Nobody without a good certificate of the fleet gets a byte of the API.
#[tokio::test]
async fn strangers_are_told_nothing() {
    let host = Host::start().await;
    let admin = || Caller::with("ops-1", &[Role::Admin]);
    let strange: Vec<(&str, Option<Identity>)> = vec![
        ("no certificate", None),
        ("another fleet's", Some(Fleet::new().admin())),
        ("expired", Some(host.fleet.caller(&Caller { days: (-30, -1), ..admin() }))),
        ("not valid yet", Some(host.fleet.caller(&Caller { days: (1, 30), ..admin() }))),
        (
            "a host's",
            Some(host.fleet.caller(&Caller {
                name: "web2",
                uris: vec![host_uri(&"web2".parse().unwrap())],
                usages: vec![ServerAuth],
                ..admin()
            })),
        ),
        (
            "a host's that also calls",
            Some(host.fleet.caller(&Caller {
                uris: vec![Role::Admin.uri(), host_uri(&"web2".parse().unwrap())],
                ..admin()
            })),
        ),
        (
            "of both kinds",
            Some(host.fleet.caller(&Caller { usages: vec![ClientAuth, ServerAuth], ..admin() })),
        ),
        ("of no kind", Some(host.fleet.caller(&Caller { usages: vec![], ..admin() }))),
        ("without a name", Some(host.fleet.caller(&Caller { name: "", ..admin() }))),
    ];
    for (who, identity) in strange {
        let said = host.ask(identity, "GET /v1/host").await;
        assert!(said.is_empty(), "{who}: {}", String::from_utf8_lossy(&said));
    }
    host.write("crl.pem", &host.fleet.revoked(2, &[77], 30));
    assert_eq!(host.trust.reload(clock::now()).unwrap(), Reloaded::New);
    assert!(host.ask(Some(host.fleet.admin()), "GET /v1/host").await.is_empty(), "revoked");
    let other = host.fleet.caller(&Caller { serial: 78, ..admin() });
    assert_eq!(status(&host.ask(Some(other), "GET /v1/host").await), 204, "not revoked");
}

#[tokio::test]
async fn a_caller_may_do_what_its_certificate_says() {
    let host = Host::start().await;
    let shop = Role::Deployer("shop".parse().unwrap());
    for (roles, line, wanted) in [
        (vec![], "GET /v1/host", 403),
        (vec![Role::Viewer], "GET /v1/host", 204),
        (vec![Role::Viewer], "POST /v1/apps/shop/deployments", 403),
        (vec![Role::Viewer], "PUT /v1/tls/crl", 403),
        (vec![shop.clone()], "POST /v1/apps/shop/deployments", 204),
        (vec![shop.clone()], "POST /v1/apps/blog/deployments", 403),
        (vec![shop], "PUT /v1/tls/certificate", 403),
        (vec![Role::Admin], "PUT /v1/tls/certificate", 204),
        (vec![Role::Admin], "PUT /v1/nothing", 404),
    ] {
        let identity = host.fleet.caller(&Caller::with("ops-1", &roles));
        let said = host.ask(Some(identity), line).await;
        assert_eq!(status(&said), wanted, "{roles:?} {line}: {}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn a_new_certificate_is_used_without_dropping_the_listener_or_a_caller() {
    let host = Host::start().await;
    let serial = |stream: &TlsStream<TcpStream>| {
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        crate::tls::Certificate::read(&chain[0]).unwrap().serial
    };
    let mut before = host.connect(Some(host.fleet.admin())).await.unwrap();
    assert_eq!((serial(&before), again(&mut before).await.unwrap()), (vec![5], 204));
    assert_eq!(before.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let request = enroll::request(host.dir.path(), &"web1".parse().unwrap()).unwrap();
    let bundle = host.fleet.bundle(&request, "web1", 6);
    enroll::install(host.dir.path(), &bundle, clock::now()).unwrap();
    assert_eq!(host.trust.reload(clock::now()).unwrap(), Reloaded::New);
    assert_eq!(host.trust.reload(clock::now()).unwrap(), Reloaded::Same);
    let mut after = host.connect(Some(host.fleet.admin())).await.unwrap();
    assert_eq!((serial(&after), again(&mut after).await.unwrap()), (vec![6], 204));
    assert_eq!(again(&mut before).await.unwrap(), 204, "the caller from before goes on");
}

#[tokio::test]
async fn a_bad_file_leaves_in_force_what_was() {
    let host = Host::start().await;
    let stranger = Fleet::new();
    let good = |name: &str| std::fs::read_to_string(host.dir.path().join(name)).unwrap();
    for (name, bad) in [
        ("host.pem", "nonsense".to_owned()),
        ("host.pem", stranger.ca()),
        ("ca.pem", stranger.ca()),
        ("crl.pem", stranger.revoked(9, &[], 30)),
        ("crl.pem", String::new()),
        ("host.key", rcgen::KeyPair::generate().unwrap().serialize_pem()),
    ] {
        let before = good(name);
        host.write(name, &bad);
        assert!(host.trust.reload(clock::now()).is_err(), "{name}");
        assert_eq!(status(&host.ask(Some(host.fleet.admin()), "GET /v1/host").await), 204, "{name}");
        let found = host.trust.findings(clock::now());
        assert_eq!(found[0].code, "tls_invalid", "{name}: {found:?}");
        host.write(name, &before);
        assert_eq!(host.trust.reload(clock::now()).unwrap(), Reloaded::Same, "{name}");
        assert!(host.trust.findings(clock::now()).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_old_list_of_revoked_ones_still_counts() {
    let host = Host::start().await;
    host.write("crl.pem", &host.fleet.revoked(2, &[77], -1));
    host.trust.reload(clock::now()).unwrap();
    assert!(host.ask(Some(host.fleet.admin()), "GET /v1/host").await.is_empty());
    let other = host.fleet.caller(&Caller { serial: 78, ..Caller::with("ops-2", &[Role::Admin]) });
    assert_eq!(status(&host.ask(Some(other), "GET /v1/host").await), 204);
    assert_eq!(host.trust.findings(clock::now())[0].code, "crl_expired");
}

#[tokio::test]
async fn a_caller_that_is_revoked_is_cut_in_the_middle() {
    let host = Host::start().await;
    let mut stream = host.connect(Some(host.fleet.admin())).await.unwrap();
    assert_eq!(again(&mut stream).await.unwrap(), 204);
    enroll::install_revoked(host.dir.path(), &host.fleet.revoked(2, &[77], 30), clock::now()).unwrap();
    host.trust.reload(clock::now()).unwrap();
    let mut rest = Vec::new();
    // It ends by itself; whether with a farewell is the connection's.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

/// Answers as `exec` does: the connection is another protocol's, until its caller is cut off.
async fn held(mut request: Request) -> Response {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().unwrap();
    let session = request.extensions().get::<Arc<Session>>().unwrap().clone();
    tokio::spawn(async move {
        let stream = upgrade.await.unwrap();
        session.cut_off().await;
        drop(stream);
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "x")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[tokio::test]
async fn a_caller_that_is_revoked_is_cut_after_an_upgrade_too() {
    let host = Host::with(assemble(|route| Some(on(filter(route.method), held)))).await;
    let mut stream = host.connect(Some(host.fleet.admin())).await.unwrap();
    let head = "GET /v1/host HTTP/1.1\r\nhost: web1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    assert_eq!(status(&said), 101, "{}", String::from_utf8_lossy(&said));
    enroll::install_revoked(host.dir.path(), &host.fleet.revoked(2, &[77], 30), clock::now()).unwrap();
    host.trust.reload(clock::now()).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

/// Half-open handshakes, more than there are places: from elsewhere, and from the caller's own address.
#[tokio::test]
async fn a_flood_of_half_open_handshakes_keeps_nobody_out() {
    let host = Host::start().await;
    for from in ["127.0.0.66:0", "127.0.0.1:0"] {
        let mut flood = Vec::new();
        for number in 0..PENDING_MAX + 40 {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from.parse().unwrap()).unwrap();
            let mut stream = socket.connect(host.at).await.unwrap();
            if number % 2 == 0 {
                // The beginning of a record that never ends. It may be displaced already.
                let _ = stream.write_all(b"\x16\x03\x01\x02").await;
            }
            flood.push(stream);
        }
        assert_eq!(status(&host.ask(Some(host.fleet.admin()), "GET /v1/host").await), 204, "{from}");
        drop(flood);
    }
}

#[tokio::test]
async fn one_certificate_has_so_many_connections_and_others_theirs() {
    let host = Host::start().await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = host.connect(Some(host.fleet.admin())).await.unwrap();
        assert_eq!(again(&mut stream).await.unwrap(), 204);
        held.push(stream);
    }
    let said = host.ask(Some(host.fleet.admin()), "GET /v1/host").await;
    assert_eq!(status(&said), 429, "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("\"rate_limited\""));
    let other = host.fleet.caller(&Caller { serial: 78, ..Caller::with("ci", &[Role::Viewer]) });
    assert_eq!(status(&host.ask(Some(other), "GET /v1/host").await), 204);
}

#[tokio::test]
async fn a_head_without_measure_is_refused() {
    let host = Host::start().await;
    let long = format!("GET /v1/host HTTP/1.1\r\nx: {}", "y".repeat(80 << 10));
    let many = format!("GET /v1/host HTTP/1.1\r\n{}x: y", "x: y\r\n".repeat(70));
    for head in [long, many] {
        let mut stream = host.connect(Some(host.fleet.admin())).await.unwrap();
        let mut said = Vec::new();
        let _ = stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await;
        let _ = stream.read_to_end(&mut said).await;
        assert!([0, 431].contains(&status(&said)), "{}", String::from_utf8_lossy(&said));
    }
}

/// A host without a certificate lets nobody in, and does as soon as it has one.
#[tokio::test]
async fn a_host_opens_when_it_is_enrolled() {
    let (dir, fleet) = (tempfile::tempdir().unwrap(), Fleet::new());
    let trust = Trust::open(dir.path(), clock::now());
    assert!(trust.current().is_none() && trust.findings(clock::now()).is_empty());
    fleet.enroll(dir.path(), "web1");
    assert_eq!(trust.reload(clock::now()).unwrap(), Reloaded::New);
    assert_eq!(trust.host().unwrap().as_str(), "web1");
}
