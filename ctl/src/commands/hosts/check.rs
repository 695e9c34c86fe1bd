//! `hosts check`: calls each host, tells what answers, and brings it the list of what is revoked.

use std::time::Instant;

use deployd_api::access::Role;
use deployd_api::exit::ExitCode;
use deployd_api::fleet::HostInfo;
use deployd_api::ids::Timestamp;
use serde::Serialize;

use super::join;
use crate::client::Client;
use crate::commands::{Context, pki};
use crate::error::CtlError;
use crate::fanout;
use crate::human;
use crate::pki::facts::{days_left, days_text};
use crate::pki::{Home, home};
use crate::table::{Cell, Table, Tone};

/// From here on a certificate's end is near.
const SOON_DAYS: i64 = 14;

struct Checked {
    info: HostInfo,
    took_ms: u64,
    at: Timestamp,
    /// What became of the list; `None` when there is none to send.
    list: Option<Result<(), CtlError>>,
}

/// A host, for `-o json`.
#[derive(Serialize)]
struct Row<'r> {
    host: &'r str,
    address: &'r str,
    reached_ms: Option<u64>,
    info: Option<&'r HostInfo>,
    crl_sent: bool,
    error: Option<deployd_api::error::ErrorBody>,
}

pub(super) async fn run(context: &Context<'_>, names: &[String]) -> Result<ExitCode, CtlError> {
    let hosts = if names.is_empty() { context.hosts()? } else { context.reached.hosts_named(names)? };
    let list = if context.global.local {
        None
    } else {
        Home::find().ok().map(|h| h.text(home::CRL)).transpose()?.flatten()
    };
    let answers = fanout::ask(&hosts, |client| check(client, list.clone())).await;
    let failed = answers.iter().filter_map(|(_, answer)| answer.as_ref().err());
    let code = failed.map(CtlError::exit).max_by_key(|c| *c as u8).unwrap_or(ExitCode::Ok);
    if context.printer.is_json() {
        let rows: Vec<Row<'_>> = answers
            .iter()
            .map(|(host, answer)| Row {
                host: &host.name,
                address: &host.address,
                reached_ms: answer.as_ref().ok().map(|c| c.took_ms),
                info: answer.as_ref().ok().map(|c| &c.info),
                crl_sent: answer.as_ref().is_ok_and(|c| matches!(c.list, Some(Ok(())))),
                error: answer.as_ref().err().map(CtlError::to_body),
            })
            .collect();
        context.printer.json(&rows)?;
        return Ok(code);
    }
    let mut table =
        Table::new(&["HOST", "ADDRESS", ">REACHED", "AGENT", "SYSTEMD", "CLOCK", ">CERT", "CRL", "OS"]);
    for (host, answer) in &answers {
        let mut row: Vec<Cell> = vec![host.name.as_str().into(), host.address.as_str().into()];
        match answer {
            Ok(checked) => row.extend(cells(checked)),
            Err(error) => {
                let word = if error.is_absence() { "no answer" } else { "refused" };
                row.push(Cell(word.to_owned(), Tone::Bad));
                row.extend((0..6).map(|_| Cell::from("-")));
            }
        }
        table.row(row);
    }
    for line in table.render(context.printer.colour_out()) {
        context.printer.data(&line)?;
    }
    let errors = answers.iter().filter_map(|(_, answer)| match answer {
        Err(error) => Some(error),
        Ok(checked) => checked.list.as_ref().and_then(|sent| sent.as_ref().err()),
    });
    let mut lines: Vec<String> = Vec::new();
    for error in errors {
        lines.extend(crate::failure::render(&error.to_body(), context.printer.colour_err()));
    }
    if code == ExitCode::Ok {
        for line in &lines {
            context.printer.talk(line);
        }
    } else {
        context.printer.fail(&lines, code);
    }
    Ok(code)
}

async fn check(client: Client, list: Option<String>) -> Result<Checked, CtlError> {
    let began = Instant::now();
    let info: HostInfo = client.get("/host").await?;
    let (took_ms, at) = (began.elapsed().as_millis() as u64, human::now());
    // Only an admin may; for others it is not a fault.
    let list = match list {
        Some(list) if info.roles.contains(&Role::Admin) => Some(pki::send_list(client, list).await),
        _ => None,
    };
    Ok(Checked { info, took_ms, at, list })
}

fn cells(checked: &Checked) -> Vec<Cell> {
    let info = &checked.info;
    let certificate = match &info.certificate {
        None => Cell::from("-"),
        Some(c) if days_left(c.not_after, checked.at) < SOON_DAYS => {
            Cell(days_text(c.not_after, checked.at), Tone::Warn)
        }
        Some(c) => days_text(c.not_after, checked.at).into(),
    };
    let list = match &checked.list {
        None => Cell::from("-"),
        Some(Ok(())) => "sent".into(),
        Some(Err(_)) => Cell("not sent".to_owned(), Tone::Bad),
    };
    let clock = join::clock(info, checked.at);
    let clock = clock.trim_start_matches("clock ").split(':').next().unwrap_or_default().to_owned();
    vec![
        human::took(checked.took_ms).into(),
        info.agent.as_str().into(),
        info.systemd.as_str().into(),
        clock.into(),
        certificate,
        list,
        info.os.as_str().into(),
    ]
}
