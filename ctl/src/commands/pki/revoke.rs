//! `pki revoke`: into the list of what is revoked, and the list to every host.

use deployd_api::exit::ExitCode;

use super::{names, open_authority, send_list};
use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::fanout;
use crate::human;
use crate::pki::authority::Authority;
use crate::pki::issued::{self, Issued};
use crate::pki::{Home, Identity, home};

pub(super) async fn run(context: &Context<'_>, what: &str) -> Result<ExitCode, CtlError> {
    let home = Home::find()?;
    let mut list = issued::read(&home)?;
    let chosen: Vec<Issued> = issued::meant(&mut list, what).into_iter().map(|i| i.clone()).collect();
    if chosen.is_empty() {
        return Err(CtlError::Usage {
            message: format!("nothing that was issued here and still holds is {what}"),
            hint: "deployd-ctl pki show lists names and serials".to_owned(),
        });
    }
    let own = Identity::read(&home.path(home::IDENTITY)).map(|own| own.facts.serial);
    if own.is_ok_and(|own| chosen.iter().any(|i| i.serial == own)) {
        return Err(CtlError::Usage {
            message: format!("{what} is the identity that you call with"),
            hint: "deployd-ctl pki renew makes another; then revoke this one by its serial".to_owned(),
        });
    }
    let authority = open_authority(&home)?;
    let text = revoke(&home, &authority, what)?;
    context.on_interrupt(format!(
        "stopped; {what} is revoked here, and hosts may not know it yet.\nnext: deployd-ctl hosts check sends the list"
    ));
    for issued in &chosen {
        let ends = human::when(issued.not_after);
        context.printer.talk(&format!(
            "revoked  {} ({}), {}, would have ended {ends}",
            issued.name,
            issued.what(),
            issued.serial
        ));
    }
    publish(context, &text, what, &chosen).await
}

/// Writes that they are revoked: the list of what was issued, then the signed list. Gives the latter.
pub(in crate::commands) fn revoke(
    home: &Home,
    authority: &Authority,
    what: &str,
) -> Result<String, CtlError> {
    let _turn = home.turn()?;
    let now = human::now();
    let mut list = issued::read(home)?;
    for issued in issued::meant(&mut list, what) {
        issued.revoked = Some(now);
    }
    let text = authority.revocations(&list, now)?;
    home.write(home::ISSUED, issued::text(&list)?.as_bytes())?;
    home.write(home::CRL, text.as_bytes())?;
    Ok(text)
}

/// Sends the list to every host, and tells which did not get it.
async fn publish(
    context: &Context<'_>,
    list: &str,
    what: &str,
    chosen: &[Issued],
) -> Result<ExitCode, CtlError> {
    let hosts = match context.hosts() {
        Ok(hosts) => hosts,
        Err(error) => {
            context.printer.talk(&format!(
                "{what} is revoked here, and no host knows yet. In the folder of fleet.toml: deployd-ctl hosts check"
            ));
            return Err(error);
        }
    };
    let answers = fanout::ask(&hosts, |client| send_list(client, list.to_owned())).await;
    let missed: Vec<(Host, CtlError)> =
        answers.into_iter().filter_map(|(host, sent)| sent.err().map(|e| (host, e))).collect();
    if context.printer.is_json() {
        let serials: Vec<&str> = chosen.iter().map(|i| i.serial.as_str()).collect();
        let missed: Vec<_> =
            missed.iter().map(|(h, e)| serde_json::json!({ "host": h.name, "error": e.to_body() })).collect();
        let sent = hosts.len() - missed.len();
        let answer = serde_json::json!({ "revoked": serials, "sent": sent, "missed": missed });
        context.printer.json(&answer)?;
    }
    if missed.is_empty() {
        context.printer.last(&format!("{what} is revoked on {} of {0} hosts.", hosts.len()))?;
        return Ok(ExitCode::Ok);
    }
    for (host, error) in &missed {
        let body = error.to_body();
        let why =
            body.causes.iter().find(|(heading, _)| heading == "what").map(|(_, text)| format!(" ({text})"));
        context.printer.talk(&format!(
            "not sent to {}: {}{}",
            host.name,
            body.message,
            why.unwrap_or_default()
        ));
    }
    let without: Vec<Host> = missed.into_iter().map(|(host, _)| host).collect();
    context.printer.last(&format!(
        "{what} is revoked on {} of {} hosts, and still let in on: {}.",
        hosts.len() - without.len(),
        hosts.len(),
        names(&without)
    ))?;
    context.printer.last("next: deployd-ctl hosts check sends the list to hosts that missed it")?;
    Ok(ExitCode::Partial)
}
