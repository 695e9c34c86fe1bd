//! When the steps of a deployment happened, as the agent's own journal tells it, on the clock of the load generator.
//!
//! Read from the event stream of the local API. Used by the demo and by benchmarks, to cut a recording of load into
//! the time in which deployd did something and the rest. Times are whole milliseconds: the journal has no finer ones.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::load::{Window, monotonic_ns};
use crate::machine::Host;
use crate::site::Site;

/// The agent's local socket.
const SOCKET: &str = "/run/deployd/deployd.sock";
/// The stream of a deployment that has ended comes at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps that only wait because the spec asks for it.
const WAITS: [&str; 2] = ["watch", "monitor"];
const MS: u64 = 1_000_000;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Stable word for its kind: `shift`.
    pub kind: String,
    /// In words.
    pub text: String,
    /// When it began.
    pub start_ns: u64,
    /// When it was done or had failed.
    pub end_ns: u64,
}

/// One deployment that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// When its plan was durable.
    pub accepted_ns: u64,
    /// When it had its verdict.
    pub finished_ns: u64,
    /// How it ended.
    pub verdict: String,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

impl Timeline {
    /// The last deployment of an app.
    pub fn of_last(site: &Site, app: &str) -> Result<Self> {
        Self::of_host(&site.host, app)
    }

    /// The same of any host.
    pub fn of_host(host: &Host, app: &str) -> Result<Self> {
        let story = host.ok(&format!("deployd journal show {app}"))?;
        let id = story.lines().next().and_then(|line| line.rsplit(' ').next()).context("an empty story")?;
        let socket = host.outside(SOCKET);
        let mut stream =
            UnixStream::connect(&socket).with_context(|| format!("failed to call {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET /v1/apps/{app}/deployments/{id}/events HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("the events of {id} do not end"))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "no events of {id}: {answer}");
        let wall = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        // Each event is a chunk of its own, so it stands on one line.
        let events = answer.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str);
        Self::from_events(&events.collect::<Result<Vec<Value>, _>>()?, wall.saturating_sub(monotonic_ns()))
    }

    /// `boot_ns` is the wall clock's time at the zero of the monotonic clock.
    fn from_events(events: &[Value], boot_ns: u64) -> Result<Self> {
        let at = |event: &Value| {
            let wall = event["at"].as_u64().context("an event without a time")?;
            anyhow::Ok((wall * MS).saturating_sub(boot_ns))
        };
        let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let first = events.first().context("a deployment without events")?;
        let mut line =
            Self { accepted_ns: at(first)?, finished_ns: 0, verdict: String::new(), steps: Vec::new() };
        for event in events {
            match event["type"].as_str().unwrap_or_default() {
                "step-started" => line.steps.push(Step {
                    kind: word(event, "kind"),
                    text: word(event, "text"),
                    start_ns: at(event)?,
                    end_ns: at(event)?,
                }),
                // `live` is how the end of the step that makes it live is told.
                "step-done" | "step-failed" | "live" => {
                    let step = line.steps.last_mut().context("the end of a step that never began")?;
                    step.end_ns = at(event)?;
                }
                "finished" => (line.finished_ns, line.verdict) = (at(event)?, word(event, "verdict")),
                _ => {}
            }
        }
        ensure!(!line.verdict.is_empty(), "the deployment has not ended");
        Ok(line)
    }

    /// The first step of a kind that began at this time or later.
    pub fn first_after(&self, kind: &str, time_ns: u64) -> Option<&Step> {
        self.steps.iter().find(|step| step.kind == kind && step.start_ns >= time_ns)
    }

    /// When all new connections went to the candidate.
    pub fn full_ns(&self) -> Option<u64> {
        let healthy = self.first_after("check", 0)?.end_ns;
        self.first_after("shift", healthy).map(|step| step.end_ns)
    }

    /// From the last check passed to all new connections, in milliseconds.
    pub fn healthy_to_full_ms(&self) -> Option<f64> {
        let healthy = self.first_after("check", 0)?.end_ns;
        Some(self.full_ns()?.saturating_sub(healthy) as f64 / MS as f64)
    }

    /// The time in which deployd did something: from the acceptance to `drained_ns` or the verdict, without the
    /// waits that the spec asks for.
    pub fn active(&self, drained_ns: u64) -> Vec<Window> {
        let mut windows = Vec::new();
        let mut start_ns = self.accepted_ns;
        for wait in self.steps.iter().filter(|step| WAITS.contains(&step.kind.as_str())) {
            windows.push(Window { start_ns, end_ns: wait.start_ns });
            start_ns = wait.end_ns;
        }
        windows.push(Window { start_ns, end_ns: self.finished_ns.max(drained_ns) });
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_become_steps_and_windows() {
        let step =
            |at: u64, kind: &str, what: &str| json!({"at": at, "type": what, "kind": kind, "text": kind});
        let events = [
            json!({"at": 100, "type": "accepted"}),
            step(101, "steer", "step-started"),
            step(102, "steer", "step-done"),
            step(103, "check", "step-started"),
            step(110, "check", "step-done"),
            step(111, "shift", "step-started"),
            step(113, "shift", "step-done"),
            step(114, "watch", "step-started"),
            step(214, "watch", "step-done"),
            step(215, "mark-live", "step-started"),
            json!({"at": 216, "type": "live"}),
            json!({"at": 220, "type": "finished", "verdict": "committed"}),
        ];
        let line = Timeline::from_events(&events, 50 * MS).expect("a deployment");
        assert_eq!((line.accepted_ns, line.finished_ns), (50 * MS, 170 * MS));
        assert_eq!((line.full_ns(), line.healthy_to_full_ms()), (Some(63 * MS), Some(3.0)));
        let windows = line.active(180 * MS);
        assert_eq!(windows.len(), 2);
        assert_eq!(
            (windows[0].end_ns, windows[1].start_ns, windows[1].end_ns),
            (64 * MS, 164 * MS, 180 * MS)
        );
        assert!(Timeline::from_events(&events[..5], 0).is_err(), "it has not ended");
    }
}
