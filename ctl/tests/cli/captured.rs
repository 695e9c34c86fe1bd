//! What a real agent sent, as `captured/` has it: the scripted agent answers with nothing else, where the
//! form of an answer matters.
//!
//! The files are answers of the API of a host with the fixture app: two releases that replace one another
//! under 12 connections, and a third whose check `deep` fails. To make them anew, deploy the same on a host
//! (docs/testing.md) and save what `-o json` and `/v1/apps/APP/deployments/ID/events` give.

use serde_json::Value;

macro_rules! file {
    ($name:literal) => {
        include_str!(concat!("captured/", $name))
    };
}

/// Answers of one value, by name.
pub(crate) fn value(name: &str) -> Value {
    let text = match name {
        "doctor" => file!("doctor.json"),
        "failed_check" => file!("failed_check.json"),
        "plan" => file!("plan.json"),
        "plan_first" => file!("plan_first.json"),
        "plan_refused" => file!("plan_refused.json"),
        "push" => file!("push.json"),
        "releases" => file!("releases.json"),
        "status_draining" => file!("status_draining.json"),
        "status_warm" => file!("status_warm.json"),
        _ => panic!("nothing was captured as {name}"),
    };
    serde_json::from_str(text).unwrap()
}

/// Streams, by name.
pub(crate) fn lines(name: &str) -> Vec<Value> {
    let text = match name {
        "failed_check" => file!("failed_check.ndjson"),
        "logs" => file!("logs.ndjson"),
        "push" => file!("push.ndjson"),
        _ => panic!("nothing was captured as {name}"),
    };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same with every moment moved by so much, as if it were told at another time.
pub(crate) fn moved(value: &Value, by_ms: i64) -> Value {
    const MOMENTS: [&str; 5] = ["since", "ending_since", "cut_at", "started", "watched_until"];
    match value {
        Value::Array(items) => items.iter().map(|v| moved(v, by_ms)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, v)| match (MOMENTS.contains(&key.as_str()), v.as_i64()) {
                (true, Some(at)) => (key.clone(), Value::from(at + by_ms)),
                _ => (key.clone(), moved(v, by_ms)),
            })
            .collect(),
        other => other.clone(),
    }
}
