//! `pki show`: who you are, which CA, and what was issued with how many days left.

use std::path::Path;

use deployd_api::exit::ExitCode;
use serde::Serialize;

use crate::commands::Context;
use crate::error::CtlError;
use crate::human;
use crate::pki::authority::certificate_facts;
use crate::pki::facts::{Facts, days_left, days_text};
use crate::pki::issued::{self, Issued};
use crate::pki::{Home, Identity, broken, home};
use crate::table::{Cell, Table, Tone};

/// From here on an end is near.
const SOON_DAYS: i64 = 14;

#[derive(Serialize)]
struct Shown {
    you: Facts,
    source: String,
    ca: Facts,
    /// Whether this folder can sign.
    ca_key: bool,
    issued: Vec<Issued>,
}

pub(super) fn run(context: &Context<'_>, file: Option<&Path>) -> Result<ExitCode, CtlError> {
    if let Some(path) = file {
        return show_file(context, path);
    }
    let given = context.global.identity.as_ref().map(|i| i.0.as_str());
    let own = Identity::find(given)?;
    let ca = Facts::of(own.ca()).map_err(|e| broken("read the CA of the identity", e))?;
    // A job of CI has an identity and no home.
    let home = Home::find().ok();
    let has = |home: &Home, name| home.has(name);
    let shown = Shown {
        source: own.source.clone(),
        you: own.facts,
        ca,
        ca_key: home.as_ref().is_some_and(|home| has(home, home::CA_KEY)),
        issued: home.as_ref().map(issued::read).transpose()?.unwrap_or_default(),
    };
    if context.printer.is_json() {
        context.printer.json(&shown)?;
        return Ok(ExitCode::Ok);
    }
    tell(context, &shown)?;
    Ok(ExitCode::Ok)
}

fn show_file(context: &Context<'_>, path: &Path) -> Result<ExitCode, CtlError> {
    let text = std::fs::read(path).map_err(|e| broken(&format!("read {}", path.display()), e))?;
    let facts = certificate_facts(&String::from_utf8_lossy(&text))?;
    if context.printer.is_json() {
        context.printer.json(&facts)?;
        return Ok(ExitCode::Ok);
    }
    for line in lines("certificate", &facts, &path.display().to_string()) {
        context.printer.data(&line)?;
    }
    Ok(ExitCode::Ok)
}

fn tell(context: &Context<'_>, shown: &Shown) -> Result<(), CtlError> {
    let printer = context.printer;
    for line in lines("you", &shown.you, &shown.source) {
        printer.data(&line)?;
    }
    let key = if shown.ca_key { "its key is here" } else { "its key is not here" };
    for line in lines("CA", &shown.ca, key) {
        printer.data(&line)?;
    }
    if shown.issued.is_empty() {
        return Ok(());
    }
    let now = human::now();
    let mut table = Table::new(&["NAME", "MAY", ">ENDS IN", "SERIAL"]);
    for issued in &shown.issued {
        let left = days_left(issued.not_after, now);
        let (text, tone) = match issued.revoked {
            Some(_) => ("revoked".to_owned(), Tone::Plain),
            None if left < 0 => ("ended".to_owned(), Tone::Plain),
            None if left < SOON_DAYS => (days_text(issued.not_after, now), Tone::Warn),
            None => (days_text(issued.not_after, now), Tone::Plain),
        };
        let what = issued.what();
        table.row(vec![
            issued.name.as_str().into(),
            what.into(),
            Cell(text, tone),
            issued.serial.as_str().into(),
        ]);
    }
    printer.data("")?;
    for line in table.render(printer.colour_out()) {
        printer.data(&line)?;
    }
    Ok(())
}

fn lines(head: &str, facts: &Facts, place: &str) -> [String; 4] {
    let may = match (&facts.host, facts.roles_text()) {
        (Some(host), _) => format!("host {host}"),
        (None, roles) if roles.is_empty() => "no roles".to_owned(),
        (None, roles) => roles,
    };
    let may = if head == "CA" { String::new() } else { format!(" ({may})") };
    let left = match days_text(facts.not_after, human::now()) {
        text if text == "ended" => "has ended".to_owned(),
        text => format!("{text} left"),
    };
    [
        format!("{head:<13}{}{may}, {left}, until {}", facts.name, human::when(facts.not_after)),
        format!("  from       {place}"),
        format!("  serial     {}", facts.serial),
        format!("  SHA-256    {}", facts.fingerprint),
    ]
}
