//! `push`: success, failed check, nothing to do, refused, lease held, agent restart, Ctrl-C.

use deployd_api::ids::Digest;
use serde_json::{Value, json};

use super::agent::{Agent, Answer};
use super::captured;
use super::{assert_lines, command, project, run};

pub(crate) const ID: &str = "5386c07198757a5bbfeee6fa2cdb4815";
pub(crate) const UPLOAD: &str = "POST /apps/shop/uploads";
pub(crate) const PLAN: &str = "POST /apps/shop/plan";
pub(crate) const DEPLOY: &str = "POST /apps/shop/deployments";
pub(crate) const EVENTS: &str = "GET /apps/shop/deployments/5386c07198757a5bbfeee6fa2cdb4815/events?after=";

pub(crate) fn plan() -> Value {
    captured::value("plan")
}

/// The deployment as it is answered when it begins.
pub(crate) fn begun(name: &str) -> Value {
    let mut value = captured::value(name);
    let fields = json!({"id": ID, "step": "know v2", "live": false, "watched_until": null, "verdict": null, "failure": null});
    value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    value
}

pub(crate) fn deployment(extra: &Value) -> Value {
    let mut value = begun("push");
    value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    value
}

/// Everything before it is live, and an event of another version.
pub(crate) fn until_switched() -> Vec<Value> {
    let mut events = captured::lines("push");
    events.retain(|e| e["seq"].as_u64().unwrap() < LIVE);
    events.push(json!({"seq": LIVE - 1, "at": 0, "type": "of-the-future", "x": 1}));
    events
}

/// The number of the event that it is live.
pub(crate) const LIVE: u64 = 29;

pub(crate) fn live() -> Vec<Value> {
    let events = captured::lines("push");
    let live = events.iter().position(|e| e["type"] == "live").unwrap();
    assert_eq!(events[live]["seq"], LIVE);
    vec![events[live].clone()]
}

/// An agent that lacks the one file and accepts the push.
fn agent_for(name: &str) -> Agent {
    let agent = Agent::start();
    let digest = Digest::of(b"hello");
    let artifact = Digest::of(b"artifact");
    let upload =
        |missing: Vec<Digest>| json!({"artifact": artifact, "missing": missing, "files": 1, "changed": 1});
    agent
        .ok(PLAN, plan())
        .ok(UPLOAD, upload(vec![digest]))
        .ok(&format!("PUT /apps/shop/uploads/{artifact}"), json!({}))
        .on(DEPLOY, Answer::Json(202, begun(name)));
    agent
}

fn agent() -> Agent {
    agent_for("push")
}

const PUSH: [&str; 3] = ["--local", "push", "out"];
const PUSH_LIVE: [&str; 4] = ["--local", "--progress=live", "push", "out"];

const CI_UNTIL_SWITCHED: [&str; 10] = [
    "shop v2 -> web1 rolling, replaces v1",
    "+TT:TT web1 sent 54B TIME",
    "+TT:TT web1 staged 1ms, 1 file sent, 1 shared, 0 copied",
    "+TT:TT web1 wrote units 0ms",
    "+TT:TT web1 opened http 18ms",
    "+TT:TT web1 started web@1 0.1s",
    "+TT:TT web1 started web@2 0.1s",
    "+TT:TT web1 checks deep health ok 9ms",
    "+TT:TT web1 switched http 0ms, v1 warm",
    "+TT:TT web1 watched 1.0s, deep ok, health ok",
];
const LIVE_LINE: &str =
    "shop v2 is live on web1, TIME. Watched until 11:07:56, then committed and v1 drained.";
const UNDO_LINE: &str = "undo: deployd-ctl --local rollback -a shop";

#[tokio::test]
async fn success_in_ci() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
    let run = run(&agent, &PUSH).await;
    let end = ["+TT:TT web1 live, v1 warm, 12 conns", ""];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &end].concat());
    assert_lines(&run.stdout, &[LIVE_LINE, UNDO_LINE]);
    assert_eq!(run.code, 0);
    // What went over the wire: one frame, with the content and its digest.
    let artifact = Digest::of(b"artifact");
    let frames = agent.bodies(&format!("PUT /apps/shop/uploads/{artifact}"));
    let want = [Digest::of(b"hello").as_bytes().as_slice(), &5_u64.to_le_bytes(), b"hello"].concat();
    let frames: Vec<Vec<u8>> = frames.iter().map(|f| zstd::decode_all(f.as_slice()).unwrap()).collect();
    assert_eq!(frames, [want]);
    let push: Value = serde_json::from_slice(&agent.bodies(DEPLOY)[0]).unwrap();
    assert_eq!((&push["origin"]["by"], &push["spec"]["app"]), (&json!("ops-1"), &json!("shop")));
}

/// A host that dies ends no stream: the agent is asked, and what it told since is read.
#[tokio::test]
async fn a_silent_stream_is_opened_again() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Hang(until_switched()));
    agent.on(&format!("{EVENTS}{}", LIVE - 1), Answer::Lines(live()));
    agent.ok(&format!("GET /apps/shop/deployments/{ID}"), deployment(&json!({"step": "watch"})));
    let run = run(&agent, &PUSH).await;
    let end = ["+TT:TT web1 live, v1 warm, 12 conns", ""];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &end].concat());
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn quiet_leaves_the_result_and_its_undo() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
    let run = run(&agent, &["--local", "-q", "push", "out"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_lines(&run.stdout, &[LIVE_LINE, UNDO_LINE]);
}

#[tokio::test]
async fn until_committed() {
    let agent = agent();
    let mut events = captured::lines("push");
    events.remove(0);
    agent.on(&format!("{EVENTS}0"), Answer::Lines(events));
    let run = run(&agent, &["--local", "push", "out", "--wait", "committed"]).await;
    let rest = [
        "+TT:TT web1 live, v1 warm, 12 conns",
        "+TT:TT web1 watched 20s, deep ok, health ok",
        "+TT:TT web1 committed 0ms",
        "+TT:TT web1 closed http of v1 7ms",
        "+TT:TT web1 told web@1 of v1 to end 1ms",
        "+TT:TT web1 told web@2 of v1 to end 6ms",
        "+TT:TT web1 v1 drains 11ms, 0 conns",
        "",
    ];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &rest].concat());
    assert_lines(&run.stdout, &["shop v2 is live and committed on web1, TIME.", UNDO_LINE]);
    assert_eq!(run.code, 0);
}

/// The last picture of a table that is drawn again.
pub(crate) fn last_picture(stderr: &str) -> Vec<String> {
    let picture = stderr.rsplit("\x1b[?7l").next().unwrap();
    let picture = picture.split("\x1b[?7h").next().unwrap().replace("\x1b[K", "").replace('\r', "");
    picture.split('\n').filter(|l| !l.is_empty()).map(without_move).collect()
}

/// A line without the way up to it.
fn without_move(line: &str) -> String {
    match line.strip_prefix("\x1b[").and_then(|l| l.split_once('A')) {
        Some((lines, text)) if lines.chars().all(|c| c.is_ascii_digit()) => text.to_owned(),
        _ => line.to_owned(),
    }
}

#[tokio::test]
async fn success_on_a_terminal() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines([until_switched(), live()].concat()));
    let run = run(&agent, &PUSH_LIVE).await;
    let head: Vec<&str> = run.stderr.lines().take(4).collect();
    let header = [
        "shop v2 → web1     rolling     replaces v1",
        "changed   1 of 2 files, POOL_SIZE 10 → 20, deploy.monitor 30s → 20s",
        "fits      x86_64, disk 4 GB free, memory 21.9 GB free",
        "",
    ];
    assert_eq!(head, header);
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS       SWITCH  OLD v1          NOW",
            "web1  54 B    1 ms  0.2 s  deep health    0 ms  warm, 12 conns  v2",
        ]
    );
    assert_lines(&run.stdout, &[LIVE_LINE, UNDO_LINE]);
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn what_becomes_of_the_old_release_on_a_terminal() {
    let agent = agent();
    agent.on(&format!("{EVENTS}0"), Answer::Lines(captured::lines("push")));
    let run = run(&agent, &["--local", "--progress=live", "push", "out", "--wait", "committed"]).await;
    let row = |old: &str| {
        run.stderr.lines().any(|line| line.contains("web1 ") && line.contains(&format!("  {old}  ")))
    };
    // Only one that was told to end is said to drain.
    for old in ["serves", "warm", "warm, 12 conns", "draining", "draining, 0 conns"] {
        assert!(row(old), "no row with {old}: {}", run.stderr);
    }
    assert!(!row("drained"), "{}", run.stderr);
}

const FAILURE_BLOCK: [&str; 12] = [
    "",
    "error check_failed: shop v3 did not pass check \"deep\" on web1. v2 serves on web1.",
    "  what    GET /health/deep on the candidate: 503 in 0 ms, wanted status 200-299, got 503; body:",
    "          failing, 15 tries in 2 s",
    "  where   web1, web@1 of v3; [checks.deep], deployd.toml:6",
    "  log     shop v3 starts",
    "          shop v3 starts",
    "  undone  candidate stopped, its listeners closed, its units removed, its files removed; it had no",
    "          public traffic",
    "  next    deployd-ctl --local logs -a shop --release v3 --instance web@1",
    "          v3 is marked bad: push a new build, or deployd-ctl --local releases clear v3 -a shop",
    "exit 4",
];

#[tokio::test]
async fn a_failed_check_in_ci() {
    let agent = agent_for("failed_check");
    agent.on(&format!("{EVENTS}0"), Answer::Lines(captured::lines("failed_check")));
    let run = run(&agent, &PUSH).await;
    let steps = [
        "+TT:TT web1 sent 54B TIME",
        "+TT:TT web1 staged 1ms, 0 files sent, 2 shared, 0 copied",
        "+TT:TT web1 wrote units 0ms",
        "+TT:TT web1 opened http 38ms",
        "+TT:TT web1 started web@1 77ms",
        "+TT:TT web1 started web@2 69ms",
        "+TT:TT web1 failed: shop v3 did not pass check \"deep\" on web1",
        "+TT:TT web1 undone: candidate stopped",
        "+TT:TT web1 undone: its listeners closed",
        "+TT:TT web1 undone: its units removed",
        "+TT:TT web1 undone: its files removed",
    ];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..1], &steps, &FAILURE_BLOCK].concat());
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
}

#[tokio::test]
async fn a_failed_check_on_a_terminal() {
    let agent = agent_for("failed_check");
    agent.on(&format!("{EVENTS}0"), Answer::Lines(captured::lines("failed_check")));
    let run = run(&agent, &PUSH_LIVE).await;
    assert_eq!(
        last_picture(&run.stderr),
        [
            "HOST  SENT  STAGED  START  CHECKS       SWITCH  OLD v2             NOW",
            "web1  54 B    1 ms  0.1 s  deep failed       -  served throughout  v2, rolled back",
        ]
    );
    assert!(run.stderr.contains(&FAILURE_BLOCK[1..].join("\n")), "{}", run.stderr);
    assert_eq!(run.code, 4);
}

#[tokio::test]
async fn a_watched_push_that_is_rolled_back() {
    let agent = Agent::start();
    agent
        .ok("GET /apps/shop", captured::value("status_warm"))
        .on("POST /apps/shop/rollback", Answer::Json(202, begun("failed_check")))
        .on(&format!("{EVENTS}0"), Answer::Lines(captured::lines("failed_check")));
    let undone = run(&agent, &["--local", "-q", "rollback", "-a", "shop"]).await;
    assert_eq!((undone.code, undone.stderr.as_str()), (0, ""));
    let undo = "undo: deployd-ctl --local push DIR  (the build of v3; its files are gone)";
    assert_lines(&undone.stdout, &["shop v2 is live on web1 again, TIME.", undo]);

    // Every other end is told as well.
    let failure = error("stuck", "v3 went bad, and undoing it did not work", "deployd-ctl doctor");
    let stuck = json!({"seq": 41, "at": 0, "type": "finished", "verdict": "stuck", "failure": failure});
    for (end, code, said) in [
        (stuck, 5, "error stuck: v3 went bad, and undoing it did not work"),
        (json!({"seq": 41, "at": 0, "type": "finished", "verdict": "committed"}), 3, ""),
    ] {
        let agent = Agent::start();
        agent
            .ok("GET /apps/shop", captured::value("status_warm"))
            .on("POST /apps/shop/rollback", Answer::Json(202, begun("failed_check")))
            .on(&format!("{EVENTS}0"), Answer::Lines(vec![end]));
        let run = run(&agent, &["--local", "rollback", "-a", "shop"]).await;
        assert_eq!(run.code, code, "{}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
        let late =
            "shop v3 was committed before it could be undone.\nundo: deployd-ctl --local rollback -a shop\n";
        assert_eq!(run.stdout, if code == 3 { late } else { "" });
    }
}

#[tokio::test]
async fn an_abort_in_json_is_the_deployment() {
    let agent = Agent::start();
    let ended = json!({"verdict": "rolled-back", "label": "v3", "replaces": "v2"});
    agent
        .ok("GET /apps/shop", {
            let mut status = captured::value("status_warm");
            status["deployment"] = begun("failed_check");
            status
        })
        .ok(&format!("POST /apps/shop/deployments/{ID}/abort"), json!({}))
        .ok(&format!("GET /apps/shop/deployments/{ID}"), deployment(&ended))
        .on(&format!("{EVENTS}0"), Answer::Lines(captured::lines("failed_check")));
    let run = run(&agent, &["--local", "-q", "abort", "-a", "shop", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap(), deployment(&ended));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn nothing_to_do() {
    let agent = Agent::start();
    let mut answer = plan();
    (answer["from"], answer["to"]) = ("v2".into(), Value::Null);
    agent.ok(PLAN, answer);
    let first = run(&agent, &PUSH).await;
    assert_lines(&first.stdout, &["shop v2 is already on web1, nothing to change."]);
    assert_eq!((first.code, first.stderr.as_str()), (0, ""));
    assert_eq!(agent.done(), [PLAN]);
    // In JSON it is a deployment, as every push is.
    let json = run(&agent, &["--local", "-q", "-o", "json", "push", "out"]).await;
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&value["verdict"], &value["label"]), (&json!("committed"), &json!("v2")));
}

#[tokio::test]
async fn nothing_to_do_as_the_deployment_says() {
    let agent = Agent::start();
    let artifact = Digest::of(b"artifact");
    let nothing = deployment(&json!({"verdict": "committed", "step": null}));
    agent
        .ok(PLAN, plan())
        .ok(UPLOAD, json!({"artifact": artifact, "missing": [], "files": 1, "changed": 0}))
        .ok(DEPLOY, nothing);
    let run = run(&agent, &["--local", "-q", "push", "out"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_lines(&run.stdout, &["shop v2 is already on web1, nothing to change."]);
}

pub(crate) fn error(code: &str, message: &str, hint: &str) -> Value {
    json!({"code": code, "message": message, "causes": [["what", "0.9 GB free, 2.0 GB needed"]], "hint": hint})
}

#[tokio::test]
async fn refused_before_anything_is_sent() {
    let agent = Agent::start();
    agent.ok(PLAN, captured::value("plan_refused"));
    let run = run(&agent, &PUSH).await;
    assert_lines(
        &run.stderr,
        &[
            "error memory_low: 21.9 GB of memory free, the overlap needs 1800.0 GB",
            "  next    free memory, lower memory in [processes.*], or let clients wait for a moment: --strategy",
            "          immediate",
            "exit 3",
        ],
    );
    assert_eq!((run.code, run.stdout.as_str()), (3, ""));
    assert_eq!(agent.done(), [PLAN]);
}

#[tokio::test]
async fn a_held_lease_is_waited_for_or_not() {
    let held =
        || Answer::Json(409, error("lease_held", "shop is being deployed by ci since 16:30:51", "wait"));
    let script = || {
        let agent = Agent::start();
        let artifact = Digest::of(b"artifact");
        agent
            .ok(PLAN, plan())
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
        .ok(&format!("GET /apps/shop/deployments/{ID}"), deployment(&json!({})))
        .on(&format!("{EVENTS}28"), Answer::Lines(live()));
    let run = run(&agent, &PUSH).await;
    let rest = [
        "+TT:TT web1 agent away, the deployment goes on; waiting for it",
        "+TT:TT web1 agent back",
        "+TT:TT web1 live, v1 warm, 12 conns",
        "",
    ];
    assert_lines(&run.stderr, &[&CI_UNTIL_SWITCHED[..], &rest].concat());
    assert_lines(&run.stdout, &[LIVE_LINE, UNDO_LINE]);
    assert_eq!(run.code, 0);
}

#[tokio::test]
async fn a_deployment_that_ended_while_the_agent_was_away_is_told() {
    let agent = agent();
    let failure = error("rebooted", "web1 restarted before the commit", "push again");
    let ended = deployment(&json!({"verdict": "rolled-back", "failure": failure}));
    agent
        .on(&format!("{EVENTS}0"), Answer::Cut(until_switched()))
        .ok(&format!("GET /apps/shop/deployments/{ID}"), ended)
        .on(&format!("{EVENTS}28"), Answer::Lines(Vec::new()));
    let run = run(&agent, &PUSH).await;
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
    assert!(
        run.stderr.contains("error rebooted: web1 restarted before the commit. v1 serves on web1.\n"),
        "{}",
        run.stderr
    );
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
        .ok(&format!("GET /apps/shop/deployments/{ID}"), ended.clone());
    let run = run(&agent, &["--local", "-q", "-o", "json", "push", "out"]).await;
    assert_eq!(serde_json::from_str::<Value>(&run.stdout).unwrap(), ended);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}
