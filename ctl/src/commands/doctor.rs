//! `doctor`: what is wrong with the hosts, errors first: what each finds itself, and what only a caller can see.

mod own;
mod show;

use std::time::Instant;

use deployd_api::error::ErrorBody;
use deployd_api::exit::ExitCode;
use deployd_api::fleet::HostInfo;
use deployd_api::ids::Timestamp;
use deployd_api::status::{DoctorReport, Finding};
use serde::Serialize;

use super::Context;
use super::heard::{Heard, ask, settle};
use crate::client::Client;
use crate::error::CtlError;
use crate::human;
use crate::printer::Volume;
use crate::table::{WIDTH, wrap};

/// What a host tells, and how it was met.
#[derive(Debug)]
struct Seen {
    report: DoctorReport,
    /// `None` of an agent that does not tell.
    met: Option<Met>,
}

/// A call that was timed.
#[derive(Debug)]
struct Met {
    info: HostInfo,
    reached_ms: u64,
    /// How far its clock is before ours.
    clock_ms: i64,
}

/// A host in JSON of a fleet.
#[derive(Debug, Serialize)]
struct HostJson<'a> {
    host: &'a str,
    reached_ms: Option<u64>,
    clock_ms: Option<i64>,
    info: Option<&'a HostInfo>,
    report: Option<&'a DoctorReport>,
    /// What only the caller sees.
    findings: &'a [Finding],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorBody>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let hosts = context.hosts()?;
    let mut heard = ask(&hosts, look).await;
    if context.global.local {
        settle(&heard)?;
    }
    let found: Vec<Vec<Finding>> = heard.iter().map(|h| own::findings(h, human::now())).collect();
    if context.global.local {
        // A single host: one report, the form that it always had.
        for (host, own) in heard.iter_mut().zip(&found) {
            host.answer.iter_mut().for_each(|seen| seen.report.findings.extend(own.iter().cloned()));
        }
    }
    let well = found.iter().all(Vec::is_empty)
        && heard.iter().all(|h| h.answer.as_ref().is_ok_and(|seen| seen.report.findings.is_empty()));
    let code = if well { ExitCode::Ok } else { ExitCode::Findings };
    if context.printer.is_json() {
        return print_json(context, &heard, &found).map(|()| code);
    }
    print(context, &heard, &found)?;
    if code != ExitCode::Ok {
        context.printer.talk(&format!("exit {}", code as u8));
    }
    Ok(code)
}

/// Looks at one host: what it is, timed, and what it finds.
async fn look(client: Client) -> Result<Seen, CtlError> {
    let (before, clock) = (human::now(), Instant::now());
    let info = client.get::<HostInfo>("/host").await;
    let reached_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
    let met = match info {
        Ok(info) => {
            let clock_ms = ahead(before, reached_ms, info.now);
            Some(Met { info, reached_ms, clock_ms })
        }
        // Older agents do not know the question.
        Err(CtlError::Answer(body)) if body.code.http_status() == 404 => None,
        Err(error) => return Err(error),
    };
    Ok(Seen { report: client.get("/doctor").await?, met })
}

/// How far the host's clock is before ours, when it was read half-way through the call.
fn ahead(before: Timestamp, round_trip_ms: u64, host: Timestamp) -> i64 {
    host.0 as i64 - (before.0 + round_trip_ms / 2) as i64
}

fn print(context: &Context<'_>, heard: &[Heard<Seen>], found: &[Vec<Finding>]) -> Result<(), CtlError> {
    let printer = context.printer;
    let is_fleet = !context.global.local;
    if printer.volume != Volume::Quiet {
        printer.data(&show::headline(heard, is_fleet))?;
        printer.data("")?;
        for line in show::table(heard, found, is_fleet).render(printer.colour_out()) {
            printer.data(&line)?;
        }
        printer.data("")?;
    }
    let places = show::places(heard, found, is_fleet);
    let lines = show::findings(&places, printer.colour_out());
    for line in &lines {
        printer.data(line)?;
    }
    if !lines.is_empty() {
        printer.data("")?;
    }
    let passed = show::passed(heard, found, is_fleet);
    let count = human::plural(passed.len() as u64, "check");
    for line in wrap(&format!("{count} passed: {}", passed.join(", ")), WIDTH) {
        printer.data(&line)?;
    }
    Ok(())
}

fn print_json(context: &Context<'_>, heard: &[Heard<Seen>], found: &[Vec<Finding>]) -> Result<(), CtlError> {
    if let ([Heard { answer: Ok(seen), .. }], true) = (heard, context.global.local) {
        return context.printer.json(&seen.report);
    }
    let hosts: Vec<_> = heard
        .iter()
        .zip(found)
        .map(|(h, findings)| {
            let seen = h.answer.as_ref().ok();
            let met = seen.and_then(|s| s.met.as_ref());
            HostJson {
                host: &h.host,
                reached_ms: met.map(|m| m.reached_ms),
                clock_ms: met.map(|m| m.clock_ms),
                info: met.map(|m| &m.info),
                report: seen.map(|s| &s.report),
                findings,
                error: h.answer.as_ref().err(),
            }
        })
        .collect();
    context.printer.json(&hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_was_read_half_way() {
        for (before, trip, host, want) in [(1000, 20, 1010, 0), (1000, 20, 1013, 3), (1000, 0, 400, -600)] {
            assert_eq!(ahead(Timestamp(before), trip, Timestamp(host)), want);
        }
    }
}
