//! What `doctor` shows: who looks, a row a host, what was found, what passed. Pure.

use deployd_api::status::{Finding, Severity};

use super::own::CHECKS;
use super::{Met, Seen};
use crate::certificates::days_left;
use crate::commands::heard::Heard;
use crate::hint::runnable;
use crate::human;
use crate::table::{Cell, Table, Tone, WIDTH, length, wrap};

/// A finding, and where: an app or a path of the only host, or hosts.
#[derive(Debug)]
pub(super) struct Place<'a> {
    name: String,
    hosts: Vec<&'a str>,
    finding: &'a Finding,
}

/// `ctl 0.3.0; fleet.toml: 4 hosts; you are ops-1 (deployer/shop)`
pub(super) fn headline(heard: &[Heard<Seen>], is_fleet: bool) -> String {
    let mut parts = vec![format!("ctl {}", env!("CARGO_PKG_VERSION"))];
    if is_fleet {
        parts.push(format!("fleet.toml: {}", human::plural(heard.len() as u64, "host")));
    }
    if let Some(Met { info, .. }) = heard.iter().find_map(|h| h.answer.as_ref().ok()?.met.as_ref()) {
        let roles: Vec<String> = info.roles.iter().map(ToString::to_string).collect();
        parts.push(format!("you are {} ({})", info.caller, roles.join(", ")));
    }
    parts.join("; ")
}

/// A row a host. What no host told has no column.
pub(super) fn table(heard: &[Heard<Seen>], found: &[Vec<Finding>], is_fleet: bool) -> Table {
    let met = is_fleet || heard.iter().any(|h| h.answer.as_ref().is_ok_and(|s| s.met.is_some()));
    let header =
        ["HOST", "AGENT", "SYSTEMD", ">REACHED", ">CLOCK", "DISK FREE", ">CERT", ">APPS", "FINDINGS"];
    let told = |name: &&str| met || ![">REACHED", ">CLOCK", ">CERT"].contains(name);
    let mut table = Table::new(&header.into_iter().filter(told).collect::<Vec<_>>());
    for (host, own) in heard.iter().zip(found) {
        // With one host ours are among its own already.
        let own = if is_fleet { own.as_slice() } else { &[] };
        let cells = row(host, own);
        table.row(header.iter().zip(cells).filter(|(name, _)| told(name)).map(|(_, cell)| cell).collect());
    }
    table
}

fn row(host: &Heard<Seen>, own: &[Finding]) -> Vec<Cell> {
    let dash = || Cell::from("-");
    let Ok(seen) = &host.answer else {
        let reached = Cell(host.trouble().unwrap_or("-").to_owned(), Tone::Bad);
        let count = count(own.iter());
        let name = Cell::from(host.host.as_str());
        return vec![name, dash(), dash(), reached, dash(), dash(), dash(), dash(), count];
    };
    let (report, met) = (&seen.report, seen.met.as_ref());
    let days = met.and_then(|m| m.info.certificate.as_ref()).map(|c| days_left(c, human::now()));
    vec![
        host.host.as_str().into(),
        report.agent.as_str().into(),
        report.systemd.as_str().into(),
        met.map_or_else(dash, |m| format!("{} ms", m.reached_ms).into()),
        met.map_or_else(dash, |m| difference(m.clock_ms).into()),
        format!("{} of {}", human::size(report.disk_free), human::size(report.disk_total)).into(),
        days.map_or_else(dash, |days| format!("{days} d").into()),
        report.apps.to_string().into(),
        count(report.findings.iter().chain(own)),
    ]
}

/// `+3 ms`, `-1h00m`.
fn difference(ms: i64) -> String {
    let sign = if ms < 0 { '-' } else { '+' };
    let size = ms.unsigned_abs();
    if size < 1000 { format!("{sign}{size} ms") } else { format!("{sign}{}", human::up(size)) }
}

fn count<'a>(findings: impl Iterator<Item = &'a Finding>) -> Cell {
    let (mut errors, mut warnings) = (0, 0);
    for finding in findings {
        match finding.severity {
            Severity::Error => errors += 1,
            Severity::Warn => warnings += 1,
        }
    }
    let parts: Vec<String> = [(errors, "error"), (warnings, "warning")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| human::plural(*n, word))
        .collect();
    let tone = match (errors, warnings) {
        (1.., _) => Tone::Bad,
        (0, 1..) => Tone::Warn,
        (0, 0) => Tone::Plain,
    };
    Cell(if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }, tone)
}

/// All findings, errors first, the same on several hosts once.
pub(super) fn places<'a>(
    heard: &'a [Heard<Seen>],
    found: &'a [Vec<Finding>],
    is_fleet: bool,
) -> Vec<Place<'a>> {
    let mut places: Vec<Place<'a>> = Vec::new();
    for (host, own) in heard.iter().zip(found) {
        let report = host.answer.iter().flat_map(|seen| &seen.report.findings);
        let own = if is_fleet { own.as_slice() } else { &[] };
        for finding in report.chain(own) {
            let same = |p: &&mut Place<'_>| {
                let key = |f: &Finding| {
                    (f.severity, f.code.clone(), f.subject.clone(), f.what.clone(), f.next.clone())
                };
                key(p.finding) == key(finding)
            };
            match places.iter_mut().find(same) {
                Some(place) => place.hosts.push(&host.host),
                None => places.push(Place { name: String::new(), hosts: vec![&host.host], finding }),
            }
        }
    }
    for place in &mut places {
        let subject = place.finding.subject.as_str();
        place.name = if is_fleet {
            format!("{} {subject}", human::names(&place.hosts)).trim_end().to_owned()
        } else {
            subject.to_owned()
        };
    }
    places.sort_by_key(|place| place.finding.severity);
    places
}

/// A block a finding: what, and what to do.
pub(super) fn findings(places: &[Place<'_>], colour: bool) -> Vec<String> {
    let width = |of: &dyn Fn(&Place<'_>) -> usize| places.iter().map(of).max().unwrap_or(0);
    let (code, place) = (width(&|p| length(&p.finding.code)), width(&|p| length(&p.name)));
    let indent = 7 + code + 2 + place + 2;
    let mut lines = Vec::new();
    for found in places {
        let finding = found.finding;
        let (word, tone) = match finding.severity {
            Severity::Error => ("error", Tone::Bad),
            Severity::Warn => ("warn ", Tone::Warn),
        };
        let head = format!("{}  {:<code$}  {:<place$}  ", tone.paint(word, colour), finding.code, found.name);
        let max = WIDTH.saturating_sub(indent).max(30);
        let text = wrap(&runnable(&finding.what), max).into_iter().chain(wrap(&runnable(&finding.next), max));
        for (i, line) in text.enumerate() {
            let lead = if i == 0 { head.clone() } else { " ".repeat(indent) };
            lines.push(format!("{lead}{line}").trim_end().to_owned());
        }
    }
    lines
}

/// The checks that passed on every host that was reached; ours, when they found nothing.
pub(super) fn passed<'a>(heard: &'a [Heard<Seen>], found: &[Vec<Finding>], is_fleet: bool) -> Vec<&'a str> {
    let reports: Vec<_> = heard.iter().filter_map(|h| Some(&h.answer.as_ref().ok()?.report)).collect();
    let first = reports.first().map(|r| r.passed.as_slice()).unwrap_or_default();
    let everywhere = |name: &&String| reports.iter().all(|r| r.passed.contains(name));
    let mut passed: Vec<&str> = first.iter().filter(everywhere).map(String::as_str).collect();
    if is_fleet {
        let is_found = |code: &str| found.iter().flatten().any(|f| f.code == code);
        passed.extend(CHECKS.iter().filter(|(code, _)| !is_found(code)).map(|(_, name)| *name));
    }
    passed
}

#[cfg(test)]
mod tests {
    use deployd_api::error::{ErrorBody, ErrorCode};
    use deployd_api::fleet::{CertificateInfo, HostInfo};
    use deployd_api::ids::Timestamp;
    use deployd_api::status::DoctorReport;

    use super::super::own;
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn host(name: &str, agent: &str, cert_days: u64, clock_ms: i64, findings: Vec<Finding>) -> Heard<Seen> {
        let now = human::now();
        let report = DoctorReport {
            host: name.into(),
            agent: agent.into(),
            systemd: "252".into(),
            disk_free: 31_000_000_000,
            disk_total: 40_000_000_000,
            apps: 2,
            findings,
            passed: vec!["units".into(), "journal".into()],
        };
        let certificate = CertificateInfo {
            serial: "00".into(),
            not_before: Timestamp(0),
            not_after: Timestamp(now.0 + cert_days * DAY + DAY / 2),
        };
        let info = HostInfo {
            host: name.into(),
            agent: agent.into(),
            systemd: "252".into(),
            os: "Debian".into(),
            arch: "x86_64".into(),
            glibc: None,
            cpus: 2,
            memory_total: 0,
            memory_available: 0,
            disk_free: 0,
            disk_total: 0,
            now,
            certificate: Some(certificate),
            caller: "ops-1".into(),
            roles: vec!["deployer/shop".parse().unwrap()],
        };
        let met = Some(Met { info, reached_ms: 11, clock_ms });
        Heard { host: name.into(), answer: Ok(Seen { report, met }) }
    }

    #[test]
    fn a_fleet_is_looked_at_as_one() {
        let ours = env!("CARGO_PKG_VERSION");
        let leftover = || Finding {
            severity: Severity::Warn,
            code: "tree_left".into(),
            subject: "shop".into(),
            what: "the tree v7 belongs to no release".into(),
            next: "rm -r /x".into(),
        };
        let gone =
            ErrorBody::new(ErrorCode::AgentUnreachable, "10.0.0.14:7443 did not answer in 5 s", "start it");
        let heard = [
            host("web1", ours, 88, 3, vec![leftover()]),
            host("web2", ours, 6, -12_000, vec![leftover()]),
            Heard { host: "jobs1".into(), answer: Err(gone) },
        ];
        let found: Vec<Vec<Finding>> = heard.iter().map(|h| own::findings(h, human::now())).collect();
        assert_eq!(
            headline(&heard, true),
            format!("ctl {ours}; fleet.toml: 3 hosts; you are ops-1 (deployer/shop)")
        );
        assert_eq!(
            table(&heard, &found, true).render(false),
            [
                "HOST   AGENT  SYSTEMD    REACHED  CLOCK  DISK FREE       CERT  APPS  FINDINGS".to_owned(),
                format!("web1   {ours}  252          11 ms  +3 ms  31 GB of 40 GB  88 d     2  1 warning"),
                format!("web2   {ours}  252          11 ms   -12s  31 GB of 40 GB   6 d     2  3 warnings"),
                "jobs1  -      -        no answer      -  -                  -     -  1 error".to_owned(),
            ]
        );
        assert_eq!(
            findings(&places(&heard, &found, true), false),
            [
                "error  unreachable       jobs1           10.0.0.14:7443 did not answer in 5 s",
                "                                         start it",
                "warn   tree_left         web1 web2 shop  the tree v7 belongs to no release",
                "                                         rm -r /x",
                "warn   clock_skew        web2            its clock is 12s behind yours",
                "                                         set the one that is wrong: timedatectl set-ntp true",
                "warn   certificate_ends  web2            the host's certificate ends in 6 days",
                "                                         deployd-ctl pki renew web2",
            ]
        );
        assert_eq!(passed(&heard, &found, true), ["units", "journal", "versions"]);
    }
}
