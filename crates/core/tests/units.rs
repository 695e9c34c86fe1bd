//! The unit files of a web and worker app, as systemd reads them.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panic")]
#![expect(clippy::disallowed_methods, reason = "systemd-analyze is asked about files in a folder of its own")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use deployd_api::ids::{Digest, Timestamp};
use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
use deployd_api::spec::parse;
use deployd_core::action::UnitFile;
use deployd_core::secrets::{Form, Sealed};
use deployd_core::state::Release;
use deployd_core::units::{Activation, epmd_file, slice_file};

const SPEC: &str = r#"
app = "shop"
hosts = "web"
[env]
GREETING = "100% \"sure\" $HOME"
[processes.web]
exec = "/bin/sleep 'a b' 50%"
instances = 2
memory = "64mb"
[processes.job]
exec = "/bin/sleep 1"
overlap = false
[listen.http]
address = ":8080"
process = "web"
[secrets]
files = ["TLS_KEY"]
[listen.sock]
address = "/run/shop/s.sock"
process = "web"
"#;

fn release() -> Release {
    let spec = parse(SPEC).unwrap_or_else(|e| panic!("{e}"));
    let secrets = BTreeMap::from([("TOKEN".parse().unwrap(), 3), ("TLS_KEY".parse().unwrap(), 1)]);
    Release {
        label: "v1".parse().unwrap(),
        digest: Digest::of(b"x"),
        secrets: Sealed::of("/var/lib/deployd/apps", &spec.app, &secrets, Form::Sealed),
        document: ReleaseDocument { secrets, ..ReleaseDocument::new(Digest::of(b"a"), spec) },
        tree: "/var/lib/deployd/apps/shop/releases/v1-0".to_owned(),
        runtime: "/bin".to_owned(),
        beam: true,
        epmd: None,
        state: ReleaseState::Candidate,
        created: Timestamp(0),
        origin: Origin::default(),
        changed: vec![],
        failure: None,
        size: 0,
        runs: 1,
        base_port: 0,
        earlier: vec![],
    }
}

/// How exposed a process may be, in tenths: 0 is best, 100 is worst.
const MAX_EXPOSURE: &str = "17";

/// The units in a folder of their own, as systemd would load them.
struct Written {
    dir: PathBuf,
    files: Vec<PathBuf>,
}

impl Written {
    /// None where there is no systemd-analyze.
    fn all(test: &str) -> Option<Self> {
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            println!("skipped: there is no systemd-analyze here");
            return None;
        }
        let dir = std::env::temp_dir().join(format!("deployd-units-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let release = release();
        let of = Activation { tag: "v1".parse().unwrap(), release: &release };
        let mut units = of.files("h1", None, &|_| true);
        let mut paths: Vec<&String> = units.iter().map(|f| &f.path).collect();
        let mut told = of.file_paths();
        paths.sort();
        told.sort();
        assert_eq!(told.iter().collect::<Vec<_>>(), paths);
        units.push(slice_file(&"shop".parse().unwrap()));
        units.push(epmd_file("/bin/true"));
        let write = |file: &UnitFile| {
            let path = dir.join(file.path.rsplit('/').next().unwrap().replace("@.", "@1."));
            // The trampoline is not here: what counts is the syntax.
            std::fs::write(&path, file.content.replace("/bin/deployd-exec", "/bin/true")).unwrap();
            path
        };
        let files = units.iter().map(write).collect();
        Some(Self { dir, files })
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

#[test]
fn systemd_finds_nothing_wrong() {
    let Some(units) = Written::all("verify") else { return };
    let out = Command::new("systemd-analyze").arg("verify").args(&units.files).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("deployd-")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

#[test]
fn every_service_is_sandboxed() {
    let Some(units) = Written::all("security") else { return };
    let services: Vec<&PathBuf> =
        units.files.iter().filter(|p| p.extension().is_some_and(|e| e == "service")).collect();
    assert_eq!(services.len(), 3, "{services:?}");
    for service in services {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["security", "--no-pager", "--offline=true", "--threshold", MAX_EXPOSURE]).arg(service);
        let out = analyze.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
}
