//! `releases`: what is kept, what changed; `releases clear vN` allows a bad one again.

use deployd_api::exit::ExitCode;
use deployd_api::release::{ReleaseRow, ReleaseState};

use super::{CTL, Context};
use crate::cli::{Releases, ReleasesCommand};
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::table::{Cell, Table, Tone};

pub(crate) async fn run(context: &Context<'_>, args: &Releases) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    if let Some(ReleasesCommand::Clear { label }) = &args.command {
        let path = format!("/apps/{app}/releases/{label}/clear");
        let rows: Vec<ReleaseRow> = context.client.post(&path).await?;
        if context.printer.is_json() {
            context.printer.json(&rows)?;
        }
        context.printer.last(&format!("{app} {label} may be deployed again."))?;
        return Ok(ExitCode::Ok);
    }
    let mut rows: Vec<ReleaseRow> = context.client.get(&format!("/apps/{app}/releases")).await?;
    rows.sort_by_key(|row| std::cmp::Reverse(row.label));
    if context.printer.is_json() {
        context.printer.json(&rows)?;
        return Ok(ExitCode::Ok);
    }
    for line in table(&rows).render(context.printer.colour_out()) {
        context.printer.data(&line)?;
    }
    let kept = rows.iter().filter(|r| r.state == ReleaseState::Kept).count();
    let sum = |of: fn(&ReleaseRow) -> u64| human::size(rows.iter().map(of).sum());
    let (all, own) = (sum(|r| r.on_disk), sum(|r| r.own));
    context.printer.data(&format!("{kept} kept for rollback, {all} on disk, {own} of it not shared."))?;
    if kept > 0 {
        context.printer.data(&format!("undo: {CTL} rollback -a {app} [vN]"))?;
    }
    Ok(ExitCode::Ok)
}

fn table(rows: &[ReleaseRow]) -> Table {
    let mut table = Table::new(&["REL", "STATE", "WHEN", "BY", "GIT", "CHANGED"]);
    for row in rows {
        let tone = match row.state {
            ReleaseState::Live => Tone::Good,
            ReleaseState::RolledBack => Tone::Bad,
            ReleaseState::Candidate => Tone::Warn,
            ReleaseState::Kept => Tone::Plain,
        };
        let mut changed = row.changed.join(", ");
        if let Some(reason) = &row.reason {
            changed = [changed.as_str(), reason]
                .iter()
                .filter(|t| !t.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join("; ");
        }
        table.row(vec![
            row.label.to_string().into(),
            Cell(row.state.to_string(), tone),
            human::when(row.created).into(),
            row.origin.by.as_str().into(),
            row.origin.git.as_deref().unwrap_or("-").into(),
            changed.into(),
        ]);
    }
    table
}
