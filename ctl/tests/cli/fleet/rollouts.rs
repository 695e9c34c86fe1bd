//! The verbs of rollouts, from another machine: shown, gone on with, taken back, and when not.

use super::*;

/// What hosts keep of a push that lost its ctl when web1 was live.
fn left_behind(fleet: &Fleet) -> Rollout {
    let spec =
        deployd_api::spec::parse(&std::fs::read_to_string(project().path().join("deployd.toml")).unwrap());
    let host = |n: u32| json!({"host": format!("web{n}"), "wave": n - 1, "from": "v1"});
    let rollout = json!({
        "id": "0000000000000000000000000000000f", "app": "shop", "label": "v2", "origin": {"by": "ci"},
        "document": {"format": 1, "artifact": Digest::of(b"artifact"), "spec": spec.unwrap()},
        "started": 1_000_000_000_000_u64, "on_failure": "rollback", "hosts": [host(1), host(2), host(3)],
        "state": "running",
    });
    let rollout: Rollout = serde_json::from_value(rollout).unwrap();
    for (index, agent) in fleet.0.iter().enumerate() {
        agent.ok(&format!("GET {RECORD}"), serde_json::to_value(&rollout).unwrap());
        let gone = json!({"code": "deployment_not_found", "message": "none", "hint": "look"});
        let id = rollout.deployment(&rollout.hosts[index].host);
        let undo = rollout.undo(&rollout.hosts[index].host);
        agent.on(&format!("GET /apps/shop/deployments/{undo}"), Answer::Json(404, gone.clone()));
        let own = if index == 0 {
            Answer::Json(200, now(&json!({"live": true, "watched_until": 1_795_259_276_431_u64})))
        } else {
            Answer::Json(404, gone)
        };
        agent.on(&format!("GET /apps/shop/deployments/{id}"), own);
    }
    rollout
}

#[tokio::test]
async fn a_rollout_is_shown_from_another_machine() {
    let fleet = Fleet::good();
    left_behind(&fleet);
    let elsewhere = tempfile::tempdir().unwrap();
    let run = fleet.run_in(elsewhere.path(), &["rollout", "status", "-a", "shop"]).await;
    assert_lines(
        &run.stdout,
        &[
            "push of shop v2 by ci since 9 Sep 2001 is not at its end: live on 1 of 3 hosts.",
            "",
            "HOST  WAVE  FROM  STATE",
            "web1     1  v1    live, watched until 11:07:56",
            "web2     2  v1    not begun",
            "web3     3  v1    not begun",
            "next: deployd-ctl rollout resume -a shop",
            "undo: deployd-ctl rollout abort -a shop",
        ],
    );
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn a_rollout_goes_on_from_another_machine() {
    let fleet = Fleet::good();
    let rollout = left_behind(&fleet);
    let elsewhere = tempfile::tempdir().unwrap();
    let run = fleet.run_in(elsewhere.path(), &["rollout", "resume", "-a", "shop"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.starts_with("shop v2 -> web1 web2 web3 goes on, 2 hosts to come\n"), "{}", run.stderr);
    assert!(run.stdout.starts_with("shop v2 is live on 3 of 3 hosts, "), "{}", run.stdout);
    assert!(!fleet.done()[0].contains(&DEPLOY.to_owned()));
    let push: Value = serde_json::from_slice(&fleet.0[2].bodies(DEPLOY)[0]).unwrap();
    assert_eq!(push["id"], rollout.deployment(&rollout.hosts[2].host).to_string());
    // Its lease is its own: the ctl that began may not be gone.
    let lease: Value = serde_json::from_slice(&fleet.0[0].bodies(LEASE)[0]).unwrap();
    assert_ne!(lease["id"], rollout.id.to_string());
    assert_eq!((fleet.states(1), fleet.released()), (names(&["running", "live"]), 3));
}

#[tokio::test]
async fn a_rollout_is_taken_back_from_another_machine() {
    let fleet = Fleet::start();
    left_behind(&fleet);
    goes_back(&fleet.0[0]);
    let run = fleet.run(&["rollout", "abort", "-a", "shop"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_lines(&run.stdout, &["the rollout of shop v2 is aborted. v1 serves on 3 of 3 hosts."]);
    assert_eq!(fleet.states(2), ["aborted"]);
    assert!(!fleet.done()[1].iter().any(|r| r.starts_with("POST")));
}

#[tokio::test]
async fn another_push_that_began_meanwhile_is_left_alone() {
    for verb in ["resume", "abort"] {
        let fleet = Fleet::good();
        let mut other = left_behind(&fleet);
        other.id = "0000000000000000000000000000000e".parse().unwrap();
        other.label = "v3".parse().unwrap();
        fleet.0[1].ok(&format!("GET {RECORD}"), serde_json::to_value(&other).unwrap());
        let none = json!({"code": "deployment_not_found", "message": "none", "hint": "look"});
        for (agent, part) in fleet.0.iter().zip(&other.hosts) {
            let id = other.deployment(&part.host);
            agent.on(&format!("GET /apps/shop/deployments/{id}"), Answer::Json(404, none.clone()));
        }
        let run = fleet.run(&["rollout", verb, "-a", "shop"]).await;
        assert_eq!(run.code, 3, "{}", run.stderr);
        assert!(run.stderr.contains("another rollout of shop began meanwhile: v3"), "{}", run.stderr);
        assert!(fleet.done().iter().flatten().all(|r| r.starts_with("GET")), "{:?}", fleet.done());
        assert_eq!(fleet.released(), 3);
    }
}

#[tokio::test]
async fn a_rollout_does_not_go_past_a_silent_first_host() {
    let fleet = Fleet::good();
    left_behind(&fleet);
    std::fs::remove_file(&fleet.0[0].socket).unwrap();
    let run = fleet.run(&["rollout", "resume", "-a", "shop"]).await;
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("web1 comes before the others, and does not answer"), "{}", run.stderr);
    assert!(!fleet.done()[1].contains(&DEPLOY.to_owned()));
}

#[tokio::test]
async fn an_abort_says_what_it_could_not_take_back() {
    // A first release that is committed has nothing to go back to.
    let fleet = Fleet::start();
    let mut rollout = left_behind(&fleet);
    rollout.hosts[0].from = None;
    let own = rollout.deployment(&rollout.hosts[0].host);
    let committed = json!({"live": true, "verdict": "committed", "replaces": null});
    let mut status = captured::value("status_warm");
    (status["live"], status["deployment"]) = ("v2".into(), Value::Null);
    fleet.0[0]
        .again(&format!("GET /apps/shop/deployments/{own}"), Answer::Json(200, now(&committed)))
        .again(STATUS, Answer::Json(200, status));
    for agent in &fleet.0 {
        agent.again(&format!("GET {RECORD}"), Answer::Json(200, serde_json::to_value(&rollout).unwrap()));
    }
    let run = fleet.run(&["rollout", "abort", "-a", "shop"]).await;
    assert_eq!(run.code, 6, "{}", run.stderr);
    for line in
        ["web1 was not taken back: it is the first release there", "next: deployd-ctl remove -a shop\n"]
    {
        assert!(run.stderr.contains(line), "no {line:?}: {}", run.stderr);
    }
    assert!(
        run.stdout.starts_with("the rollout of shop v2 is aborted, but not on all hosts. "),
        "{}",
        run.stdout
    );
    assert_eq!(fleet.states(2), ["failed"]);

    // One that needs a person is named, too.
    let fleet = Fleet::start();
    let rollout = left_behind(&fleet);
    goes_back(&fleet.0[0]);
    let own = rollout.deployment(&rollout.hosts[1].host);
    let failure = json!({"code": "stuck", "message": "the undo failed", "hint": "deployd-ctl doctor"});
    let stuck = now(&json!({"verdict": "stuck", "failure": failure}));
    fleet.0[1].again(&format!("GET /apps/shop/deployments/{own}"), Answer::Json(200, stuck));
    let run = fleet.run(&["rollout", "abort", "-a", "shop"]).await;
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(
        run.stderr.contains("web2 is stuck: the undo failed\nnext: deployd-ctl doctor\n"),
        "{}",
        run.stderr
    );
}
