//! `releases`: what is kept, what changed, the same on all hosts once; `releases clear vN` allows a bad one again.

mod merge;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::{AppName, Label};
use deployd_api::release::{ReleaseRow, ReleaseState};
use serde::Serialize;

use super::heard::{Heard, ask, settle};
use super::{CTL, Context, Host};
use crate::cli::{Releases, ReleasesCommand};
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::table::{Cell, Table, Tone, WIDTH, length};

use merge::{Merged, merge};

/// A host in JSON of a fleet.
#[derive(Debug, Serialize)]
struct HostJson<'a> {
    host: &'a str,
    releases: Option<&'a [ReleaseRow]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorBody>,
}

pub(crate) async fn run(context: &Context<'_>, args: &Releases) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let hosts = context.hosts()?;
    if let Some(ReleasesCommand::Clear { label }) = &args.command {
        return clear(context, &app, *label, &hosts).await;
    }
    let heard = fetch(&hosts, &app).await;
    let code = settle(&heard)?;
    if context.printer.is_json() {
        return print_json(context, &heard).map(|()| code);
    }
    for line in lines(&heard, &app, context.printer.colour_out()) {
        context.printer.data(&line)?;
    }
    for host in &heard {
        if let (Some(why), Err(error)) = (host.trouble(), &host.answer) {
            context.printer.talk(&format!("! {}: {why}: {}", host.host, error.message));
        }
    }
    Ok(code)
}

async fn fetch(hosts: &[Host], app: &AppName) -> Vec<Heard<Vec<ReleaseRow>>> {
    let path = format!("/apps/{app}/releases");
    let mut heard = ask(hosts, |client| {
        let path = path.clone();
        async move { client.get::<Vec<ReleaseRow>>(&path).await }
    })
    .await;
    for rows in heard.iter_mut().filter_map(|h| h.answer.as_mut().ok()) {
        rows.sort_by_key(|row| std::cmp::Reverse(row.label));
    }
    heard
}

fn print_json(context: &Context<'_>, heard: &[Heard<Vec<ReleaseRow>>]) -> Result<(), CtlError> {
    if let ([Heard { answer: Ok(rows), .. }], true) = (heard, context.global.local) {
        return context.printer.json(rows);
    }
    let hosts: Vec<_> = heard
        .iter()
        .map(|h| HostJson {
            host: &h.host,
            releases: h.answer.as_ref().ok().map(Vec::as_slice),
            error: h.answer.as_ref().err(),
        })
        .collect();
    context.printer.json(&hosts)
}

/// Clears it wherever it undid itself.
async fn clear(
    context: &Context<'_>,
    app: &AppName,
    label: Label,
    hosts: &[Host],
) -> Result<ExitCode, CtlError> {
    let path = format!("/apps/{app}/releases/{label}/clear");
    let (meant, missed) = if let [_] = hosts {
        (hosts.to_vec(), ExitCode::Ok)
    } else {
        let heard = fetch(hosts, app).await;
        let code = settle(&heard)?;
        let bad = where_bad(&heard, app, label)?;
        (hosts.iter().filter(|h| bad.contains(&h.name.as_str())).cloned().collect(), code)
    };
    let cleared = ask(&meant, |client| {
        let path = path.clone();
        async move { client.post::<Vec<ReleaseRow>>(&path).await }
    })
    .await;
    let failed = settle(&cleared)?;
    if context.printer.is_json() {
        print_json(context, &cleared)?;
    }
    let done: Vec<&str> = cleared.iter().filter(|h| h.answer.is_ok()).map(|h| h.host.as_str()).collect();
    let place = if hosts.len() > 1 { format!(" on {}", human::names(&done)) } else { String::new() };
    context.printer.last(&format!("{app} {label} may be deployed again{place}."))?;
    Ok(if failed == ExitCode::Ok { missed } else { failed })
}

/// The hosts where it undid itself, or else all that have it: they say why it cannot be cleared.
fn where_bad<'a>(
    heard: &'a [Heard<Vec<ReleaseRow>>],
    app: &AppName,
    label: Label,
) -> Result<Vec<&'a str>, CtlError> {
    let having = |wanted: &dyn Fn(&ReleaseRow) -> bool| -> Vec<&'a str> {
        let has =
            |h: &&Heard<Vec<ReleaseRow>>| h.answer.iter().flatten().any(|r| r.label == label && wanted(r));
        heard.iter().filter(has).map(|h| h.host.as_str()).collect()
    };
    let bad = having(&|row| row.state == ReleaseState::RolledBack);
    let hosts = if bad.is_empty() { having(&|_| true) } else { bad };
    if hosts.is_empty() {
        let what = format!("{app} has no release {label} on the hosts that answered");
        let hint = format!("{CTL} releases -a {app} lists them");
        return Err(CtlError::Answer(Box::new(ErrorBody::new(ErrorCode::ReleaseNotFound, what, hint))));
    }
    Ok(hosts)
}

fn lines(heard: &[Heard<Vec<ReleaseRow>>], app: &AppName, colour: bool) -> Vec<String> {
    let hosts: Vec<(&str, &[ReleaseRow])> =
        heard.iter().filter_map(|h| Some((h.host.as_str(), h.answer.as_ref().ok()?.as_slice()))).collect();
    let merged = merge(&hosts);
    let mut lines = table(&merged, hosts.len()).render(colour);
    let kept: Vec<Label> = merged.iter().filter(|m| m.is_kept()).map(|m| m.row.label).collect();
    let sum = |of: fn(&ReleaseRow) -> u64| {
        let each = || hosts.iter().map(|(_, rows)| rows.iter().map(of).sum::<u64>());
        let (least, most) = (each().min().unwrap_or(0), each().max().unwrap_or(0));
        if least == most { human::size(most) } else { format!("up to {}", human::size(most)) }
    };
    let each = if hosts.len() > 1 { " of each host" } else { "" };
    let (all, own) = (sum(|r| r.on_disk), sum(|r| r.own));
    let last = format!("{} kept for rollback, {all} on disk{each}, {own} of it not shared.", kept.len());
    let Some(newest) = kept.iter().max() else {
        lines.push(last);
        return lines;
    };
    let undo = format!("undo: {CTL} rollback -a {app} [{newest}]");
    // One line when it fits.
    if length(&last) + 3 + length(&undo) <= WIDTH {
        lines.push(format!("{last}   {undo}"));
    } else {
        lines.extend([last, undo]);
    }
    lines
}

fn table(merged: &[Merged<'_>], hosts: usize) -> Table {
    let differs = merged.iter().any(|m| m.differs(hosts));
    let header = ["REL", "STATE", "HOSTS", "WHEN", "BY", "GIT", "CHANGED"];
    let header: Vec<&str> = header.into_iter().filter(|name| differs || *name != "HOSTS").collect();
    let mut table = Table::new(&header);
    for release in merged {
        let row = release.row;
        let (state, tone) = release.state();
        let mut cells: Vec<Cell> = vec![
            row.label.to_string().into(),
            Cell(state, tone),
            human::when(row.created).into(),
            row.origin.by.as_str().into(),
            row.origin.git.as_deref().unwrap_or("-").into(),
            release.changed().into(),
        ];
        if differs {
            cells.insert(2, Cell(format!("{}/{hosts}", release.on.len()), Tone::Plain));
        }
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::{Digest, Timestamp};
    use deployd_api::release::Origin;

    use super::*;

    fn row(number: u32, state: ReleaseState) -> ReleaseRow {
        ReleaseRow {
            label: Label::new(number).unwrap(),
            digest: Digest::of(&number.to_le_bytes()),
            state,
            created: Timestamp(1_000_040_000_000),
            origin: Origin { by: "ops-1".into(), git: Some("8c1f2ab".into()) },
            changed: vec!["code".into()],
            reason: None,
            size: 1,
            on_disk: 306_000_000,
            own: 20_000_000,
        }
    }

    fn host(name: &str, rows: Vec<ReleaseRow>) -> Heard<Vec<ReleaseRow>> {
        Heard { host: name.into(), answer: Ok(rows) }
    }

    fn shop() -> AppName {
        "shop".parse().unwrap()
    }

    #[test]
    fn what_is_equal_on_all_hosts_is_one_row_without_hosts() {
        use ReleaseState::{Kept, Live};
        let rows = || vec![row(43, Live), row(42, Kept)];
        let heard = [host("web1", rows()), host("web2", rows())];
        assert_eq!(
            lines(&heard, &shop(), false),
            [
                "REL  STATE  WHEN        BY     GIT      CHANGED",
                "v43  live   9 Sep 2001  ops-1  8c1f2ab  code",
                "v42  kept   9 Sep 2001  ops-1  8c1f2ab  code",
                "1 kept for rollback, 612 MB on disk of each host, 40 MB of it not shared.",
                "undo: deployd-ctl rollback -a shop [v42]",
            ]
        );
    }

    #[test]
    fn a_mixed_fleet_is_told_where_it_differs() {
        use ReleaseState::{Kept, Live, RolledBack};
        let mut bad = row(44, RolledBack);
        bad.reason = Some("check deep failed".into());
        let gone = Err(ErrorBody::new(ErrorCode::AgentUnreachable, "m", "h"));
        let heard = [
            host("web1", vec![bad, row(43, Kept), row(42, Live)]),
            host("web2", vec![row(43, Live), row(42, Kept)]),
            host("web3", vec![row(43, Live), row(42, Kept)]),
            Heard { host: "web4".into(), answer: gone },
        ];
        let found = lines(&heard, &shop(), false);
        assert_eq!(
            found[..4],
            [
                "REL  STATE        HOSTS  WHEN        BY     GIT      CHANGED",
                "v44  rolled back  1/3    9 Sep 2001  ops-1  8c1f2ab  code; check deep failed",
                "v43  mixed        3/3    9 Sep 2001  ops-1  8c1f2ab  code; live on web2 web3, kept on web1",
                "v42  mixed        3/3    9 Sep 2001  ops-1  8c1f2ab  code; live on web1, kept on web2 web3",
            ]
        );
        assert!(found[4].starts_with("2 kept for rollback, up to 918 MB on disk of each host"), "{found:?}");
        let label = |n| Label::new(n).unwrap();
        assert_eq!(where_bad(&heard, &shop(), label(44)).unwrap(), ["web1"]);
        assert_eq!(where_bad(&heard, &shop(), label(43)).unwrap(), ["web1", "web2", "web3"]);
        assert_eq!(where_bad(&heard, &shop(), label(9)).unwrap_err().exit(), ExitCode::Usage);
    }

    #[test]
    fn a_label_of_two_releases_is_two_rows() {
        let other = ReleaseRow { digest: Digest::of(b"other"), ..row(43, ReleaseState::Live) };
        let heard = [host("web1", vec![row(43, ReleaseState::Live)]), host("web2", vec![other])];
        assert_eq!(
            lines(&heard, &shop(), false).iter().filter(|l| l.starts_with("v43  live   1/2")).count(),
            2
        );
    }
}
