//! What shows and does not deploy: status, releases, plan, doctor, logs; and wrong command lines.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::agent::{Agent, Answer};
use super::{assert_lines, command, project, run};

/// 2001-09-09 01:46:40 UTC: long ago, so that it is printed as a day.
const LONG_AGO: u64 = 1_000_000_000_000;

fn ago(ms: u64) -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() - ms
}

fn status() -> Value {
    // Half a minute more than what is printed: no second of the test can change it.
    let since = ago((2 * 3600 + 4 * 60 + 30) * 1000);
    let instance = |number: u32, state: &str, restarts: u32| {
        json!({
            "number": number, "active_state": state, "sub_state": "running", "pid": 7, "since": since,
            "restarts": restarts, "memory": 611_u64 << 20, "cpu_us": 744_000_000,
        })
    };
    json!({
        "app": "shop", "host": "web1", "live": "v43", "live_since": LONG_AGO,
        "origin": {"by": "ops-1", "git": "8c1f2ab"}, "committed": LONG_AGO, "stopped": false,
        "deployment": null, "last_failure": null,
        "processes": [
            {"label": "v42", "process": "web", "role": "draining", "wanted": 1, "connections": 3,
             "instances": [instance(1, "active", 0)], "checks": [], "memory_limit": null},
            {"label": "v43", "process": "web", "role": "live", "wanted": 2, "connections": 1412,
             "instances": [instance(1, "active", 0), instance(2, "active", 4)],
             "checks": [["health", "ok"]], "memory_limit": 1_u64 << 30},
        ],
    })
}

#[tokio::test]
async fn status_of_an_app() {
    let agent = Agent::start();
    agent.ok("GET /apps/shop", status());
    let shown = run(&agent, &["--local", "status"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v43 live on web1 since 9 Sep 2001 (ops-1, git 8c1f2ab), committed 9 Sep 2001. Free to push.",
            "",
            "HOST  RELEASE  PROCESS  UP        CHECKS  CONNS   CPU  MEM/INST        RESTARTS",
            "web1  v43      web 2/2  2h04m     ok      1,412  20 %  611 M of 1.0 G  4",
            "      ! instance 2 restarted 4 times",
            "      v42      web 1/1  draining  -           3  10 %  611 M           0",
        ],
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let json = run(&agent, &["--local", "status", "-o", "json", "-a", "shop"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["live"], "v43");
}

#[tokio::test]
async fn status_without_an_app() {
    let agent = Agent::start();
    agent.ok("GET /apps", json!([status()]));
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), &agent.socket, &["--local", "status"]).output().await.unwrap();
    assert_lines(
        &String::from_utf8(output.stdout).unwrap(),
        &[
            "APP   RELEASE  STATE  SINCE       BY     GIT      INSTANCES  DEPLOYMENT",
            "shop  v43      live   9 Sep 2001  ops-1  8c1f2ab  2/2        -",
        ],
    );
}

#[tokio::test]
async fn releases() {
    let agent = Agent::start();
    let row = |label: &str, state: &str, changed: Value, reason: Value| {
        json!({
            "label": label, "digest": "0".repeat(64), "state": state, "created": LONG_AGO, "by": "ops-1",
            "git": "8c1f2ab", "changed": changed, "reason": reason, "size": 306_000_000,
        })
    };
    agent.ok(
        "GET /apps/shop/releases",
        json!([
            row("v42", "kept", json!(["code"]), Value::Null),
            row("v44", "rolled-back", json!(["code"]), json!("check deep failed")),
            row("v43", "live", json!(["code", "POOL_SIZE"]), Value::Null),
        ]),
    );
    let shown = run(&agent, &["--local", "releases"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "REL  STATE        WHEN        BY     GIT      CHANGED",
            "v44  rolled back  9 Sep 2001  ops-1  8c1f2ab  code; check deep failed",
            "v43  live         9 Sep 2001  ops-1  8c1f2ab  code, POOL_SIZE",
            "v42  kept         9 Sep 2001  ops-1  8c1f2ab  code",
            "1 kept for rollback, 918 MB on disk.   undo: deployd-ctl --local rollback [vN]",
        ],
    );
    agent.ok("POST /apps/shop/releases/v44/clear", json!({}));
    let cleared = run(&agent, &["--local", "releases", "clear", "v44"]).await;
    assert_lines(&cleared.stdout, &["shop v44 may be deployed again."]);
}

#[tokio::test]
async fn plan() {
    let agent = Agent::start();
    let refused = json!({
        "code": "disk_low", "message": "web1: 0.9 GB free, 2.0 GB needed", "causes": [],
        "hint": "journalctl --vacuum-size=2G",
    });
    agent.ok(
        "POST /apps/shop/plan",
        json!({
            "app": "shop", "from": "v43", "to": "v44", "strategy": "rolling", "files": 1214,
            "changed_files": ["~ lib/a.beam", "+ lib/b.beam"], "bytes_to_send": 61_000,
            "config": [
                {"key": "POOL_SIZE", "from": "10", "to": "20"}, {"key": "MAX_UPLOAD", "to": "20MB"},
            ],
            "steps": ["stage", "start 2", "check health deep", "switch", "watch 5m", "commit"],
            "fits": ["disk 31 GB free"], "refused": refused,
        }),
    );
    let shown = run(&agent, &["--local", "plan", "out"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v43 → v44 on web1, rolling. Nothing has been changed.",
            "",
            "code      2 of 1,214 files, 61 kB to send",
            "  ~ lib/a.beam",
            "  + lib/b.beam",
            "config    POOL_SIZE   10 → 20",
            "          MAX_UPLOAD  (new) 20MB",
            "steps     stage, start 2, check health deep, switch, watch 5m, commit",
            "fits      disk 31 GB free",
            "refused   web1: 0.9 GB free, 2.0 GB needed",
            "          journalctl --vacuum-size=2G",
        ],
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (3, "exit 3\n"));
}

#[tokio::test]
async fn doctor() {
    let agent = Agent::start();
    let finding = |severity: &str, code: &str, subject: &str, what: &str, next: &str| json!({"severity": severity, "code": code, "subject": subject, "what": what, "next": next});
    agent.ok(
        "GET /doctor",
        json!({
            "host": "web1", "agent": "0.1.0", "systemd": "252", "disk_free": 1_100_000_000_u64,
            "disk_total": 40_000_000_000_u64, "apps": 2, "passed": ["sockets", "units"],
            "findings": [
                finding("warn", "restarts", "shop", "web@2 restarted 4 times", "deployd-ctl --local logs"),
                finding("error", "disk_low", "/var", "1.1 GB free, the reserve is 2 GB", "journalctl --vacuum-size=2G"),
            ],
        }),
    );
    let shown = run(&agent, &["--local", "doctor"]).await;
    assert_lines(
        &shown.stdout,
        &[
            concat!("ctl ", env!("CARGO_PKG_VERSION")),
            "",
            "HOST  AGENT  SYSTEMD  DISK FREE        APPS  FINDINGS",
            "web1  0.1.0  252      1.1 GB of 40 GB     2  1 error, 1 warning",
            "",
            "error  disk_low  /var  1.1 GB free, the reserve is 2 GB",
            "                       journalctl --vacuum-size=2G",
            "warn   restarts  shop  web@2 restarted 4 times",
            "                       deployd-ctl --local logs",
            "",
            "2 checks passed (list: -v)",
        ],
    );
    assert_eq!(shown.code, 10);
}

#[tokio::test]
async fn logs() {
    let agent = Agent::start();
    let line = |level: u8, instance: &str, message: &str| json!({"at": LONG_AGO, "label": "v43", "instance": instance, "level": level, "message": message});
    agent.on(
        "GET /apps/shop/logs?follow=false&lines=100&level=4&instance=web%401&release=v43",
        Answer::Lines(vec![line(3, "web@1", "no \u{1b}[31mdb"), line(6, "", "started")]),
    );
    let arguments = ["--local", "logs", "--level", "warn", "--instance", "web@1", "--release", "v43"];
    let shown = run(&agent, &arguments).await;
    assert_lines(
        &shown.stdout,
        &["01:46:40.000 v43 web@1 [error] no \u{fffd}[31mdb", "01:46:40.000 v43 deployd started"],
    );
}

#[tokio::test]
async fn wrong_command_lines_say_what_is_right() {
    let agent = Agent::start();
    for (arguments, code, want) in [
        (vec!["status"], 2, "this version drives the host it runs on; fleets of hosts come next"),
        (vec!["--local", "deploy"], 2, "unknown command \"deploy\"; here it is: deployd-ctl --local push"),
        (
            vec!["apps", "destroy"],
            2,
            "unknown command \"apps destroy\"; here it is: deployd-ctl --local remove",
        ),
        (vec!["ssh", "console"], 2, "\"ssh console\" is not built yet in this version"),
        (vec!["statsu"], 2, "status"),
        (vec!["--local", "push", "nowhere"], 2, "error artifact_invalid: cannot read the artifact"),
        (vec!["--local", "push", "--strategy", "canary"], 2, "`canary` is not built yet in this version"),
        (vec!["--local", "push", "-a", "other"], 2, "-a says other, and deployd.toml is the spec of shop"),
        (vec!["--local", "remove"], 2, "add --yes"),
        (vec!["--local", "rollback"], 2, "no script for GET /apps/shop"),
    ] {
        let shown = run(&agent, &arguments).await;
        assert_eq!(shown.code, code, "{arguments:?}: {}", shown.stderr);
        assert!(shown.stderr.contains(want), "{arguments:?}: {}", shown.stderr);
        assert_eq!(shown.stdout, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_wrong_spec_is_shown_with_its_lines() {
    let agent = Agent::start();
    let dir = project();
    std::fs::write(dir.path().join("x.toml"), "app = \"shop\"\n[processes.web]\nexec = \"a\"\nmemroy = 1\n")
        .unwrap();
    let arguments = ["--local", "push", "-c", "x.toml", "out"];
    let output = command(dir.path(), &agent.socket, &arguments).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_lines(&stderr, &["x.toml:4: processes.web.memroy: unknown key, did you mean `memory`?", "exit 2"]);
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_at_once() {
    let dir = project();
    let socket = dir.path().join("none.sock");
    let output = command(dir.path(), &socket, &["--local", "status"]).output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error agent_unreachable: cannot connect to the agent at "), "{stderr}");
    assert_eq!(output.status.code(), Some(6));
}
