//! `status` without an app: one row an app, over all hosts. Pure.

use std::collections::BTreeMap;

use deployd_api::ids::AppName;
use deployd_api::status::{AppStatus, ProcessStatus, Role};

use super::All;
use super::headline::{Group, groups};
use super::rows::{active, checks};
use crate::commands::CTL;
use crate::commands::heard::Heard;
use crate::human;
use crate::table::{Cell, Table, Tone, WIDTH, cut};

/// All lines.
pub(super) fn lines(heard: &[Heard<All>], colour: bool) -> Vec<String> {
    let mut apps: BTreeMap<&AppName, Vec<(&str, &AppStatus)>> = BTreeMap::new();
    for host in heard {
        for app in host.answer.iter().flat_map(|all| &all.apps) {
            apps.entry(&app.app).or_default().push((&host.host, app));
        }
    }
    let is_fleet = heard.len() > 1;
    let hosts: Vec<&str> = heard.iter().map(|h| h.host.as_str()).collect();
    let mut lines = if apps.is_empty() {
        vec![format!("no apps on {}; first: {CTL} push DIR", human::names(&hosts))]
    } else {
        let header =
            ["APP", "RELEASE", "HOSTS", "STATE", "SINCE", "BY", "GIT", "INSTANCES", "CHECKS", "DEPLOYMENT"];
        let header: Vec<&str> = header.into_iter().filter(|name| is_fleet || *name != "HOSTS").collect();
        let mut table = Table::new(&header);
        for (name, on) in &apps {
            let mut cells = row(name, on);
            if !is_fleet {
                cells.remove(2);
            }
            table.row(cells);
        }
        table.render(colour)
    };
    for host in heard {
        if let (Some(why), Err(error)) = (host.trouble(), &host.answer) {
            lines.push(cut(&format!("! {}: {why}: {}", host.host, error.message), WIDTH));
        }
    }
    lines
}

fn row(name: &AppName, on: &[(&str, &AppStatus)]) -> Vec<Cell> {
    let groups = groups(on.iter().copied());
    let (word, tone) = state(&groups);
    let dash = || "-".to_owned();
    let first = groups.first().and_then(|g| g.hosts.first()).map(|(_, app)| *app);
    let most = groups.first().map_or(0, |g| g.hosts.len());
    let live: Vec<&ProcessStatus> =
        on.iter().flat_map(|(_, app)| &app.processes).filter(|p| p.role == Role::Live).collect();
    let wanted: u32 = live.iter().map(|p| p.wanted).sum();
    let running: usize = live.iter().map(|p| active(p)).sum();
    let since = groups.first().and_then(|g| g.hosts.iter().filter_map(|(_, a)| a.live_since).max());
    let deployment = on.iter().find_map(|(_, app)| app.deployment.as_ref()).map(|d| {
        let label = d.label.map(|l| format!(" {l}")).unwrap_or_default();
        format!("{}{label}", d.kind)
    });
    vec![
        name.to_string().into(),
        first.and_then(|a| a.live).map_or_else(dash, |l| l.to_string()).into(),
        format!("{most}/{}", on.len()).into(),
        Cell(word.to_owned(), tone),
        since.map_or_else(dash, human::since).into(),
        first.map_or("", |a| a.origin.by.as_str()).into(),
        first.and_then(|a| a.origin.git.clone()).unwrap_or_else(dash).into(),
        format!("{running}/{wanted}").into(),
        checks(live.iter().flat_map(|p| &p.checks)),
        deployment.unwrap_or_else(dash).into(),
    ]
}

fn state(groups: &[Group<'_>]) -> (&'static str, Tone) {
    match groups {
        [one] => match (one.label, one.stopped) {
            (None, _) => ("new", Tone::Warn),
            (_, true) => ("stopped", Tone::Warn),
            (Some(_), false) => ("live", Tone::Good),
        },
        _ => ("mixed", Tone::Warn),
    }
}

#[cfg(test)]
mod tests {
    use deployd_api::error::{ErrorBody, ErrorCode};

    use super::super::made_up::app;
    use super::*;

    #[test]
    fn an_app_has_one_row_over_all_hosts() {
        let host =
            |name: &str, apps| Heard { host: name.to_owned(), answer: Ok(All { apps, certificate: None }) };
        let blog = AppStatus { app: "blog".parse().unwrap(), ..app(7) };
        let gone = Err(ErrorBody::new(ErrorCode::AgentUnreachable, "10.0.0.14:7443 did not answer", "h"));
        let heard = [
            host("web1", vec![app(43), blog]),
            host("web2", vec![app(43)]),
            host("web3", vec![app(42)]),
            Heard { host: "jobs1".to_owned(), answer: gone },
        ];
        assert_eq!(
            lines(&heard, false),
            [
                "APP   RELEASE  HOSTS  STATE  SINCE       BY     GIT      INSTANCES  CHECKS  DEPLOYMENT",
                "blog  v7       1/1    live   9 Sep 2001  ops-1  8c1f2ab  2/2        ok      -",
                "shop  v43      2/3    mixed  9 Sep 2001  ops-1  8c1f2ab  6/6        ok      -",
                "! jobs1: no answer: 10.0.0.14:7443 did not answer",
            ]
        );
    }
}
