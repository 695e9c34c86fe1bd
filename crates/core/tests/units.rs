//! The unit files of a web and worker app, as systemd reads them.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panic")]
#![expect(clippy::disallowed_methods, reason = "systemd-analyze is asked about files in a folder of its own")]

use std::process::Command;

use deployd_api::ids::{Digest, Timestamp};
use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
use deployd_api::spec::parse;
use deployd_core::state::Release;
use deployd_core::units::{Activation, slice_file};

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
[listen.sock]
address = "/run/shop/s.sock"
process = "web"
"#;

fn release() -> Release {
    let spec = parse(SPEC).unwrap_or_else(|e| panic!("{e}"));
    Release {
        label: "v1".parse().unwrap(),
        digest: Digest::of(b"x"),
        document: ReleaseDocument::new(Digest::of(b"a"), spec),
        tree: "/var/lib/deployd/apps/shop/releases/v1-0".to_owned(),
        runtime: "/bin".to_owned(),
        beam: false,
        state: ReleaseState::Candidate,
        created: Timestamp(0),
        origin: Origin::default(),
        changed: vec![],
        failure: None,
        size: 0,
        runs: 1,
        base_port: 0,
    }
}

#[test]
fn systemd_finds_nothing_wrong() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-analyze here");
        return;
    }
    let dir = std::env::temp_dir().join(format!("deployd-units-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let release = release();
    let of = Activation { tag: "v1".parse().unwrap(), release: &release };
    let mut files = of.files("h1", None, &|_| true);
    files.push(slice_file(&"shop".parse().unwrap()));
    let mut asked = Vec::new();
    for file in &files {
        let name = file.path.rsplit('/').next().unwrap().replace("@.", "@1.");
        let path = dir.join(&name);
        // The trampoline is not here: what counts is the syntax.
        let text = file.content.replace("/bin/deployd-exec", "/bin/true");
        std::fs::write(&path, text).unwrap();
        asked.push(path);
    }
    let out = Command::new("systemd-analyze").arg("verify").args(&asked).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    std::fs::remove_dir_all(&dir).unwrap();
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("deployd-")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
