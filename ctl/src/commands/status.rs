//! `status`: what runs, one row a release and process; without an app one row an app.

use deployd_api::exit::ExitCode;
use deployd_api::status::{AppStatus, InstanceStatus, ProcessStatus, Role};

use super::{CTL, Context};
use crate::cli::Status;
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::table::{Cell, Table, Tone, WIDTH, cut, wrap};

pub(crate) async fn run(context: &Context<'_>, args: &Status) -> Result<ExitCode, CtlError> {
    let printer = context.printer;
    let app = if args.all { None } else { project::find_app(context.global)? };
    let Some(app) = app else {
        let apps: Vec<AppStatus> = context.client.get("/apps").await?;
        if printer.is_json() {
            printer.json(&apps)?;
            return Ok(ExitCode::Ok);
        }
        if apps.is_empty() {
            printer.data(&format!("no apps on {}; first: {CTL} push DIR", context.host))?;
            return Ok(ExitCode::Ok);
        }
        for line in apps_table(&apps).render(printer.colour_out()) {
            printer.data(&line)?;
        }
        return Ok(ExitCode::Ok);
    };
    let status: AppStatus = context.client.get(&format!("/apps/{app}")).await?;
    if printer.is_json() {
        printer.json(&status)?;
        return Ok(ExitCode::Ok);
    }
    for line in wrap(&headline(&status), WIDTH) {
        printer.data(&line)?;
    }
    if printer.volume != crate::printer::Volume::Quiet {
        printer.data("")?;
        for line in process_lines(&status, printer.colour_out()) {
            printer.data(&line)?;
        }
    }
    Ok(ExitCode::Ok)
}

/// What is true now, in one line.
fn headline(status: &AppStatus) -> String {
    let (app, host) = (&status.app, &status.host);
    let Some(live) = status.live else {
        let what = if status.deployment.is_some() { "gets its first release" } else { "has no release" };
        return format!("{app} {what} on {host}. {}", lease(status));
    };
    let state = if status.stopped { "stopped" } else { "live" };
    let since = status.live_since.map(|at| format!(" since {}", human::since(at))).unwrap_or_default();
    let git = status.origin.git.as_ref().map(|git| format!(", git {git}")).unwrap_or_default();
    let by = if status.origin.by.is_empty() { "unknown" } else { &status.origin.by };
    let committed = match status.committed {
        Some(at) => format!("committed {}", human::since(at)),
        None => match status.deployment.as_ref().and_then(|d| d.watched_until) {
            Some(until) => format!("watched until {}", human::clock(until)),
            None => "not committed".to_owned(),
        },
    };
    format!("{app} {live} {state} on {host}{since} ({by}{git}), {committed}. {}", lease(status))
}

/// Whether a push would have to wait.
fn lease(status: &AppStatus) -> String {
    let Some(deployment) = &status.deployment else { return "Free to push.".to_owned() };
    let label = deployment.label.map(|l| format!(" {l}")).unwrap_or_default();
    let step = deployment.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default();
    let since = human::clock(deployment.started);
    format!("{}{label} by {} since {since}{step}.", deployment.kind, deployment.origin.by)
}

fn apps_table(apps: &[AppStatus]) -> Table {
    let mut table =
        Table::new(&["APP", "RELEASE", "STATE", "SINCE", "BY", "GIT", "INSTANCES", "CHECKS", "DEPLOYMENT"]);
    for status in apps {
        let (state, tone) = match (status.live, status.stopped) {
            (None, _) => ("new", Tone::Warn),
            (_, true) => ("stopped", Tone::Warn),
            (Some(_), false) => ("live", Tone::Good),
        };
        let live: Vec<&ProcessStatus> = status.processes.iter().filter(|p| p.role == Role::Live).collect();
        let active: usize = live.iter().map(|p| active(p)).sum();
        let wanted: u32 = live.iter().map(|p| p.wanted).sum();
        let dash = || "-".to_owned();
        let deployment = status.deployment.as_ref().map(|d| {
            let label = d.label.map(|l| format!(" {l}")).unwrap_or_default();
            format!("{}{label}", d.kind)
        });
        table.row(vec![
            status.app.to_string().into(),
            status.live.map_or_else(dash, |l| l.to_string()).into(),
            Cell(state.to_owned(), tone),
            status.live_since.map_or_else(dash, human::since).into(),
            status.origin.by.as_str().into(),
            status.origin.git.clone().unwrap_or_else(dash).into(),
            format!("{active}/{wanted}").into(),
            checks(live.iter().flat_map(|p| &p.checks)),
            deployment.unwrap_or_else(dash).into(),
        ]);
    }
    table
}

fn active(process: &ProcessStatus) -> usize {
    // One that was told to end still serves what it has.
    let ends = process.role == Role::Draining;
    let up = |state: &str| state == "active" || (ends && state == "deactivating");
    process.instances.iter().filter(|i| up(&i.active_state)).count()
}

fn process_lines(status: &AppStatus, colour: bool) -> Vec<String> {
    let mut table =
        Table::new(&["HOST", "RELEASE", "PROCESS", "UP", "CHECKS", ">CONNS", ">CPU", "MEM/INST", "RESTARTS"]);
    let mut processes: Vec<&ProcessStatus> = status.processes.iter().collect();
    processes.sort_by_key(|p| (p.role != Role::Live, std::cmp::Reverse(p.label), p.process.clone()));
    let mut remarks = Vec::new();
    for (i, process) in processes.iter().enumerate() {
        table.row(process_row(if i == 0 { &status.host } else { "" }, process));
        let instances = process.instances.iter().filter_map(|i| remark(process, i));
        let bad = process.checks.iter().filter(|(_, result)| result != "ok");
        remarks.push(bad.map(|(name, why)| format!("{name}: {why}")).chain(instances).collect::<Vec<_>>());
    }
    let rows = table.render(colour);
    let indent = " ".repeat(status.host.chars().count().max(4) + 2);
    let mut lines = rows[..1].to_vec();
    for (row, remarks) in rows[1..].iter().zip(remarks) {
        lines.push(row.clone());
        lines.extend(remarks.iter().map(|r| cut(&format!("{indent}! {r}"), WIDTH)));
    }
    if let Some(failed) = &status.last_failure {
        let label = failed.label.map(|l| format!(" {l}")).unwrap_or_default();
        let why = failed.failure.as_ref().map(|f| format!(": {}", f.message)).unwrap_or_default();
        let verdict = failed.verdict.map(|v| v.to_string()).unwrap_or_default();
        let when = human::when(failed.started);
        lines.push(String::new());
        lines.push(cut(&format!("last failure: {}{label} {verdict} {when}{why}", failed.kind), WIDTH));
    }
    lines
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
fn checks<'a>(found: impl IntoIterator<Item = &'a (String, String)>) -> Cell {
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
