//! `hosts`: the hosts of the fleet, in and out, and whether they answer.

mod add;
mod check;
mod join;
mod remove;

use deployd_api::exit::ExitCode;

use super::Context;
use crate::cli::{Hosts, HostsCommand};
use crate::error::CtlError;
use crate::fleet;
use crate::table::Table;

pub(crate) async fn run(context: &Context<'_>, args: &Hosts) -> Result<ExitCode, CtlError> {
    // What calls nobody, or only asks and brings a list that may be brought twice.
    context.on_interrupt("stopped; nothing was changed.".to_owned());
    match &args.command {
        HostsCommand::Add(args) => add::run(context, args).await,
        HostsCommand::List => list(context),
        HostsCommand::Check { names } => check::run(context, names).await,
        HostsCommand::Remove { name, yes } => remove::run(context, name, *yes).await,
    }
}

/// Why a file could not be written, without what its error says of the rest.
fn because(error: &CtlError) -> String {
    let body = error.to_body();
    body.causes.into_iter().next().map_or(body.message, |(_, text)| text)
}

/// What the file says. No host is called.
fn list(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let fleet = fleet::find(context.global)?;
    let labels = |host: &fleet::FleetHost| {
        let pairs: Vec<String> = host.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        if pairs.is_empty() { "-".to_owned() } else { pairs.join(" ") }
    };
    if context.printer.is_json() {
        let hosts: Vec<serde_json::Value> = fleet
            .hosts
            .iter()
            .map(|h| {
                serde_json::json!({
                    "name": h.name, "address": h.address.to_string(), "groups": h.groups, "labels": h.labels,
                })
            })
            .collect();
        context.printer.json(&hosts)?;
        return Ok(ExitCode::Ok);
    }
    let mut table = Table::new(&["HOST", "ADDRESS", "GROUPS", "LABELS"]);
    for host in &fleet.hosts {
        let groups = if host.groups.is_empty() { "-".to_owned() } else { host.groups.join(" ") };
        table.row(vec![
            host.name.as_str().into(),
            host.address.to_string().into(),
            groups.into(),
            labels(host).into(),
        ]);
    }
    for line in table.render(context.printer.colour_out()) {
        context.printer.data(&line)?;
    }
    Ok(ExitCode::Ok)
}
