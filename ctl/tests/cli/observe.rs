//! What shows and does not deploy: status, releases, plan, doctor, logs; and wrong command lines.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::agent::{Agent, Answer};
use super::captured;
use super::{assert_lines, command, project, run};

/// 2001-09-09 01:46:40 UTC: long ago, so that it is printed as a day.
const LONG_AGO: u64 = 1_000_000_000_000;

fn ago(ms: u64) -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap() - ms
}

/// The status as if it had been asked for so long after the last moment in it.
fn status(name: &str, last_ms: u64, after_ms: u64) -> Value {
    let by = i64::try_from(ago(after_ms)).unwrap() - i64::try_from(last_ms).unwrap();
    let mut value = captured::moved(&captured::value(name), by);
    (value["live_since"], value["committed"]) = (LONG_AGO.into(), LONG_AGO.into());
    value
}

/// When the second instance of v2 became active.
const V2_UP: u64 = 1_795_259_255_365;
/// When the instance of v1 that still drains was told to end.
const V1_TOLD: u64 = 1_795_260_084_652;

#[tokio::test]
async fn status_with_a_warm_release() {
    let agent = Agent::start();
    // Half a minute more than what is printed: no second of the test can change it.
    let mut answer = status("status_warm", V2_UP, (2 * 3600 + 4 * 60 + 30) * 1000);
    answer["deployment"] = Value::Null;
    agent.ok("GET /apps/shop", answer);
    let shown = run(&agent, &["--local", "status"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v2 live on web1 since 9 Sep 2001 (root), committed 9 Sep 2001. Free to push.",
            "",
            "HOST  RELEASE  PROCESS  UP     CHECKS  CONNS  CPU  MEM/INST  RESTARTS",
            "web1  v2       web 2/2  2h04m  ok          0  0 %  -         0",
            "      v1       web 2/2  warm   ok         12  0 %  -         0",
        ],
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let json = run(&agent, &["--local", "status", "-o", "json", "-a", "shop"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["live"], "v2");
}

#[tokio::test]
async fn status_with_trouble() {
    let agent = Agent::start();
    let mut answer = status("status_draining", V1_TOLD, (2 * 60 + 10) * 60 * 1000 + 30_000);
    let live = &mut answer["processes"][0];
    live["checks"][0][1] = "GET /health/deep: 503 in 41 ms, wanted status 200-299, got 503".into();
    live["instances"][1]["restarts"] = 4.into();
    live["instances"][0]["cpu_percent"] = 17.6.into();
    live["instances"][0]["memory"] = (611_u64 << 20).into();
    live["memory_limit"] = (1_u64 << 30).into();
    answer["processes"][1]["cut_at"] = Value::Null;
    agent.ok("GET /apps/shop", answer);
    let shown = run(&agent, &["--local", "status", "-a", "shop"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v2 live on web1 since 9 Sep 2001 (root), committed 9 Sep 2001. Free to push.",
            "",
            "HOST  RELEASE  PROCESS  UP              CHECKS       CONNS   CPU  MEM/INST        RESTARTS",
            "web1  v2       web 2/2  2h10m           deep failed      0  18 %  611 M of 1.0 G  4",
            "      ! deep: GET /health/deep: 503 in 41 ms, wanted status 200-299, got 503",
            "      ! web@2 restarted 4 times",
            "      v1       web 1/2  draining 2h10m  -                3   0 %  -               drain unlimited",
        ],
    );
}

#[tokio::test]
async fn status_without_an_app() {
    let agent = Agent::start();
    agent.ok("GET /apps", json!([status("status_draining", V1_TOLD, 0)]));
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), &agent.socket, &["--local", "status"]).output().await.unwrap();
    let want = [
        "APP   RELEASE  STATE  SINCE       BY    GIT  INSTANCES  CHECKS  DEPLOYMENT",
        "shop  v2       live   9 Sep 2001  root  -    2/2        ok      -",
    ];
    assert_lines(&String::from_utf8(output.stdout).unwrap(), &want);
    // In the folder of an app it takes a word.
    let all = run(&agent, &["--local", "status", "--all"]).await;
    assert_lines(&all.stdout, &want);
}

#[tokio::test]
async fn releases() {
    let agent = Agent::start();
    let mut rows = captured::value("releases");
    rows.as_array_mut().unwrap().iter_mut().for_each(|row| row["created"] = LONG_AGO.into());
    agent.ok("GET /apps/shop/releases", rows.clone());
    let shown = run(&agent, &["--local", "releases"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "REL  STATE        WHEN        BY    GIT  CHANGED",
            "v3   rolled back  9 Sep 2001  root  -    FAIL_HEALTH; check deep failed",
            "v2   live         9 Sep 2001  root  -    code, POOL_SIZE, deploy.monitor",
            "v1   kept         9 Sep 2001  root  -    first release",
            "1 kept for rollback, 1.9 MB on disk, 4 kB of it not shared.",
            "undo: deployd-ctl --local rollback -a shop [v1]",
        ],
    );
    agent.ok("POST /apps/shop/releases/v3/clear", rows.clone());
    let cleared = run(&agent, &["--local", "releases", "clear", "v3"]).await;
    assert_lines(&cleared.stdout, &["shop v3 may be deployed again."]);
    let json = run(&agent, &["--local", "-q", "-o", "json", "releases", "clear", "v3"]).await;
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap(), rows);
}

#[tokio::test]
async fn plan() {
    let agent = Agent::start();
    agent.ok("POST /apps/shop/plan", captured::value("plan"));
    let shown = run(&agent, &["--local", "plan", "out"]).await;
    let want = [
        "shop v1 → v2 on web1, rolling. Nothing has been changed.",
        "",
        "code      1 of 2 files, 6 B to send",
        "  + new",
        "config    POOL_SIZE       10 → 20",
        "          deploy.monitor  30s → 20s",
        "steps     stage, start 2, check deep health, switch, watch 1s, live, watch 20s, commit, drain 30s",
        "fits      x86_64, disk 4 GB free, memory 21.9 GB free",
        "token     TOKEN, valid while the hosts stay as they are:",
        "          deployd-ctl --local push --plan TOKEN",
    ];
    assert_lines(&shown.stdout, &want);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let verbose = run(&agent, &["--local", "-v", "plan", "out"]).await;
    let steps: Vec<&str> = verbose.stdout.lines().skip(6).take(3).collect();
    let tree = "/var/lib/deployd/apps/shop/releases/v2-bc9d3874";
    assert_eq!(
        steps,
        [
            "steps     make the user dpl-shop (50001)",
            &format!("          stage the files in {tree}"),
            "          write 3 units"
        ]
    );
}

#[tokio::test]
async fn plan_of_a_first_release() {
    let agent = Agent::start();
    agent.ok("POST /apps/shop/plan", captured::value("plan_first"));
    let shown = run(&agent, &["--local", "plan", "out"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v1 on web1, rolling. Nothing has been changed.",
            "",
            "code      1 file, 1.9 MB to send",
            "  + bin/app",
            "config    POOL_SIZE  (new) 10",
            "steps     stage, start 2, check deep health, switch, watch 1s, live, watch 30s, commit",
            "fits      x86_64, disk 4 GB free, memory 21.8 GB free",
            "token     TOKEN, valid while the hosts stay as they are:",
            "          deployd-ctl --local push --plan TOKEN",
        ],
    );
}

#[tokio::test]
async fn plan_of_what_would_be_refused() {
    let agent = Agent::start();
    agent.ok("POST /apps/shop/plan", captured::value("plan_refused"));
    let shown = run(&agent, &["--local", "plan", "out"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "shop v1 → v2 on web1, rolling. Nothing has been changed.",
            "",
            "code      1 of 2 files, 6 B to send",
            "  + new",
            "config    POOL_SIZE             10 → 20",
            "          deploy.monitor        30s → 20s",
            "          processes.web.memory  (new) 900gb",
            "steps     stage, start 2, check deep health, switch, watch 1s, live, watch 20s, commit, drain 30s",
            "fits      x86_64, disk 4 GB free, memory 21.9 GB free",
            "refused   21.9 GB of memory free, the overlap needs 1800.0 GB",
            "          free memory, lower memory in [processes.*], or let clients wait for a moment: --strategy",
            "          immediate",
            "token     none, since web1 refuses",
        ],
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (3, "exit 3\n"));
}

#[tokio::test]
async fn doctor() {
    let agent = Agent::start();
    agent.ok("GET /doctor", captured::value("doctor"));
    let shown = run(&agent, &["--local", "doctor"]).await;
    let head = [
        concat!("ctl ", env!("CARGO_PKG_VERSION")),
        "",
        "HOST  AGENT  SYSTEMD           DISK FREE         APPS  FINDINGS",
    ];
    let row = "web1  0.1.0  252.39-1~deb12u2  4.2 GB of 4.3 GB     1  -";
    assert_lines(
        &shown.stdout,
        &[
            &head[..],
            &[row, "", "8 checks passed: disk, units, boot, groups, store, states, leftovers, journal"],
        ]
        .concat(),
    );
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn doctor_with_findings() {
    let agent = Agent::start();
    let finding = |severity: &str, code: &str, subject: &str, what: &str, next: &str| json!({"severity": severity, "code": code, "subject": subject, "what": what, "next": next});
    let mut report = captured::value("doctor");
    report["passed"] = json!(["units", "boot"]);
    report["findings"] = json!([
        finding("warn", "tree_left", "shop", "the tree v7-00000000 belongs to no release", "rm -r /x"),
        finding(
            "error",
            "group_members",
            "http",
            "port 8080 has 1 listening sockets, 2 are known",
            "deployd-ctl stop -a shop, then deployd-ctl start -a shop, opens them anew",
        ),
    ]);
    agent.ok("GET /doctor", report);
    let shown = run(&agent, &["--local", "doctor"]).await;
    assert_lines(
        &shown.stdout.lines().skip(3).collect::<Vec<_>>().join("\n"),
        &[
            "web1  0.1.0  252.39-1~deb12u2  4.2 GB of 4.3 GB     1  1 error, 1 warning",
            "",
            "error  group_members  http  port 8080 has 1 listening sockets, 2 are known",
            "                            deployd-ctl --local stop -a shop, then deployd-ctl --local start -a",
            "                            shop, opens them anew",
            "warn   tree_left      shop  the tree v7-00000000 belongs to no release",
            "                            rm -r /x",
            "",
            "2 checks passed: units, boot",
        ],
    );
    assert_eq!(shown.code, 10);
}

#[tokio::test]
async fn logs() {
    let agent = Agent::start();
    let line = |level: u8, instance: &str, message: &str| json!({"at": LONG_AGO, "label": "v43", "instance": instance, "level": level, "message": message});
    agent.on(
        "GET /apps/shop/logs?follow=false&level=4&instance=web%401&release=v43",
        Answer::Lines(vec![line(3, "web@1", "no \u{1b}[31mdb"), line(6, "", "started")]),
    );
    let arguments = ["--local", "logs", "--level", "warn", "--instance", "web@1", "--release", "v43"];
    let shown = run(&agent, &arguments).await;
    assert_lines(
        &shown.stdout,
        &["01:46:40.000 v43 web@1 [error] no \u{fffd}[31mdb", "01:46:40.000 v43 deployd started"],
    );
    agent.on("GET /apps/shop/logs?follow=false&lines=2", Answer::Lines(captured::lines("logs")));
    let shown = run(&agent, &["--local", "logs", "-n", "2"]).await;
    assert_lines(
        &shown.stdout,
        &[
            "11:08:03.013 v3 web@1 deployd-shop-web-v3@1.service: Deactivated successfully.",
            "11:08:03.014 v3 web@1 Stopped deployd-shop-web-v3@1.service - shop web 1 v3.",
        ],
    );
    // One object a line.
    let json = run(&agent, &["--local", "logs", "-n", "2", "-o", "json"]).await;
    let lines: Vec<Value> = json.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, captured::lines("logs"));
}

/// A host is named as a fleet names it, also where there is one.
#[tokio::test]
async fn logs_of_an_instance_of_a_host() {
    let agent = Agent::start();
    agent.on("GET /apps/shop/logs?follow=false&instance=web%401", Answer::Lines(captured::lines("logs")));
    let shown = run(&agent, &["--local", "logs", "--instance", "web1/web@1"]).await;
    assert_eq!((shown.code, shown.stdout.lines().count()), (0, 2), "{}", shown.stderr);
}

/// What a newer agent tells of its host: who asks, the clocks, a certificate that ends, a lease.
#[tokio::test]
async fn a_host_that_tells_what_it_is() {
    let agent = Agent::start();
    let day = 24 * 3600 * 1000;
    let info = json!({
        "host": "web1", "agent": "0.1.0", "systemd": "252", "os": "Debian", "arch": "x86_64", "glibc": null,
        "cpus": 2, "memory_total": 1, "memory_available": 1, "disk_free": 1, "disk_total": 1, "now": ago(3_600_000),
        "certificate": {"serial": "0a", "not_before": 0, "not_after": ago(0) + 6 * day + day / 2},
        "caller": "root", "roles": ["admin"],
    });
    agent.ok("GET /host", info);
    agent.ok("GET /doctor", captured::value("doctor"));
    let shown = run(&agent, &["--local", "doctor"]).await;
    let lines: Vec<&str> = shown.stdout.lines().collect();
    assert!(lines[0].ends_with("; you are root (admin)"), "{}", shown.stdout);
    let header = "HOST  AGENT  SYSTEMD            REACHED    CLOCK  DISK FREE         CERT  APPS  FINDINGS";
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        header.split_whitespace().collect::<Vec<_>>()
    );
    assert!(shown.stdout.contains("clock_skew") && shown.stdout.contains("behind yours"), "{}", shown.stdout);
    assert!(shown.stdout.contains("deployd-ctl pki renew web1"), "{}", shown.stdout);
    assert_eq!(shown.code, 10);
    let report = run(&agent, &["--local", "doctor", "-o", "json"]).await;
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let codes: Vec<&str> =
        report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["clock_skew", "certificate_ends"]);

    agent.ok("GET /apps/shop", status("status_warm", V2_UP, 3_600_000));
    agent.ok(
        "GET /apps/shop/lease",
        json!({"id": "5386c07198757a5bbfeee6fa2cdb4815", "epoch": 1, "holder": "ops-1", "reason": "push v3",
               "since": LONG_AGO, "renewed_ms_ago": 10, "expires_in_ms": 14_000}),
    );
    let shown = run(&agent, &["--local", "status"]).await;
    let text = shown.stdout.replace('\n', " ");
    assert!(text.contains("Being deployed by ops-1 (push v3) since 01:46:40."), "{}", shown.stdout);
    assert!(shown.stdout.contains("certificates: that of web1 ends in 6 days: deployd-ctl --local doctor"));
}

/// What a shell offers behind a verb, asked of the shell itself.
#[tokio::test]
async fn completions_know_the_verbs_of_verbs() {
    let agent = Agent::start();
    let script = run(&agent, &["completions", "bash"]).await.stdout;
    let offered = |words: &str, at: usize| {
        let ask = format!(
            "COMP_WORDS=({words}); COMP_CWORD={at}; _deployd_ctl deployd-ctl \"${{COMP_WORDS[{at}]}}\" \
             \"${{COMP_WORDS[$(({at}-1))]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let output = std::process::Command::new("bash").arg("-c").arg(format!("{script}\n{ask}")).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(script.contains("-o default deployd-ctl\n"), "{script}");
    assert!(offered("deployd-ctl re", 1).split_whitespace().eq(["releases", "restart", "remove"]));
    assert_eq!(offered("deployd-ctl releases cl", 2).trim(), "clear");
    assert!(offered("deployd-ctl releases clear --o", 3).contains("--output"));
    for (shell, want) in
        [("zsh", "_deployd-ctl__subcmd__releases"), ("fish", "_using_subcommand releases; and")]
    {
        let script = run(&agent, &["completions", shell]).await.stdout;
        assert!(script.contains(want), "{shell}: {script}");
    }
}

#[tokio::test]
async fn logs_since_have_no_limit_of_ours() {
    let agent = Agent::start();
    run(&agent, &["--local", "logs", "--since", "10m"]).await;
    let asked = agent.asked();
    assert!(asked[0].contains("&since_ms=") && !asked[0].contains("lines"), "{asked:?}");
}

#[tokio::test]
async fn help_needs_no_agent() {
    let agent = Agent::start();
    for (arguments, code, want) in [
        (vec!["help"], 0, "Usage: deployd-ctl"),
        (vec!["help", "push"], 0, "Usage: deployd-ctl push"),
        (vec!["help", "all"], 0, "doctor: Look for what is wrong with the host"),
        (vec!["help", "--all"], 0, "Observe:"),
        (vec!["help", "releases", "clear"], 0, "Example: deployd-ctl releases clear v44"),
        (vec!["help", "spec"], 0, "drain_timeout"),
        (vec!["completions", "bash"], 0, "complete -F"),
        (vec!["help", "nothing"], 2, ""),
    ] {
        let shown = run(&agent, &arguments).await;
        assert_eq!(shown.code, code, "{arguments:?}: {}", shown.stderr);
        assert!(shown.stdout.contains(want), "{arguments:?}: {}", shown.stdout);
    }
    assert_eq!(agent.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn wrong_command_lines_say_what_is_right() {
    let agent = Agent::start();
    for (arguments, code, want) in [
        (vec!["status"], 2, "there is no fleet.toml here"),
        (vec!["--local", "deploy"], 2, "unknown command \"deploy\"; here it is: deployd-ctl --local push"),
        (vec!["apps", "destroy"], 2, "unknown command \"apps destroy\"; here it is: deployd-ctl remove"),
        (vec!["scale", "count", "3"], 2, "is not built yet in this version"),
        (vec!["production", "deploy"], 2, "here it is: deployd-ctl push -c production.toml"),
        (vec!["releases", "rollback"], 2, "here it is: deployd-ctl rollback"),
        (vec!["--local", "logs", "--instance", "web9/web@1"], 2, "there is no host web9 to read logs from"),
        (vec!["ssh", "console"], 2, "unknown command \"ssh console\"; here it is: deployd-ctl exec"),
        (vec!["statsu"], 2, "status"),
        (vec!["--local", "push", "nowhere"], 2, "error artifact_invalid: there is no nowhere"),
        (vec!["--local", "push", "--strategy", "canary"], 2, "`canary` is not built yet in this version"),
        (vec!["--local", "push", "-a", "other"], 2, "-a says other, and deployd.toml is the spec of shop"),
        (vec!["--local", "remove"], 2, "add --yes"),
        (vec!["--local", "status", "-c", "none.toml"], 2, "cannot read the spec none.toml"),
        (vec!["--local", "logs", "-a", "shop", "-c", "none.toml"], 2, "cannot read the spec none.toml"),
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
    assert_lines(
        &stderr,
        &[
            "error spec_invalid: the spec has an error",
            "  where   x.toml:4: processes.web.memroy: unknown key, did you mean `memory`?",
            "  next    mend what is named, then run it again; all keys: deployd-ctl help spec",
            "exit 2",
        ],
    );
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
