//! `secrets list`: one row a name, over all hosts; and where they differ.

use std::collections::BTreeSet;

use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use deployd_api::secret::{SecretName, SecretRow};
use serde::Serialize;

use super::{Rows, hosts_of, look};
use crate::commands::Context;
use crate::error::CtlError;
use crate::human;
use crate::table::{Cell, Table, Tone};

#[derive(Debug, Serialize)]
struct OfHost<'a> {
    host: &'a str,
    secrets: Vec<&'a SecretRow>,
}

pub(super) async fn list(context: &Context<'_>, app: &AppName) -> Result<ExitCode, CtlError> {
    let (known, offline) = look(context, app, &hosts_of(context, app).await?).await?;
    if context.printer.is_json() {
        let set = |rows: &'_ [SecretRow]| -> Vec<SecretRow> {
            let set = rows.iter().filter(|r| !r.removed).cloned();
            // That is what `export` is for.
            set.map(|row| SecretRow { recovery: None, ..row }).collect()
        };
        let owned: Vec<(String, Vec<SecretRow>)> =
            known.iter().map(|(h, r)| (h.name.clone(), set(r))).collect();
        let all: Vec<OfHost<'_>> =
            owned.iter().map(|(host, rows)| OfHost { host, secrets: rows.iter().collect() }).collect();
        context.printer.json(&all)?;
    } else {
        let names = names(&known);
        let mut table = Table::new(&["NAME", "VERSION", "WHEN", "BY", "STATE"]);
        names.iter().filter_map(|name| row(&known, name)).for_each(|cells| table.row(cells));
        if names.is_empty() {
            context.printer.data(&format!("{app} has no secrets: deployd-ctl secrets set NAME -a {app}"))?;
        } else {
            for line in table.render(context.printer.colour_out()) {
                context.printer.data(&line)?;
            }
        }
    }
    for (host, error) in &offline {
        context.printer.talk(&format!("! {}: {error}", host.name));
    }
    Ok(if offline.is_empty() { ExitCode::Ok } else { ExitCode::Partial })
}

/// The highest version that any host knows; also of what was unset. 0 when none does.
pub(super) fn highest(known: &Rows, name: &SecretName) -> u32 {
    let rows = known.iter().flat_map(|(_, rows)| rows);
    rows.filter(|r| r.name == *name).map(|r| r.version).max().unwrap_or(0)
}

/// Names that are set on any host.
pub(super) fn names(known: &Rows) -> BTreeSet<SecretName> {
    known.iter().flat_map(|(_, rows)| rows).filter(|r| !r.removed).map(|r| r.name.clone()).collect()
}

fn row(known: &Rows, name: &SecretName) -> Option<Vec<Cell>> {
    let of = |rows: &[SecretRow]| rows.iter().find(|r| r.name == *name && !r.removed).cloned();
    let found: Vec<(&str, Option<SecretRow>)> =
        known.iter().map(|(host, rows)| (host.name.as_str(), of(rows))).collect();
    let newest = found.iter().filter_map(|(_, r)| r.as_ref()).max_by_key(|r| r.version)?.clone();
    let version = |r: &Option<SecretRow>| r.as_ref().map(|r| r.version);
    let agree = found.iter().all(|(_, r)| version(r) == Some(newest.version));
    let state = if agree {
        let live = found.iter().all(|(_, r)| r.as_ref().is_some_and(|r| r.live));
        if live { Cell("live".to_owned(), Tone::Good) } else { Cell("staged".to_owned(), Tone::Plain) }
    } else {
        let one = |(host, r): &(&str, Option<SecretRow>)| match version(r) {
            Some(version) => format!("{host} {version}"),
            None => format!("{host} none"),
        };
        let each: Vec<String> = found.iter().map(one).collect();
        Cell(format!("differs: {}", each.join(", ")), Tone::Warn)
    };
    let when = human::when(newest.set);
    Some(vec![name.as_str().into(), newest.version.to_string().into(), when.into(), newest.by.into(), state])
}
