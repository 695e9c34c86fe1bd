//! Hosts and apps for tests of what is shown.

use deployd_api::error::ErrorBody;
use deployd_api::ids::{Label, Timestamp};
use deployd_api::release::Origin;
use deployd_api::status::{AppStatus, InstanceStatus, ProcessStatus, Role};

use super::Seen;
use crate::commands::heard::Heard;

/// 2001-09-09: long ago, so that it is printed as a day in any zone.
pub(super) const LONG_AGO: u64 = 1_000_040_000_000;

/// An app that serves one release with two instances.
pub(super) fn app(number: u32) -> AppStatus {
    let instance = |number| InstanceStatus {
        number,
        active_state: "active".into(),
        sub_state: "running".into(),
        pid: Some(1),
        since: Some(Timestamp(LONG_AGO)),
        ending_since: None,
        restarts: 0,
        memory: Some(611 << 20),
        cpu_us: None,
        cpu_percent: Some(9.0),
    };
    let label = Label::new(number).unwrap();
    let process = ProcessStatus {
        label,
        process: "web".parse().unwrap(),
        role: Role::Live,
        wanted: 2,
        instances: vec![instance(1), instance(2)],
        connections: Some(412),
        checks: vec![("deep".into(), "ok".into())],
        cut_at: None,
        memory_limit: Some(1 << 30),
    };
    AppStatus {
        app: "shop".parse().unwrap(),
        host: "as the host says".into(),
        live: Some(label),
        live_since: Some(Timestamp(LONG_AGO)),
        origin: Origin { by: "ops-1".into(), git: Some("8c1f2ab".into()) },
        committed: Some(Timestamp(LONG_AGO)),
        stopped: false,
        deployment: None,
        last_failure: None,
        processes: vec![process],
    }
}

/// A host with this answer.
pub(super) fn host(name: &str, answer: Result<AppStatus, ErrorBody>) -> Heard<Seen> {
    let seen = |app| Seen { app, lease: None, certificate: None };
    Heard { host: name.to_owned(), answer: answer.map(seen) }
}

/// Hosts that serve these releases; one without a release has the app and nothing of it.
pub(super) fn heard(hosts: &[(&str, Option<u32>)]) -> Vec<Heard<Seen>> {
    let of = |number: Option<u32>| match number {
        Some(number) => app(number),
        None => AppStatus { live: None, processes: Vec::new(), ..app(1) },
    };
    hosts.iter().map(|(name, number)| host(name, Ok(of(*number)))).collect()
}
