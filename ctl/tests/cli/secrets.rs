//! `secrets`: which hosts get a value, and the way from a value to the recovery key and back.

use std::fs;
use std::path::Path;

use age::secrecy::SecretString;
use serde_json::{Value, json};

use super::agent::{Agent, Answer};
use super::captured;
use super::pki::{init, operator, ran};

const LIST: &str = "GET /apps/shop/secrets";
const SET: &str = "POST /apps/shop/secrets";
const STATUS: &str = "GET /apps/shop";

/// Hosts `web1`, `web2`, … that know nothing of the app, and accept secrets.
struct Site {
    dir: tempfile::TempDir,
    agents: Vec<Agent>,
}

impl Site {
    async fn new(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path()).await;
        let agents: Vec<Agent> = (0..count).map(|_| Agent::start()).collect();
        let unknown = json!({"code": "app_not_found", "message": "there is no app shop", "hint": "push it"});
        for agent in &agents {
            agent.on(STATUS, Answer::Json(404, unknown.clone())).ok(LIST, json!([])).ok(SET, json!([]));
        }
        Self { dir, agents }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let named = |(i, agent): (usize, &Agent)| format!("web{}={}", i + 1, agent.socket.display());
        let sockets: Vec<String> = self.agents.iter().enumerate().map(named).collect();
        let mut command = operator(self.dir.path(), arguments);
        command.env("DEPLOYD_SOCKETS", sockets.join(","));
        command
    }

    /// How many values each host got.
    fn got(&self) -> Vec<usize> {
        self.agents.iter().map(|agent| agent.bodies(SET).len()).collect()
    }
}

fn row(name: &str, recovery: Option<&str>) -> Value {
    json!({"name": name, "version": 2, "set": 0, "by": "maria", "live": true, "recovery": recovery})
}

#[tokio::test]
async fn away_from_the_spec_only_hosts_that_know_the_app_get_a_value() {
    let site = Site::new(3).await;
    let set = ["secrets", "set", "A=x", "-a", "shop"];
    let refused = ran(site.command(&set)).await;
    assert_eq!((refused.code, site.got()), (2, vec![0, 0, 0]), "{}", refused.stderr);
    assert!(refused.stderr.contains("run it in the folder of deployd.toml, or say -H"), "{}", refused.stderr);
    // One has it, one has only its secrets.
    site.agents[0].again(STATUS, Answer::Json(200, captured::value("status_warm")));
    site.agents[2].again(LIST, Answer::Json(200, json!([row("B", None)])));
    let run = ran(site.command(&set)).await;
    assert_eq!((run.code, site.got()), (0, vec![1, 0, 1]), "{}", run.stderr);
    assert!(run.stdout.starts_with("A set on 2 of 2 hosts"), "{}", run.stdout);
}

/// A job has nothing but the line: what it sets can be recovered all the same.
#[tokio::test]
async fn what_a_job_sets_is_opened_by_the_recovery_key() {
    let site = Site::new(1).await;
    let home = site.dir.path().join("home");
    let issue = ["pki", "issue", "ci", "--role", "deployer/shop", "--print"];
    let line = ran(operator(site.dir.path(), &issue)).await.stdout;
    let mut set = site.command(&["secrets", "set", "DATABASE_URL=postgres://x", "-a", "shop"]);
    set.env("DEPLOYD_IDENTITY", line.trim()).env("DEPLOYD_HOME", site.dir.path().join("elsewhere"));
    let run = ran(set).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!run.stderr.contains("recovery"), "{}", run.stderr);
    let sent: Value = serde_json::from_slice(&site.agents[0].bodies(SET)[0]).unwrap();
    let sealed = sent["set"]["DATABASE_URL"]["recovery"].as_str().unwrap().to_owned();
    // From the host into a file, which holds no value.
    site.agents[0]
        .again(LIST, Answer::Json(200, json!([row("DATABASE_URL", Some(&sealed)), row("OLD", None)])));
    let export = ["secrets", "export", "-a", "shop", "--out", "shop.secrets.age"];
    let run = ran(site.command(&export)).await;
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.stderr.contains("! OLD is not in it"), "{}", run.stderr);
    assert_eq!(run.stdout, "1 secret of shop, encrypted, in shop.secrets.age\n");
    let file = site.dir.path().join("shop.secrets.age");
    let script = "sed -n '/^DATABASE_URL$/,/^-----END/p' \"$0\" | sed 1d";
    let taken = tokio::process::Command::new("sh").args(["-c", script]).arg(&file).output().await.unwrap();
    assert_eq!(opened(&home, &taken.stdout), b"postgres://x");
    // A list for programs stays one of names.
    let list = ran(site.command(&["secrets", "list", "-a", "shop", "-o", "json"])).await;
    assert!(list.stdout.contains("DATABASE_URL") && !list.stdout.contains("AGE"), "{}", list.stdout);
}

/// As `age --decrypt -i recovery.key.age`, with the passphrase.
fn opened(home: &Path, sealed: &[u8]) -> Vec<u8> {
    let passphrase = age::scrypt::Identity::new(SecretString::from("correct horse".to_owned()));
    let key = age::decrypt(&passphrase, &fs::read(home.join("recovery.key.age")).unwrap()).unwrap();
    let key: age::x25519::Identity = String::from_utf8(key).unwrap().lines().last().unwrap().parse().unwrap();
    age::decrypt(&key, sealed).unwrap()
}

#[tokio::test]
async fn who_has_no_recovery_key_is_told_whom_to_ask() {
    let site = Site::new(1).await;
    let mut set = site.command(&["secrets", "set", "A=x", "-a", "shop"]);
    set.env("DEPLOYD_HOME", site.dir.path().join("elsewhere"));
    let run = ran(set).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("ask who runs the fleet for recovery.pub"), "{}", run.stderr);
    let export = ran(site.command(&["secrets", "export", "-a", "shop"])).await;
    assert_eq!((export.code, export.stdout.as_str()), (2, ""), "{}", export.stderr);
}
