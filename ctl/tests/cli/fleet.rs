//! Several hosts: success, failure on one, one that is away, leases, Ctrl-C. The verbs of rollouts: `rollouts`.

mod rollouts;

use std::process::Stdio;

use deployd_api::fleet::Rollout;
use deployd_api::ids::Digest;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::agent::{Agent, Answer};
use super::captured;
use super::push::{DEPLOY, EVENTS, ID, LIVE, PLAN, UPLOAD, begun, last_picture, live, plan, until_switched};
use super::{Run, assert_lines, command, project};

const STATUS: &str = "GET /apps/shop";
const LEASE: &str = "POST /apps/shop/lease";
const RECORD: &str = "/apps/shop/rollout";
const HEAD: &str = "shop v2 -> web1 web2 web3 rolling, replaces v1";

/// Three hosts, `web1` to `web3`.
struct Fleet(Vec<Agent>);

impl Fleet {
    /// Hosts with v1 live that lack nothing and accept the push.
    fn start() -> Self {
        let fleet = Self((0..3).map(|_| Agent::start()).collect());
        for agent in &fleet.0 {
            let mut status = captured::value("status_warm");
            (status["live"], status["deployment"]) = ("v1".into(), Value::Null);
            let artifact = Digest::of(b"artifact");
            agent
                .ok(STATUS, status)
                .ok(PLAN, plan())
                .ok(UPLOAD, json!({"artifact": artifact, "missing": [], "files": 1, "changed": 0}))
                .on(DEPLOY, Answer::Json(202, begun("push")));
        }
        fleet
    }

    /// All go live.
    fn good() -> Self {
        let fleet = Self::start();
        for agent in &fleet.0 {
            agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
            agent.ok(&format!("GET /apps/shop/deployments/{ID}"), now(&json!({"live": true})));
        }
        fleet
    }

    /// The second one fails its check.
    fn second_fails() -> Self {
        let fleet = Self::start();
        for (index, agent) in fleet.0.iter().enumerate() {
            let events = if index == 1 { failing() } else { [until_switched(), live()].concat() };
            agent.on(&format!("{EVENTS}0"), Answer::Lines(events));
        }
        fleet
    }

    fn sockets(&self) -> String {
        let named = |(i, agent): (usize, &Agent)| format!("web{}={}", i + 1, agent.socket.display());
        self.0.iter().enumerate().map(named).collect::<Vec<_>>().join(",")
    }

    fn command(&self, dir: &std::path::Path, arguments: &[&str]) -> tokio::process::Command {
        let mut command = command(dir, &self.0[0].socket, arguments);
        command.env("DEPLOYD_SOCKETS", self.sockets());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Run {
        self.run_in(project().path(), arguments).await
    }

    async fn run_in(&self, dir: &std::path::Path, arguments: &[&str]) -> Run {
        let output = self.command(dir, arguments).output().await.unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What each host was asked, without leases and records.
    fn done(&self) -> Vec<Vec<String>> {
        self.0.iter().map(Agent::done).collect()
    }

    /// The states that a host wrote down.
    fn states(&self, index: usize) -> Vec<String> {
        let bodies = self.0[index].bodies(&format!("PUT {RECORD}"));
        bodies.iter().map(|b| serde_json::from_slice::<Rollout>(b).unwrap()).map(|r| word(&r)).collect()
    }

    /// Hosts whose lease was given back.
    fn released(&self) -> usize {
        let gave =
            |agent: &&Agent| agent.asked().iter().any(|r| r.starts_with("DELETE /apps/shop/lease?id="));
        self.0.iter().filter(gave).count()
    }
}

fn word(rollout: &Rollout) -> String {
    serde_json::to_value(rollout.state).unwrap().as_str().unwrap().to_owned()
}

/// The deployment as it is answered later.
fn now(extra: &Value) -> Value {
    let mut value = begun("push");
    value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    value
}

/// The events of a failed check, as if v2 had replaced v1 on web2.
fn failing() -> Vec<Value> {
    let text = serde_json::to_string(&captured::lines("failed_check")).unwrap();
    let text = text.replace("v2", "v1").replace("v3", "v2").replace("web1", "web2");
    serde_json::from_str(&text).unwrap()
}

fn steps(host: &str, last: &str) -> Vec<String> {
    [
        "opened http 18ms",
        "started web@1 0.1s",
        "started web@2 0.1s",
        "checks deep health ok 9ms",
        "switched http 0ms, v1 warm",
        "watched 1.0s, deep ok, health ok",
        last,
    ]
    .iter()
    .map(|step| format!("+TT:TT {host} {step}"))
    .collect()
}

const PUSH: [&str; 2] = ["push", "out"];

#[tokio::test]
async fn three_hosts_in_ci() {
    let fleet = Fleet::good();
    let run = fleet.run(&PUSH).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines[0], HEAD);
    // Host after host: the next begins when the one before is live.
    let of = |host: &str| {
        let live = format!("{host} live, v1 warm, 12 conns");
        let first = lines.iter().position(|l| l.contains(&format!("{host} staged"))).unwrap();
        (first, lines.iter().position(|l| l.ends_with(&live)).unwrap())
    };
    let (web1, web2, web3) = (of("web1"), of("web2"), of("web3"));
    assert!(web1.1 < web2.0 && web2.1 < web3.0, "{}", run.stderr);
    let masked: Vec<String> = lines[web1.0 + 2..=web1.1].iter().map(|l| super::mask(l)).collect();
    assert_eq!(masked, steps("web1", "live, v1 warm, 12 conns"));
    let last = [
        "shop v2 is live on 3 of 3 hosts, TIME. Watched until 11:07:56, then committed and v1 drained.",
        "undo: deployd-ctl rollback -a shop",
    ];
    assert_lines(&run.stdout, &last);
    assert_eq!(fleet.released(), 3);
    assert_eq!(fleet.states(2), ["sending", "running", "live"]);
    // Every change was made under the lease, and all hosts got the same label.
    for agent in &fleet.0 {
        assert!(agent.leases(DEPLOY)[0].as_ref().unwrap().ends_with(";7"));
        let push: Value = serde_json::from_slice(&agent.bodies(DEPLOY)[0]).unwrap();
        assert_eq!((&push["label"], &push["expect"]), (&json!("v2"), &Value::Null));
    }
}

#[tokio::test]
async fn three_hosts_on_a_terminal() {
    let fleet = Fleet::good();
    let run = fleet.run(&["--progress=live", "push", "out"]).await;
    let head: Vec<&str> = run.stderr.lines().take(4).collect();
    assert_eq!(
        head,
        [
            "shop v2 → web1 web2 web3     rolling, 1 host at a time     replaces v1",
            "changed   1 of 2 files, POOL_SIZE 10 → 20, deploy.monitor 30s → 20s",
            "fits      x86_64, disk 4 GB free, memory 21.9 GB free",
            "",
        ]
    );
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS       SWITCH  OLD v1          NOW",
            "web1  0 B     1 ms  0.2 s  deep health    0 ms  warm, 12 conns  v2",
            "web2  0 B     1 ms  0.2 s  deep health    0 ms  warm, 12 conns  v2",
            "web3  0 B     1 ms  0.2 s  deep health    0 ms  warm, 12 conns  v2",
        ]
    );
    assert!(run.stderr.contains("queued"), "{}", run.stderr);
}

/// How the fixture's host goes back: the push that is watched is undone.
fn goes_back(agent: &Agent) {
    let undone = json!({"seq": 60, "at": 0, "type": "finished", "verdict": "rolled-back"});
    agent.on("POST /apps/shop/rollback", Answer::Json(202, begun("push")));
    agent.on(&format!("GET /apps/shop/deployments/{ID}/events"), Answer::Lines(vec![undone]));
}

#[tokio::test]
async fn a_failure_takes_back_what_is_live() {
    let fleet = Fleet::second_fails();
    goes_back(&fleet.0[0]);
    let run = fleet.run(&["--progress=live", "push", "out"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{}", run.stderr);
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS       SWITCH  OLD v1             NOW",
            "web1  0 B     1 ms  0.2 s  deep health    0 ms  serves again       v1, taken back",
            "web2  0 B     1 ms  0.1 s  deep failed       -  served throughout  v1, rolled back",
            "web3  0 B        -      -  -                 -  untouched          v1",
        ]
    );
    let block = &run.stderr[run.stderr.find("error ").unwrap()..];
    assert_lines(
        block,
        &[
            "error check_failed: shop v2 did not pass check \"deep\" on web2. v1 serves on 3 of 3 hosts.",
            "  what    GET /health/deep on the candidate: 503 in 0 ms, wanted status 200-299, got 503; body:",
            "          failing, 15 tries in 2 s",
            "  where   web2, web@1 of v2; [checks.deep], deployd.toml:6",
            "  log     shop v2 starts",
            "          shop v2 starts",
            "  undone  candidate stopped, its listeners closed, its units removed, its files removed; it had no",
            "          public traffic",
            "          taken back on web1, where it was live",
            "  next    deployd-ctl logs -a shop --release v2 --instance web@1",
            "          v2 is marked bad: push a new build, or deployd-ctl releases clear v2 -a shop",
            "exit 4",
        ],
    );
    // What was shown is not shown again.
    assert!(fleet.0[0].asked().contains(&format!("{EVENTS}{LIVE}")), "{:?}", fleet.0[0].asked());
    // Where it goes back to was said, and the third host was left alone.
    let back: Value = serde_json::from_slice(&fleet.0[0].bodies("POST /apps/shop/rollback")[0]).unwrap();
    assert_eq!(back["to"], "v1");
    assert!(!fleet.done()[2].contains(&DEPLOY.to_owned()));
    assert_eq!((fleet.states(2), fleet.released()), (names(&["sending", "running", "failed"]), 3));
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[tokio::test]
async fn a_failure_with_hold_leaves_what_is_live() {
    let fleet = Fleet::second_fails();
    let dir = project();
    let spec = dir.path().join("deployd.toml");
    let text = std::fs::read_to_string(&spec).unwrap() + "[deploy]\non_failure = \"hold\"\n";
    std::fs::write(&spec, text).unwrap();
    let run = fleet.run_in(dir.path(), &PUSH).await;
    assert_eq!(run.code, 6, "{}", run.stderr);
    for line in [
        "on web2. v2 serves on web1,",
        "  kept    v2 stays on web1 (on_failure = \"hold\")",
        "take v2 back: deployd-ctl rollout abort -a shop",
    ] {
        assert!(run.stderr.contains(line), "no {line:?}: {}", run.stderr);
    }
    assert!(!fleet.done()[0].iter().any(|r| r.contains("rollback")));
}

#[tokio::test]
async fn a_host_that_is_away_is_told_or_left_out() {
    let fleet = Fleet::good();
    std::fs::remove_file(&fleet.0[1].socket).unwrap();
    let run = fleet.run(&PUSH).await;
    assert_eq!((run.code, run.stdout.as_str()), (6, ""), "{}", run.stderr);
    assert!(
        run.stderr.starts_with("error agent_unreachable: web2 does not answer; nothing was touched\n"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("push --skip-offline"), "{}", run.stderr);
    assert_eq!(fleet.done()[0], [STATUS]);

    let run = fleet.run(&["push", "out", "--skip-offline"]).await;
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(run.stdout.starts_with("shop v2 is live on 2 of 3 hosts, "), "{}", run.stdout);
    assert!(run.stderr.contains("web2 does not answer: left out; it catches up"), "{}", run.stderr);
}

#[tokio::test]
async fn a_held_lease_is_waited_for() {
    let fleet = Fleet::good();
    let held = json!({
        "code": "lease_held", "hint": "wait",
        "message": "shop is being deployed by ci (run 8812, v44) since 16:30:51, renewed 3 s ago",
    });
    let lease = json!({
        "id": "00000000000000000000000000000001", "epoch": 9, "holder": "ops-1", "reason": "push", "since": 0,
        "renewed_ms_ago": 0, "expires_in_ms": 15000,
    });
    let second = &fleet.0[1];
    second.on(LEASE, Answer::Json(409, held.clone())).ok(LEASE, lease);
    let run = fleet.run(&PUSH).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = "error lease_held: shop is being deployed by ci (run 8812, v44) since 16:30:51, renewed 3 s ago. \
                Waiting up to 15m; Ctrl-C to stop.\n";
    assert_eq!(run.stderr.matches(line).count(), 1, "{}", run.stderr);
    // While it waited for web2, it did not sit on what comes after.
    let third: Vec<String> =
        fleet.0[2].asked().into_iter().map(|r| r.split('?').next().unwrap().to_owned()).collect();
    let leases: Vec<&String> = third.iter().filter(|r| r.ends_with("/lease")).collect();
    assert_eq!(leases, [LEASE, "DELETE /apps/shop/lease", LEASE, "DELETE /apps/shop/lease"]);
    assert!(second.leases(DEPLOY)[0].as_ref().unwrap().ends_with(";9"));

    let fleet = Fleet::good();
    fleet.0[0].on(LEASE, Answer::Json(409, held));
    let run = fleet.run(&["push", "out", "--lease-timeout", "0s"]).await;
    assert_eq!((run.code, fleet.done()[0].as_slice()), (7, &names(&[STATUS])[..]), "{}", run.stderr);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_again() {
    let fleet = Fleet::good();
    let lost = json!({"code": "lease_lost", "message": "it expired", "hint": "take it again"});
    let lease = |epoch: u64| {
        json!({
            "id": "00000000000000000000000000000001", "epoch": epoch, "holder": "ops-1", "reason": "push",
            "since": 0, "renewed_ms_ago": 0, "expires_in_ms": 15000,
        })
    };
    let second = &fleet.0[1];
    second.ok(LEASE, lease(7)).ok(LEASE, lease(8));
    second.again(DEPLOY, Answer::Json(409, lost.clone())).on(DEPLOY, Answer::Json(202, begun("push")));
    let run = fleet.run(&PUSH).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let epochs: Vec<String> =
        second.leases(DEPLOY).into_iter().map(|l| l.unwrap().split(';').nth(1).unwrap().to_owned()).collect();
    assert_eq!(epochs, ["7", "8"]);

    // Somebody else had it meanwhile: the release there may be another one.
    let fleet = Fleet::good();
    let second = &fleet.0[1];
    second.ok(LEASE, lease(7)).ok(LEASE, lease(9)).again(DEPLOY, Answer::Json(409, lost));
    goes_back(&fleet.0[0]);
    let run = fleet.run(&PUSH).await;
    assert!(run.stderr.contains("lease_lost") && run.code != 0, "{}", run.stderr);
    assert_eq!(second.leases(DEPLOY).len(), 1);
}

#[tokio::test]
async fn what_went_back_at_the_end_is_not_called_live() {
    let fleet = Fleet::good();
    let failure =
        json!({"code": "check_failed", "message": "shop v2 did not pass check \"deep\"", "hint": "look"});
    let gone = now(&json!({"verdict": "rolled-back", "failure": failure}));
    fleet.0[2].again(&format!("GET /apps/shop/deployments/{ID}"), Answer::Json(200, gone));
    goes_back(&fleet.0[0]);
    goes_back(&fleet.0[1]);
    let run = fleet.run(&PUSH).await;
    assert_eq!((run.code, run.stdout.as_str()), (4, ""), "{}", run.stderr);
    assert!(run.stderr.contains("v1 serves on 3 of 3 hosts."), "{}", run.stderr);

    // One that is silent then is not told to be live.
    let fleet = Fleet::good();
    fleet.0[2].again(&format!("GET /apps/shop/deployments/{ID}"), Answer::Cut(Vec::new()));
    let run = fleet.run(&PUSH).await;
    assert_eq!((run.code, run.stdout.as_str()), (6, ""), "{}", run.stderr);
    assert!(run.stderr.contains("web3 went away"), "{}", run.stderr);
    assert_eq!(fleet.states(0), ["sending", "running", "running"]);
}

async fn stop_at(fleet: &Fleet, word: &str, signal: nix::sys::signal::Signal) -> (i32, String) {
    let dir = project();
    let mut command = fleet.command(dir.path(), &PUSH);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains(word) {
        assert!(stderr.read_line(&mut text).await.unwrap() > 0, "{text}");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
    stderr.read_to_string(&mut text).await.unwrap();
    (child.wait().await.unwrap().code().unwrap(), text)
}

#[tokio::test]
async fn a_signal_stops_between_hosts_and_says_what_is_true() {
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let fleet = Fleet::start();
        fleet.0[0].on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
        fleet.0[0].ok(&format!("GET /apps/shop/deployments/{ID}"), now(&json!({"live": true})));
        fleet.0[1].on(&format!("{EVENTS}0"), Answer::Hang(until_switched()));
        let (code, text) = stop_at(&fleet, "web2 switched", signal).await;
        assert_eq!(code, 130, "{text}");
        let end: Vec<&str> = text.lines().rev().take(4).collect();
        assert_eq!(
            end.into_iter().rev().collect::<Vec<_>>(),
            [
                "stopped push of shop v2: done on web1; goes on alone on web2; not begun on web3",
                "see:  deployd-ctl rollout status -a shop",
                "next: deployd-ctl rollout resume -a shop, or take it back: deployd-ctl rollout abort -a shop",
                "exit 130",
            ]
        );
        assert_eq!(fleet.released(), 3);
        assert!(!fleet.done()[2].contains(&DEPLOY.to_owned()));
    }
}

#[tokio::test]
async fn nothing_to_do_on_all_hosts() {
    let fleet = Fleet::start();
    for agent in &fleet.0 {
        let mut answer = plan();
        (answer["from"], answer["to"], answer["known_as"]) = ("v2".into(), Value::Null, "v2".into());
        agent.again(PLAN, Answer::Json(200, answer));
    }
    let run = fleet.run(&PUSH).await;
    assert_lines(&run.stdout, &["shop v2 is already on 3 of 3 hosts, nothing to change."]);
    assert_eq!((run.code, run.stderr.as_str(), fleet.released()), (0, "", 3));
    for command in [&["plan", "out"][..], &["push", "out", "-q"]] {
        assert_eq!(fleet.run(command).await.stdout, run.stdout);
    }
}

#[tokio::test]
async fn a_plan_says_once_what_is_equal() {
    let fleet = Fleet::start();
    let run = fleet.run(&["plan", "out"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let token = run.stdout.lines().find_map(|l| l.strip_prefix("token     ")).unwrap()[..10].to_owned();
    assert_lines(
        &run.stdout.replace(&token, "TOKEN"),
        &[
            "shop v1 → v2 on web1 web2 web3, rolling. Nothing has been changed.",
            "",
            "code      1 of 2 files, 6 B to send to each host",
            "  + new",
            "config    POOL_SIZE       10 → 20",
            "          deploy.monitor  30s → 20s",
            "steps     web1 web2 web3: stage, start 2, check deep health, switch, watch 1s, live, watch 20s,",
            "          commit, drain 30s",
            "          web1 first; then 1 host at a time, when those before are live",
            "fits      x86_64, disk 4 GB free, memory 21.9 GB free",
            "token     TOKEN, valid while the hosts stay as they are:",
            "          deployd-ctl push --plan TOKEN",
        ],
    );
    // The same folder is another one in the next run, with the same content: the token holds.
    let bad = fleet.run(&["push", "out", "--plan", "p-00000000"]).await;
    assert_eq!(bad.code, 3, "{}", bad.stderr);
    assert!(bad.stderr.contains(&format!("now it is {token}")), "{}", bad.stderr);
    assert!(!fleet.done()[0].contains(&UPLOAD.to_owned()));
}

#[tokio::test]
async fn refusals_are_told_with_their_hosts() {
    let fleet = Fleet::start();
    fleet.0[2].again(PLAN, Answer::Json(200, captured::value("plan_refused")));
    let run = fleet.run(&["plan", "out"]).await;
    assert_eq!(run.code, 3, "{}", run.stderr);
    for line in [
        "refused   web3: 21.9 GB of memory free, the overlap needs 1800.0 GB\n",
        "token     none, since web3 refuses\n",
    ] {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
    let run = fleet.run(&PUSH).await;
    assert_lines(
        &run.stderr,
        &[
            "error memory_low: shop is refused by 1 of 3 hosts; nothing was touched",
            "  refused web3: 21.9 GB of memory free, the overlap needs 1800.0 GB",
            "  next    free memory, lower memory in [processes.*], or let clients wait for a moment: --strategy",
            "          immediate",
            "exit 3",
        ],
    );
    assert_eq!((run.code, fleet.released()), (3, 3));
    assert!(!fleet.done()[0].contains(&UPLOAD.to_owned()));
}

#[tokio::test]
async fn a_first_push_names_its_hosts() {
    let fleet = Fleet::good();
    for agent in &fleet.0 {
        let none = json!({"code": "app_not_found", "message": "no app shop", "hint": "push it"});
        agent.again(STATUS, Answer::Json(404, none));
    }
    let run = fleet.run(&PUSH).await;
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("shop is new: it will run on web1 web2 web3."), "{}", run.stderr);
    assert!(run.stderr.contains("deployd-ctl push --yes"), "{}", run.stderr);
    assert_eq!(fleet.done()[0], [STATUS]);
    assert_eq!(fleet.run(&["push", "out", "--yes"]).await.code, 0);
}

#[tokio::test]
async fn all_hosts_go_back_to_one_release() {
    let fleet = Fleet::start();
    for agent in &fleet.0 {
        let mut answer = begun("push");
        (answer["kind"], answer["label"], answer["replaces"]) = ("rollback".into(), "v1".into(), "v2".into());
        agent.on("POST /apps/shop/rollback", Answer::Json(202, answer));
        agent.ok("GET /apps/shop/releases", captured::value("releases"));
        let committed = json!({"seq": 60, "at": 0, "type": "finished", "verdict": "committed"});
        agent.on(&format!("{EVENTS}0"), Answer::Lines(vec![committed]));
    }
    // One that never got v2 has nothing to go back from.
    for (agent, live) in fleet.0.iter().zip(["v2", "v2", "v1"]) {
        let mut status = captured::value("status_warm");
        (status["live"], status["deployment"]) = (live.into(), Value::Null);
        agent.again(STATUS, Answer::Json(200, status));
    }
    let run = fleet.run(&["rollback", "-a", "shop"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("shop v1 is live and committed on 2 of 2 hosts, "), "{}", run.stdout);
    assert!(run.stdout.ends_with("undo: deployd-ctl rollback -a shop\n"), "{}", run.stdout);
    assert!(run.stderr.starts_with("web3 stays on v1: it was not part of it\n"), "{}", run.stderr);
    let to = |i: usize| -> Value {
        serde_json::from_slice::<Value>(&fleet.0[i].bodies("POST /apps/shop/rollback")[0]).unwrap()["to"]
            .clone()
    };
    // Where the first one went, the others go.
    assert_eq!((to(0), to(1)), (Value::Null, json!("v1")));
    assert_eq!(fleet.released(), 3);

    // One that has not got it goes its own way; so does one whose push is watched.
    let rollbacks = |fleet: &Fleet| fleet.0[1].bodies("POST /apps/shop/rollback");
    fleet.0[1].again("GET /apps/shop/releases", Answer::Json(200, json!([])));
    assert_eq!(fleet.run(&["rollback", "-a", "shop"]).await.code, 0);
    let last: Value = serde_json::from_slice(&rollbacks(&fleet)[1]).unwrap();
    assert_eq!(last["to"], Value::Null);
}

#[tokio::test]
async fn what_a_migration_writes_is_shown() {
    let agent = Agent::start();
    let artifact = Digest::of(b"artifact");
    let step = |seq: u64, kind: &str| json!({"seq": seq, "at": 5, "type": kind, "step": 1, "kind": "migrate", "text": "migrate", "took_ms": 9});
    let line =
        |text: &str| json!({"at": 5, "label": "v2", "instance": "migrate", "level": 6, "message": text});
    let (one, two) = (line("== Running 20260106112233"), line("== Migrated in 0.0s"));
    agent
        .ok(PLAN, plan())
        .ok(UPLOAD, json!({"artifact": artifact, "missing": [], "files": 1, "changed": 0}))
        .on(DEPLOY, Answer::Json(202, begun("push")))
        .on("GET /apps/shop/logs", Answer::Lines(vec![one.clone()]))
        .on("GET /apps/shop/logs", Answer::Lines(vec![one, two]))
        .on(
            &format!("{EVENTS}0"),
            Answer::Lines([vec![step(1, "step-started"), step(2, "step-done")], live()].concat()),
        );
    let run = super::run(&agent, &["--local", "push", "out"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let shown: Vec<&str> =
        run.stderr.lines().filter_map(|l| l.split_once(" web1 ")).map(|(_, text)| text).collect();
    let at = |text: &str| shown.iter().position(|l| *l == text);
    let lines =
        [at("migrate: == Running 20260106112233"), at("migrate: == Migrated in 0.0s"), at("migrated 9ms")];
    assert!(lines.iter().all(Option::is_some) && lines.is_sorted(), "{}", run.stderr);
    let asked = agent.asked();
    let logs: Vec<&String> = asked.iter().filter(|r| r.contains("/logs?")).collect();
    assert!(logs[0].contains("instance=migrate&release=v2&follow=true&since_ms=5"), "{logs:?}");
}
