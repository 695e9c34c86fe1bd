//! What the agent refuses, though no parser would have made it.

use serde_json::{Value, json};

use super::super::{Spec, parse};

const GOOD: &str = r#"
app = "shop"
[env]
PORT = "8080"
[processes.web]
exec = "bin/web"
writable = ["tmp", "var/cache@1+x-y_z.d"]
[processes.job]
exec = "bin/job"
after = ["web", "postgresql.service"]
[listen.http]
address = ":8080"
[listen.sock]
address = "/run/shop/s.sock"
process = "web"
[checks.health]
path = "/health"
listener = "http"
[checks.smoke]
command = "bin/smoke"
timeout = "10m"
"#;

fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut spec = serde_json::to_value(parse(GOOD).unwrap()).unwrap();
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    let spec: Spec = serde_json::from_value(spec).unwrap();
    spec.check().iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_parser_makes_is_right() {
    assert_eq!(parse(GOOD).unwrap().check(), []);
}

#[test]
fn what_would_end_up_in_a_unit_file_is_refused() {
    for (pointer, value, key) in [
        ("/env", json!({"A\nExecStartPre=/bin/x": "1"}), "env.A"),
        ("/env", json!({"": "1"}), "env."),
        ("/env", json!({"LISTEN_FDS": "3"}), "env.LISTEN_FDS"),
        ("/env", json!({"A": "x\0y"}), "env.A"),
        ("/processes", json!({}), "processes"),
        ("/processes/web/exec", json!([]), "processes.web.exec"),
        ("/processes/web/exec", json!([""]), "processes.web.exec"),
        ("/processes/web/instances", json!(4_294_967_295_u32), "processes.web.instances"),
        ("/processes/web/instances", json!(0), "processes.web.instances"),
        ("/processes/web/kill_signal", json!("SIGTERM\nUser=root"), "processes.web.kill_signal"),
        ("/processes/web/kill_signal", json!("SIGKILL"), "processes.web.kill_signal"),
        ("/processes/web/kill_timeout", json!(u64::MAX), "processes.web.kill_timeout"),
        ("/processes/web/writable", json!(["../etc"]), "processes.web.writable"),
        ("/processes/web/writable", json!(["/etc"]), "processes.web.writable"),
        ("/processes/web/writable", json!(["a b"]), "processes.web.writable"),
        ("/processes/web/writable", json!(["a:b"]), "processes.web.writable"),
        ("/processes/web/writable", json!(["a\nb"]), "processes.web.writable"),
        ("/processes/web/writable", json!([""]), "processes.web.writable"),
        ("/processes/job/after", json!(["x.service\nExecStart=/bin/x"]), "processes.job.after"),
        ("/processes/job/after", json!(["nobody"]), "processes.job.after"),
        ("/processes/job/after", json!(["job"]), "processes.job.after"),
        ("/listen/sock/address", json!({"unix": {"path": "/run/a\nExecStartPre=/x"}}), "listen.sock.address"),
        ("/listen/sock/address", json!({"unix": {"path": "run/a"}}), "listen.sock.address"),
        ("/listen/sock/address", json!({"any": {"port": 0}}), "listen.sock.address"),
        ("/listen/sock/address", json!({"any": {"port": 8080}}), "listen.sock.address"),
        ("/listen/sock/process", json!("nobody"), "listen.sock.process"),
        ("/checks/health/kind/listener", json!("nobody"), "checks.health.listener"),
        ("/checks/health/kind/path", json!("/a b"), "checks.health.path"),
        ("/checks/health/kind/method", json!("get it"), "checks.health.method"),
        ("/checks/health/kind/host", json!("a\r\nb"), "checks.health.host"),
        ("/checks/health/kind/headers", json!({"a b": "c"}), "checks.health.headers"),
        ("/checks/health/kind/status", json!([]), "checks.health.expect"),
        ("/checks/health/interval", json!(0), "checks.health.interval"),
        ("/checks/health/failures", json!(0), "checks.health.failures"),
        ("/checks/smoke/timeout", json!(600_001), "checks.smoke.timeout"),
        ("/checks/smoke/kind/process", json!("nobody"), "checks.smoke.process"),
        ("/deploy/wait_timeout", json!(0), "deploy.wait_timeout"),
        ("/deploy/monitor", json!(u64::MAX), "deploy.monitor"),
    ] {
        let faults = with(pointer, value.clone());
        assert!(faults.iter().any(|f| f.starts_with(key)), "{pointer} = {value}: {faults:?}");
    }
}

/// The parser tells the same, with its line.
#[test]
fn what_is_refused_has_a_line() {
    let said = |from: &str, to: &str| parse(&GOOD.replace(from, to)).unwrap_err().render("f");
    let long = said("timeout = \"10m\"", "timeout = \"11m\"");
    assert_eq!(long, "f:21: checks.smoke.timeout: `11m` is too long for one try; write at most \"10m\"");
    let folder = said("\"tmp\"", "\"my files\"");
    assert!(folder.starts_with("f:7: processes.web.writable: \"my files\" is not a folder"), "{folder}");
    let monitor = said("[env]", "[deploy]\nmonitor = \"400d\"\n[env]");
    assert!(monitor.starts_with("f:4: deploy.monitor: is too long"), "{monitor}");
}
