//! The rows of `status`: a host, its releases and processes, and under each what a person should know. Pure.

use std::collections::BTreeMap;

use deployd_api::deployment::Deployment;
use deployd_api::status::{AppStatus, InstanceStatus, ProcessStatus, Role};

use super::Seen;
use crate::commands::heard::Heard;
use crate::human;
use crate::printer::Volume;
use crate::table::{Cell, Table, Tone, WIDTH, cut, length};

/// From so many hosts on, only those are shown that differ from the others.
const MANY_HOSTS: usize = 20;
/// Failures that are shown at the end.
const FAILURES_MAX: usize = 3;

/// Which hosts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Of many hosts those that differ.
    Different,
    All,
}

impl Which {
    pub(super) fn of(volume: Volume) -> Self {
        if volume == Volume::Verbose { Self::All } else { Self::Different }
    }
}

/// A row, and what stands under it.
type Row = (Vec<Cell>, Vec<String>);

/// All lines below the headline.
pub(super) fn lines(heard: &[Heard<Seen>], colour: bool, which: Which) -> Vec<String> {
    let usual = (which == Which::Different && heard.len() > MANY_HOSTS).then(|| usual(heard)).flatten();
    let is_shown = |h: &&Heard<Seen>| usual.is_none() || shape(h) != usual;
    let shown: Vec<&Heard<Seen>> = heard.iter().filter(is_shown).collect();
    let mut table =
        Table::new(&["HOST", "RELEASE", "PROCESS", "UP", "CHECKS", ">CONNS", ">CPU", "MEM/INST", "RESTARTS"]);
    let mut remarks = Vec::new();
    for host in &shown {
        for (cells, under) in host_rows(host, heard.len() > 1) {
            table.row(cells);
            remarks.push(under);
        }
    }
    let name = shown.iter().map(|h| length(&h.host)).max().unwrap_or(0).max(4);
    let indent = " ".repeat(name + 2);
    let rendered = table.render(colour);
    let mut lines = Vec::new();
    if !shown.is_empty() {
        lines.push(rendered[0].clone());
    }
    for (row, remarks) in rendered[1..].iter().zip(remarks) {
        lines.push(row.clone());
        lines.extend(remarks.iter().map(|r| cut(&format!("{indent}! {r}"), WIDTH)));
    }
    if let Some(usual) = usual {
        let others = (heard.len() - shown.len()) as u64;
        let the = if shown.is_empty() { "all" } else { "the other" };
        lines.push(cut(&format!("{the} {}: {usual}; each: -v", human::count(others)), WIDTH));
    }
    lines.extend(failures(heard));
    lines
}

/// What most hosts look like.
fn usual(heard: &[Heard<Seen>]) -> Option<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for shape in heard.iter().filter_map(shape) {
        *counts.entry(shape).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(shape, _)| shape)
}

/// What a host without anything to remark looks like in a line.
fn shape(heard: &Heard<Seen>) -> Option<String> {
    let app = &heard.answer.as_ref().ok()?.app;
    let mut parts = vec![format!("{}{}", release_of(app), if app.stopped { " stopped" } else { "" })];
    for process in sorted(app) {
        if !remarks(process).is_empty() || active(process) < process.wanted as usize {
            return None;
        }
        // Old releases end at their own pace: how many still do is no difference.
        if process.role == Role::Live {
            parts.push(format!("{} {}/{}", process.process, active(process), process.wanted));
        }
    }
    Some(parts.join(", "))
}

fn release_of(app: &AppStatus) -> String {
    app.live.map_or_else(|| "no release".to_owned(), |l| l.to_string())
}

fn sorted(app: &AppStatus) -> Vec<&ProcessStatus> {
    let mut processes: Vec<&ProcessStatus> = app.processes.iter().collect();
    processes.sort_by_key(|p| (p.role != Role::Live, std::cmp::Reverse(p.label), p.process.clone()));
    processes
}

/// A host of a fleet always has a row; a single one without processes has said all in the headline.
fn host_rows(heard: &Heard<Seen>, is_fleet: bool) -> Vec<Row> {
    let short = |release: &str, word: &str, tone| {
        vec![heard.host.as_str().into(), release.into(), Cell(word.to_owned(), tone)]
    };
    let seen = match &heard.answer {
        Ok(seen) => seen,
        Err(_) if heard.is_not_here() => return vec![(short("-", "-", Tone::Plain), Vec::new())],
        Err(error) => {
            let word = heard.trouble().unwrap_or("-");
            return vec![(short("-", word, Tone::Bad), vec![error.message.clone()])];
        }
    };
    let app = &seen.app;
    if app.processes.is_empty() && is_fleet {
        let word = if app.stopped { "stopped" } else { "-" };
        return vec![(short(&release_of(app), word, Tone::Warn), Vec::new())];
    }
    let first = |i| if i == 0 { heard.host.as_str() } else { "" };
    sorted(app).iter().enumerate().map(|(i, p)| (process_row(first(i), p), remarks(p))).collect()
}

/// What a person should know about a process and its instances.
fn remarks(process: &ProcessStatus) -> Vec<String> {
    let bad = process.checks.iter().filter(|(_, result)| result != "ok");
    let instances = process.instances.iter().filter_map(|i| remark(process, i));
    bad.map(|(name, why)| format!("{name}: {why}")).chain(instances).collect()
}

/// How the last deployments failed, the same on several hosts once.
fn failures(heard: &[Heard<Seen>]) -> Vec<String> {
    let mut found: Vec<(String, &Deployment, Vec<&str>)> = Vec::new();
    for host in heard {
        let Some(failed) = host.answer.as_ref().ok().and_then(|s| s.app.last_failure.as_ref()) else {
            continue;
        };
        let label = failed.label.map(|l| format!(" {l}")).unwrap_or_default();
        let why = failed.failure.as_ref().map(|f| format!(": {}", f.message)).unwrap_or_default();
        let verdict = failed.verdict.map(|v| v.to_string()).unwrap_or_default();
        let text = format!("{}{label} {verdict} {}{why}", failed.kind, human::when(failed.started));
        match found.iter_mut().find(|(other, ..)| *other == text) {
            Some((.., hosts)) => hosts.push(&host.host),
            None => found.push((text, failed, vec![&host.host])),
        }
    }
    found.sort_by_key(|(_, failed, _)| std::cmp::Reverse(failed.started));
    let line = |(text, _, hosts): &(String, &Deployment, Vec<&str>)| {
        let place = if heard.len() > 1 { format!(" on {}", human::names(hosts)) } else { String::new() };
        cut(&format!("last failure{place}: {text}"), WIDTH)
    };
    let lines: Vec<String> = found.iter().take(FAILURES_MAX).map(line).collect();
    if lines.is_empty() { lines } else { std::iter::once(String::new()).chain(lines).collect() }
}

pub(super) fn active(process: &ProcessStatus) -> usize {
    // One that was told to end still serves what it has.
    let ends = process.role == Role::Draining;
    let up = |state: &str| state == "active" || (ends && state == "deactivating");
    process.instances.iter().filter(|i| up(&i.active_state)).count()
}

fn process_row(host: &str, process: &ProcessStatus) -> Vec<Cell> {
    let now = human::now();
    let dash = || "-".to_owned();
    let instances = &process.instances;
    let good = active(process);
    let oldest = instances.iter().filter_map(|i| i.since).min();
    let up = match (process.role, oldest) {
        (Role::Draining, _) => {
            let since = instances.iter().filter_map(|i| i.ending_since).min();
            since.map_or("draining".to_owned(), |at| format!("draining {}", human::up(now.since_ms(at))))
        }
        (Role::Warm, _) => "warm".to_owned(),
        (Role::Candidate, _) => "on trial".to_owned(),
        (Role::Live, Some(since)) => human::up(now.since_ms(since)),
        (Role::Live, None) => dash(),
    };
    let memory = instances.iter().filter_map(|i| i.memory).max().map(human::memory);
    let memory = match (memory, process.memory_limit) {
        (Some(used), Some(limit)) => format!("{used} of {}", human::memory(limit)),
        (Some(used), None) => used,
        (None, _) => dash(),
    };
    let last = match (process.role, process.cut_at) {
        (Role::Draining, Some(at)) => format!("drain until {}", human::clock(at)),
        (Role::Draining, None) => "drain unlimited".to_owned(),
        _ => instances.iter().map(|i| i.restarts).sum::<u32>().to_string(),
    };
    let count = format!("{} {good}/{}", process.process, process.wanted);
    let count_tone = if good < process.wanted as usize { Tone::Warn } else { Tone::Plain };
    vec![
        host.into(),
        process.label.to_string().into(),
        Cell(count, count_tone),
        up.into(),
        checks(&process.checks),
        process.connections.map_or_else(dash, human::count).into(),
        cpu(instances).unwrap_or_else(dash).into(),
        memory.into(),
        last.into(),
    ]
}

/// `ok`, or the names of those that are not.
pub(super) fn checks<'a>(found: impl IntoIterator<Item = &'a (String, String)>) -> Cell {
    let (mut any, mut bad) = (false, Vec::new());
    for (name, result) in found {
        any = true;
        if result != "ok" && !bad.contains(&name.as_str()) {
            bad.push(name.as_str());
        }
    }
    match (any, bad.is_empty()) {
        (false, _) => "-".into(),
        (true, true) => Cell("ok".to_owned(), Tone::Good),
        (true, false) => Cell(format!("{} failed", bad.join(" ")), Tone::Bad),
    }
}

/// Share of one CPU a moment ago, over all instances.
fn cpu(instances: &[InstanceStatus]) -> Option<String> {
    let shares: Vec<f64> = instances.iter().filter_map(|i| i.cpu_percent).collect();
    (!shares.is_empty()).then(|| format!("{:.0} %", shares.iter().sum::<f64>()))
}

/// What a person should know about an instance.
fn remark(process: &ProcessStatus, instance: &InstanceStatus) -> Option<String> {
    let name = format!("{}@{}", process.process, instance.number);
    if instance.active_state != "active" {
        // What is told to end is no news.
        let ends = process.role == Role::Draining && instance.active_state == "deactivating";
        return (!ends).then(|| format!("{name} is {} ({})", instance.active_state, instance.sub_state));
    }
    (instance.restarts > 0).then(|| format!("{name} restarted {} times", instance.restarts))
}

#[cfg(test)]
mod tests {
    use deployd_api::error::{ErrorBody, ErrorCode};

    use super::super::made_up::{app, heard, host};
    use super::*;

    /// What an app that runs since 2001 shows for its time up depends on the day of the test.
    fn masked(heard: &[Heard<Seen>], which: Which) -> Vec<String> {
        let up =
            human::up(human::now().since_ms(deployd_api::ids::Timestamp(super::super::made_up::LONG_AGO)));
        let lines = lines(heard, false, which);
        lines
            .iter()
            .inspect(|l| assert!(length(l) <= WIDTH, "{l}"))
            .map(|l| l.replace(&up, "UP").replace(&format!("{:<1$}", "UP", length(&up)), "UP"))
            .collect()
    }

    #[test]
    fn each_host_has_a_row_and_what_is_wrong_stands_under_it() {
        let mut weak = app(42);
        weak.processes[0].instances[1].restarts = 4;
        let error = |code, text: &str| Err(ErrorBody::new(code, text, "h"));
        let hosts = [
            host("web1", Ok(app(43))),
            host("web2", Ok(weak)),
            host("web3", error(ErrorCode::AgentUnreachable, "10.0.0.13:7443 did not answer")),
            host("jobs1", error(ErrorCode::AppNotFound, "no app")),
        ];
        assert_eq!(
            masked(&hosts, Which::Different),
            [
                "HOST   RELEASE  PROCESS    UP  CHECKS  CONNS   CPU  MEM/INST        RESTARTS",
                "web1   v43      web 2/2    UP  ok        412  18 %  611 M of 1.0 G  0",
                "web2   v42      web 2/2    UP  ok        412  18 %  611 M of 1.0 G  4",
                "       ! web@2 restarted 4 times",
                "web3   -        no answer",
                "       ! 10.0.0.13:7443 did not answer",
                "jobs1  -        -",
            ]
        );
    }

    #[test]
    fn of_many_hosts_only_those_that_differ_have_rows() {
        let names: Vec<String> = (0..1000).map(|i| format!("h{i}")).collect();
        let mut hosts: Vec<Heard<Seen>> = names.iter().map(|name| host(name, Ok(app(43)))).collect();
        hosts[7] = host("h7", Ok(app(42)));
        hosts[8] = heard(&[("h8", None)]).remove(0);
        let lines = masked(&hosts, Which::Different);
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines[1].starts_with("h7    v42") && lines[2].starts_with("h8    no release"), "{lines:#?}");
        assert_eq!(lines[3], "the other 998: v43, web 2/2; each: -v");
        assert_eq!(masked(&hosts, Which::All).len(), 1001);
        let same = masked(&hosts[100..], Which::Different);
        assert_eq!(same, ["all 900: v43, web 2/2; each: -v"]);
    }
}
