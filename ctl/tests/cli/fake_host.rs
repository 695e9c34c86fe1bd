//! Hosts that are folders: a double of `ssh` runs what it is told in a shell that has doubles of `deployd`, `dpkg` and
//! `systemctl`, and an agent that speaks TLS with whatever certificate was installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const SSH: &str = r#"#!/bin/sh
mode=run
case "$1" in -G) mode=config;; -O) mode=close;; esac
while [ "$1" != "--" ]; do shift; done
target="$2"; host="$FAKE/${target#root@}"
case $mode in
config) echo "user root"; echo "hostname $(cat "$host/address")"; exit 0;;
close) exit 0;;
esac
[ -e "$host/closed" ] && { cat "$host/closed" >&2; exit 255; }
case "$3" in *os-release*) echo probe >>"$host/log"; cat "$host/probe"; exit 0;; esac
HOST="$host" PATH="$FAKE/bin:$PATH" exec sh -c "$3"
"#;

const DEPLOYD: &str = r#"#!/bin/sh
echo "deployd $*" >>"$HOST/log"
case "$2" in
request) cat "$HOST/request.pem";;
install) cat >"$HOST/bundle.pem";;
esac
"#;

const DPKG: &str = r#"#!/bin/sh
for file; do :; done
[ -e "$HOST/broken" ] && { echo "dpkg: error: disk full" >&2; exit 1; }
echo "dpkg $(cat "$file")" >>"$HOST/log"
"#;

/// Never the real one.
const APT: &str = "#!/bin/sh\necho \"apt-get $*\" >>\"$HOST/log\"; echo 'E: no network' >&2; exit 100\n";

const SYSTEMCTL: &str = "#!/bin/sh\necho \"systemctl $*\" >>\"$HOST/log\"\n";

const PROBE: &str = "id=debian\nlike=\nname=Debian GNU/Linux 12 (bookworm)\npid1=systemd\nsystemd=252\n\
                     cgroup=cgroup2fs\nmachine=x86_64\narch=amd64\ndeployd=\nuid=0\nsudo=yes\n";

/// A folder of hosts, beside which an operator works.
pub(crate) struct Hosts {
    pub(crate) dir: tempfile::TempDir,
}

/// One of them.
pub(crate) struct Host {
    pub(crate) folder: PathBuf,
    /// What its agent was asked.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    agent: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

impl Hosts {
    /// With a package that came with ctl, and a fleet whose CA is in `home/`.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("fake/bin")).unwrap();
        fs::create_dir_all(dir.path().join("fake/ssh")).unwrap();
        for (name, text) in [
            ("ssh/ssh", SSH),
            ("bin/deployd", DEPLOYD),
            ("bin/dpkg", DPKG),
            ("bin/apt-get", APT),
            ("bin/systemctl", SYSTEMCTL),
        ] {
            let path = dir.path().join("fake").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(dir.path().join("deployd_0.1.0_amd64.deb"), "the package").unwrap();
        super::pki::init(dir.path()).await;
        Self { dir }
    }

    /// The binary, with these hosts behind its ssh.
    pub(crate) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let fake = self.dir.path().join("fake");
        let mut command = super::pki::operator(self.dir.path(), arguments);
        command
            .env("PATH", format!("{}:/usr/bin:/bin", fake.join("ssh").display()))
            .env("FAKE", fake)
            .env("DEPLOYD_DEB", self.dir.path().join("deployd_0.1.0_amd64.deb"));
        command
    }

    /// A bare host, with an agent that answers once it has a certificate.
    pub(crate) async fn bare(&self, name: &str) -> Host {
        let folder = self.dir.path().join("fake").join(name);
        fs::create_dir_all(&folder).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        fs::write(folder.join("probe"), format!("{PROBE}now={now}\n")).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        fs::write(folder.join("request.pem"), request).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        fs::write(folder.join("address"), listener.local_addr().unwrap().to_string()).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (record, place, ca) = (asked.clone(), folder.clone(), self.dir.path().join("home/ca.pem"));
        let agent = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, place.clone(), ca.clone(), record.clone()));
            }
        });
        Host { folder, asked, agent }
    }

    pub(crate) fn fleet(&self) -> Option<String> {
        fs::read_to_string(self.dir.path().join("fleet.toml")).ok()
    }
}

impl Host {
    pub(crate) fn address(&self) -> String {
        fs::read_to_string(self.folder.join("address")).unwrap()
    }

    /// What was done there, and forgets it.
    pub(crate) fn done(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let _ = fs::remove_file(self.folder.join("log"));
        text.lines().map(str::to_owned).collect()
    }

    /// Changes what the host says it is.
    pub(crate) fn say(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.folder.join("probe")).unwrap();
        assert!(text.contains(from));
        fs::write(self.folder.join("probe"), text.replace(from, to)).unwrap();
    }
}

/// One connection: refused while no certificate is installed.
async fn serve(stream: TcpStream, folder: PathBuf, ca: PathBuf, asked: Arc<Mutex<Vec<String>>>) {
    let Some(config) = config(&folder, &ca) else { return };
    let Ok(stream) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else { return };
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let service = service_fn(move |request: Request<Incoming>| {
        let (name, asked) = (name.clone(), asked.clone());
        async move {
            let route = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            asked
                .lock()
                .unwrap()
                .push(format!("{route} {}", String::from_utf8_lossy(&body[..body.len().min(20)])));
            Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(info(&name).to_string())))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn config(folder: &Path, ca: &Path) -> Option<rustls::ServerConfig> {
    let bundle = fs::read(folder.join("bundle.pem")).ok()?;
    let certificate = CertificateDer::from_pem_slice(&bundle).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    Some(config.with_client_cert_verifier(clients).with_single_cert(vec![certificate], key).unwrap())
}

fn info(name: &str) -> serde_json::Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    let days = |n: u64| now + n * 24 * 3600 * 1000 + 3_600_000;
    json!({
        "host": name, "agent": "0.1.0", "systemd": "252", "os": "Debian GNU/Linux 12 (bookworm)",
        "arch": "x86_64", "glibc": "2.36", "cpus": 2, "memory_total": 1, "memory_available": 1,
        "disk_free": 1, "disk_total": 1, "now": now, "caller": "ops-1", "roles": ["admin"],
        "certificate": {"serial": "01", "not_before": 0, "not_after": days(88)},
    })
}
