//! `pki renew`: a new certificate for the same name, of one's own or of hosts.

use std::time::Duration;

use deployd_api::exit::ExitCode;
use hyper::Method;
use zeroize::Zeroizing;

use super::open_authority;
use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::human;
use crate::pki::authority::{Authority, EXTRA, OPERATOR_TTL, Signed, new_key};
use crate::pki::facts::days_text;
use crate::pki::{Home, Identity, home, identity};

pub(super) async fn run(context: &Context<'_>, names: &[String]) -> Result<ExitCode, CtlError> {
    let home = Home::find()?;
    let own = Identity::read(&home.path(home::IDENTITY))?;
    if names.is_empty() || names == [own.facts.name.as_str()] {
        return renew_own(context, &home, &own);
    }
    let hosts = context.reached.hosts_named(names)?;
    let authority = open_authority(&home)?;
    context.on_interrupt(
        "stopped; hosts that were told have their new certificate: deployd-ctl hosts check".to_owned(),
    );
    let mut failed = None;
    let mut rows = Vec::new();
    for host in &hosts {
        match renew_host(&authority, host).await {
            Ok(signed) => {
                rows.push(
                    serde_json::json!({ "host": host.name, "certificate": signed.facts, "error": null }),
                );
                let until = days_text(signed.facts.not_after, human::now());
                context.printer.last(&format!("{} has a new certificate, for {until}.", host.name))?;
            }
            Err(error) => {
                let body = error.to_body();
                context.printer.talk(&format!("{}: not renewed: {}", host.name, body.message));
                rows.push(serde_json::json!({ "host": host.name, "certificate": null, "error": body }));
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        None => {
            if context.printer.is_json() {
                context.printer.json(&rows)?;
            }
            Ok(ExitCode::Ok)
        }
        // With others, or as programs read it, each is told; one alone is told whole.
        Some(error) if context.printer.is_json() && hosts.len() > 1 => {
            context.printer.json(&rows)?;
            Ok(if rows.iter().all(|row| row["certificate"].is_null()) {
                error.exit()
            } else {
                ExitCode::Partial
            })
        }
        Some(error) => Err(error),
    }
}

/// A new key too: the old one may be older than one likes.
fn renew_own(context: &Context<'_>, home: &Home, own: &Identity) -> Result<ExitCode, CtlError> {
    let authority = open_authority(home)?;
    let now = human::now();
    let key = new_key()?;
    // The same length as before.
    let length = own.facts.not_after.since_ms(own.facts.not_before);
    let ttl = Duration::from_millis(length).saturating_sub(EXTRA);
    let ttl = if ttl.is_zero() { OPERATOR_TTL } else { ttl };
    let signed = authority.operator(&own.facts.name, &own.facts.roles, ttl, &key, now)?;
    authority.record(&signed)?;
    let secret = Zeroizing::new(key.serialize_pem());
    let text = identity::text(&[&signed.pem, &secret, authority.ca_pem()], home)?;
    home.write(home::IDENTITY, text.as_bytes())?;
    if context.printer.is_json() {
        context.printer.json(&serde_json::json!({ "certificate": signed.facts }))?;
    }
    let until = days_text(signed.facts.not_after, now);
    let old = days_text(own.facts.not_after, now);
    let was = if old == "ended" { "had ended".to_owned() } else { format!("had {old} left") };
    context
        .printer
        .last(&format!("your identity {} holds for {until}; the old one {was}.", own.facts.name))?;
    Ok(ExitCode::Ok)
}

/// The key stays on the host: it asks, we sign.
async fn renew_host(authority: &Authority, host: &Host) -> Result<Signed, CtlError> {
    let name = host.name.parse().map_err(|e: deployd_api::ids::InvalidId| CtlError::Usage {
        message: e.to_string(),
        hint: "see deployd-ctl hosts list".to_owned(),
    })?;
    let request = host.client.pem(Method::POST, "/tls/request", String::new()).await?;
    let signed = authority.host(&name, &request, human::now())?;
    authority.record(&signed)?;
    host.client.pem(Method::PUT, "/tls/certificate", authority.bundle(&signed)?).await?;
    Ok(signed)
}
