//! `push`: success, failed check, nothing to do, refused, lease held, agent restart, Ctrl-C.

use deployd_api::ids::Digest;
use serde_json::{Value, json};

use super::agent::{Agent, Answer};
use super::{assert_lines, command, project, run};

/// 2026-11-21 14:37:10 UTC.
const WATCHED_UNTIL: u64 = 1_795_271_830_000;
const ID: &str = "0123456789abcdef0123456789abcdef";
const UPLOAD: &str = "POST /uploads";
const PLAN: &str = "POST /apps/shop/plan";
const DEPLOY: &str = "POST /apps/shop/deployments";
const EVENTS: &str = "GET /deployments/0123456789abcdef0123456789abcdef/events?after=";

fn plan(to: Option<&str>) -> Value {
    json!({
        "app": "shop", "from": "v42", "to": to, "strategy": "rolling", "files": 1214,
        "changed_files": ["~ bin/shop"], "bytes_to_send": 5,
        "config": [{"key": "POOL_SIZE", "from": "10", "to": "20"}],
        "steps": ["stage", "start 1", "check health", "switch"],
        "fits": ["x86_64, glibc 2.36", "disk 31 GB free"],
    })
}

fn deployment(extra: &Value) -> Value {
    let mut value = json!({
        "id": ID, "app": "shop", "kind": "push", "label": "v43", "replaces": "v42",
        "origin": {"by": "ops-1"}, "started": 0, "step": "stage", "live": false,
        "watched_until": null, "verdict": null, "failure": null,
    });
    value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    value
}

fn event(seq: u64, mut what: Value) -> Value {
    what["seq"] = seq.into();
    what["at"] = 0.into();
    what
}

/// Two events of a finished step.
fn step(seq: u64, kind: &str, text: &str, took_ms: u64, note: Option<&str>) -> [Value; 2] {
    [
        event(seq, json!({"type": "step-started", "step": seq, "kind": kind, "text": text})),
        event(
            seq + 1,
            json!({"type": "step-done", "step": seq, "kind": kind, "took_ms": took_ms, "note": note}),
        ),
    ]
}

fn until_switched() -> Vec<Value> {
    let steps = [
        step(2, "seal", "seal the files", 300, None),
        step(4, "start-instance", "start web@1", 2800, None),
        step(6, "check", "check health", 41, Some("3 tries")),
        step(8, "shift", "shift to v43", 2, Some("warm, 212 conns")),
        step(10, "dance", "dance on web1", 7, None),
    ];
    let mut events = vec![event(1, json!({"type": "accepted", "label": "v43", "steps": 9}))];
    events.extend(steps.concat());
    events.push(event(12, json!({"type": "of-the-future", "x": 1})));
    events
}

fn live() -> Vec<Value> {
    vec![event(13, json!({"type": "live", "label": "v43", "watched_until": WATCHED_UNTIL}))]
}

/// An agent that lacks the one file and accepts the push.
fn agent() -> Agent {
    let agent = Agent::start();
    let digest = Digest::of(b"hello");
    let artifact = Digest::of(b"artifact");
    let upload =
        |missing: Vec<Digest>| json!({"artifact": artifact, "missing": missing, "files": 1, "changed": 1});
    agent
        .ok(PLAN, plan(Some("v43")))
        .ok(UPLOAD, upload(vec![digest]))
        .ok(&format!("PUT /uploads/shop/{artifact}"), json!({}))
        .on(DEPLOY, Answer::Json(202, deployment(&json!({}))));
    agent
}

const PUSH: [&str; 3] = ["--local", "push", "out"];
const PUSH_LIVE: [&str; 4] = ["--local", "--progress=live", "push", "out"];

const CI_UNTIL_SWITCHED: [&str; 10] = [
    "shop v43 → web1     rolling     replaces v42",
    "changed   1 of 1,214 files, POOL_SIZE 10 → 20",
    "fits      x86_64, glibc 2.36, disk 31 GB free",
    "",
    "+TT:TT web1 sent 5B TIME",
    "+TT:TT web1 staged 0.3s",
    "+TT:TT web1 started web@1 2.8s",
    "+TT:TT web1 checked health 41ms, 3 tries",
    "+TT:TT web1 switched to v43 2ms, warm, 212 conns",
    "+TT:TT web1 done dance on web1 7ms",
];
const LIVE_LINE: &str =
    "shop v43 is live on web1, TIME. Watched until 14:37:10, then committed and v42 drained.";
const UNDO_LINE: &str = "undo: deployd-ctl --local rollback";

#[tokio::test]
async fn success_in_ci() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
    let run = run(&agent, &PUSH).await;
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &["+TT:TT web1 live", "", UNDO_LINE]].concat());
    assert_lines(&run.stdout, &[LIVE_LINE]);
    assert_eq!(run.code, 0);
    // What went over the wire: one frame, with the content and its digest.
    let artifact = Digest::of(b"artifact");
    let frames = agent.bodies(&format!("PUT /uploads/shop/{artifact}"));
    let want = [Digest::of(b"hello").as_bytes().as_slice(), &5_u64.to_le_bytes(), b"hello"].concat();
    assert_eq!(frames, [want]);
    let push: Value = serde_json::from_slice(&agent.bodies(DEPLOY)[0]).unwrap();
    assert_eq!((&push["origin"]["by"], &push["spec"]["app"]), (&json!("ops-1"), &json!("shop")));
}

/// The last picture of a table that is drawn again.
fn last_picture(stderr: &str) -> Vec<String> {
    let picture = stderr.rsplit("\x1b[?7l").next().unwrap();
    let picture = picture.split("\x1b[?7h").next().unwrap().replace("\x1b[K", "").replace('\r', "");
    picture.split('\n').filter(|l| !l.is_empty()).map(|l| l.replace("\x1b[2A", "")).collect()
}

#[tokio::test]
async fn success_on_a_terminal() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
    let run = run(&agent, &PUSH_LIVE).await;
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS  SWITCH  OLD v42          NOW",
            "web1  5 B    0.3 s  2.8 s  health    2 ms  warm, 212 conns  v43",
        ]
    );
    assert_lines(&run.stdout, &[LIVE_LINE]);
    assert!(run.stderr.ends_with(&format!("\n{UNDO_LINE}\n")), "{}", run.stderr);
}

fn failed_check() -> Vec<Value> {
    let failure = json!({
        "code": "check_failed",
        "message": "shop v43 did not pass check \"deep\" on web1. v42 serves.",
        "causes": [
            ["what", "GET /health/deep on the candidate: 503 in 41 ms, 5 tries in 12 s"],
            ["where", "web1, web@1 of v43; [checks.deep]"],
            ["log", "16:31:07.120 [error] connection refused"],
            ["log", "16:31:08.126 [error] connection refused"],
        ],
        "hint": "deployd-ctl --local logs --release v43\nv43 is marked bad: push a new build",
    });
    let started = json!({"type": "step-started", "step": 9, "kind": "check", "text": "check deep"});
    let failed = json!({"type": "step-failed", "step": 9, "kind": "check", "failure": failure});
    vec![
        event(1, json!({"type": "accepted", "label": "v43", "steps": 9})),
        event(2, started),
        event(3, failed),
        event(4, json!({"type": "step-undone", "step": 8, "text": "stop web@1"})),
        event(5, json!({"type": "step-undone", "step": 7, "text": "remove units"})),
        event(6, json!({"type": "finished", "verdict": "rolled-back", "failure": failure})),
    ]
}

const FAILURE_BLOCK: [&str; 10] = [
    "",
    "error check_failed: shop v43 did not pass check \"deep\" on web1. v42 serves.",
    "  what    GET /health/deep on the candidate: 503 in 41 ms, 5 tries in 12 s",
    "  where   web1, web@1 of v43; [checks.deep]",
    "  log     16:31:07.120 [error] connection refused",
    "          16:31:08.126 [error] connection refused",
    "  undone  stop web@1, remove units",
    "  next    deployd-ctl --local logs --release v43",
    "          v43 is marked bad: push a new build",
    "exit 4",
];

#[tokio::test]
async fn a_failed_check_in_ci() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines(failed_check()));
    let run = run(&agent, &PUSH).await;
    let steps = [
        "+TT:TT web1 failed check deep: shop v43 did not pass check \"deep\" on web1. v42 serves.",
        "+TT:TT web1 undone: stop web@1",
        "+TT:TT web1 undone: remove units",
    ];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..5], &steps, &FAILURE_BLOCK].concat());
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
}

#[tokio::test]
async fn a_failed_check_on_a_terminal() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines(failed_check()));
    let run = run(&agent, &PUSH_LIVE).await;
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS       SWITCH  OLD v42            NOW",
            "web1  5 B        -      -  deep failed       -  served throughout  v42, rolled back",
        ]
    );
    assert!(run.stderr.contains(&FAILURE_BLOCK[1..].join("\n")), "{}", run.stderr);
    assert_eq!(run.code, 4);
}

#[tokio::test]
async fn nothing_to_do() {
    let agent = Agent::start();
    let mut answer = plan(None);
    answer["from"] = "v43".into();
    agent.ok(PLAN, answer);
    let first = run(&agent, &PUSH).await;
    assert_lines(&first.stdout, &["shop v43 is already on web1, nothing to change."]);
    assert_eq!((first.code, first.stderr.as_str()), (0, ""));
    assert_eq!(agent.asked(), [PLAN]);
}

#[tokio::test]
async fn nothing_to_do_as_the_deployment_says() {
    let agent = Agent::start();
    let artifact = Digest::of(b"artifact");
    let nothing = deployment(&json!({"verdict": "committed", "step": null}));
    agent
        .ok(PLAN, plan(Some("v43")))
        .ok(UPLOAD, json!({"artifact": artifact, "missing": [], "files": 1, "changed": 0}))
        .ok(DEPLOY, nothing);
    let run = run(&agent, &["--local", "-q", "push", "out"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_lines(&run.stdout, &["shop v43 is already on web1, nothing to change."]);
}

fn error(code: &str, message: &str, hint: &str) -> Value {
    json!({"code": code, "message": message, "causes": [["what", "0.9 GB free, 2.0 GB needed"]], "hint": hint})
}

#[tokio::test]
async fn refused_before_anything_is_sent() {
    let agent = Agent::start();
    let mut answer = plan(Some("v43"));
    answer["refused"] = error("disk_low", "web1 has no room for shop v43", "journalctl --vacuum-size=2G");
    agent.ok(PLAN, answer);
    let run = run(&agent, &PUSH).await;
    assert_lines(
        &run.stderr,
        &[
            "error disk_low: web1 has no room for shop v43",
            "  what    0.9 GB free, 2.0 GB needed",
            "  next    journalctl --vacuum-size=2G",
            "exit 3",
        ],
    );
    assert_eq!((run.code, run.stdout.as_str()), (3, ""));
    assert_eq!(agent.asked(), [PLAN]);
}

#[tokio::test]
async fn a_held_lease_is_waited_for_or_not() {
    let held =
        || Answer::Json(409, error("lease_held", "shop is being deployed by ci since 16:30:51", "wait"));
    let script = || {
        let agent = Agent::start();
        let artifact = Digest::of(b"artifact");
        agent
            .ok(PLAN, plan(Some("v43")))
            .ok(UPLOAD, json!({"artifact": artifact, "missing": [], "files": 1, "changed": 0}))
            .on(DEPLOY, held());
        agent
    };
    let at_once = run(&script(), &["--local", "push", "out", "--lease-timeout", "0s"]).await;
    assert_eq!(at_once.code, 7, "{}", at_once.stderr);
    assert!(at_once.stderr.contains("error lease_held: shop is being deployed by ci since 16:30:51\n"));

    let agent = script();
    agent.on(DEPLOY, Answer::Json(202, deployment(&json!({}))));
    agent.on(&format!("{EVENTS}0"), Answer::Lines(live()));
    let waited = run(&agent, &PUSH).await;
    assert_eq!(waited.code, 0, "{}", waited.stderr);
    let line = "shop is being deployed by ci since 16:30:51. Waiting up to 15m; Ctrl-C to stop.";
    assert!(waited.stderr.contains(line), "{}", waited.stderr);
    // Both tries had the same id: a repeat can never deploy twice.
    let ids: Vec<Value> = agent
        .bodies(DEPLOY)
        .iter()
        .map(|body| serde_json::from_slice::<Value>(body).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_agent_that_restarts_is_waited_for() {
    let agent = agent();
    agent
        .on(&format!("{EVENTS}0"), Answer::Cut(until_switched()))
        .ok(&format!("GET /deployments/{ID}"), deployment(&json!({})))
        .on(&format!("{EVENTS}11"), Answer::Lines(live()));
    let run = run(&agent, &PUSH).await;
    let rest = [
        "+TT:TT web1 agent away, the deployment goes on; waiting for it",
        "+TT:TT web1 agent back",
        "+TT:TT web1 live",
        "",
        UNDO_LINE,
    ];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &rest].concat());
    assert_lines(&run.stdout, &[LIVE_LINE]);
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn a_deployment_that_ended_while_the_agent_was_away_is_told() {
    let agent = agent();
    let failure = error("rebooted", "web1 restarted before the commit", "push again");
    let ended = deployment(&json!({"verdict": "rolled-back", "failure": failure}));
    agent
        .on(&format!("{EVENTS}0"), Answer::Cut(until_switched()))
        .ok(&format!("GET /deployments/{ID}"), ended)
        .on(&format!("{EVENTS}11"), Answer::Lines(Vec::new()));
    let run = run(&agent, &PUSH).await;
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
    assert!(run.stderr.contains("error rebooted: web1 restarted before the commit\n"), "{}", run.stderr);
}

#[tokio::test]
async fn ctrl_c_detaches() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Hang(until_switched()));
    let dir = project();
    let mut command = command(dir.path(), &agent.socket, &PUSH);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = tokio::io::BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    // The signal is sent once the deployment is being followed.
    while !text.contains("switched") {
        use tokio::io::AsyncBufReadExt;
        assert!(stderr.read_line(&mut text).await.unwrap() > 0, "{text}");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut text).await.unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(130));
    let goes_on = [
        "detached from push of shop; web1 goes on",
        "see:  deployd-ctl --local status -a shop",
        "undo: deployd-ctl --local abort -a shop",
        "exit 130",
    ];
    let end: Vec<&str> = text.lines().rev().take(4).collect();
    assert_eq!(end.into_iter().rev().collect::<Vec<_>>(), goes_on);
}

#[tokio::test]
async fn json_is_the_deployment_as_it_ended() {
    let agent = agent();
    let ended = deployment(&json!({"live": true, "step": null}));
    agent
        .on(&format!("{EVENTS}0"), Answer::Lines(live()))
        .ok(&format!("GET /deployments/{ID}"), ended.clone());
    let run = run(&agent, &["--local", "-q", "-o", "json", "push", "out"]).await;
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap(), ended);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}
