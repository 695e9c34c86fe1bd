//! `hosts remove`: out of the file, and its certificate revoked. What runs there goes on.

use std::fs;

use deployd_api::exit::ExitCode;

use super::because;
use crate::commands::Context;
use crate::commands::pki::{open_authority, revoke};
use crate::enrol::{answer, refused};
use crate::error::CtlError;
use crate::fleet::{self, FleetHost, PORT};
use crate::human;
use crate::pki::{Home, home, issued};

pub(super) async fn run(context: &Context<'_>, name: &str, yes: bool) -> Result<ExitCode, CtlError> {
    let fleet = fleet::find(context.global)?;
    let known = fleet.host(name).cloned();
    let Some(known) = known else {
        fleet.select(&[name.parse().map_err(|e: deployd_api::ids::InvalidId| CtlError::Usage {
            message: e.to_string(),
            hint: "deployd-ctl hosts list".to_owned(),
        })?])?;
        return Err(CtlError::Usage {
            message: format!("{name} is a group, and hosts are removed one by one"),
            hint: "deployd-ctl hosts list".to_owned(),
        });
    };
    if !yes {
        confirm(context, name).await?;
    }
    let printer = context.printer;
    let file = fleet.file.display().to_string();
    home::try_beside(&fleet.file).map_err(|e| CtlError::Usage {
        message: format!("cannot write {file}: {e}; nothing was changed"),
        hint: "run it as who may write it, or name another: --fleet FILE".to_owned(),
    })?;
    let revoked = revoke_host(context, name)?;
    let wrong = |why: String| {
        let body = refused(
            format!(
                "cannot take {name} out of {file}{}",
                if revoked { "; its certificate is revoked" } else { "" }
            ),
            "mend the file and run it again",
        );
        answer(body.cause("what", why))
    };
    let text = fs::read_to_string(&fleet.file).map_err(|e| wrong(e.to_string()))?;
    let (text, _) = fleet::remove(&text, name).map_err(wrong)?;
    home::write_shared(&fleet.file, text.as_bytes()).map_err(|e| wrong(because(&e)))?;
    let at = known.address.host();
    printer.talk(&format!(
        "what runs on {name} goes on running there. To take it off, on the host ({at}), as root:"
    ));
    printer.talk("  deployd-ctl --local remove -a APP    for each app of: deployd-ctl --local status --all");
    printer.talk("  apt-get purge deployd");
    printer.last(&format!("{name} is not in the fleet any more."))?;
    let undo = undo(&known);
    if printer.is_json() {
        printer.json(&serde_json::json!({ "host": name, "file": file, "revoked": revoked, "undo": undo }))?;
    }
    printer.last(&format!("undo: {undo}"))?;
    Ok(ExitCode::Ok)
}

/// The command that makes it what it was. Whom ssh enters as is not known: root is what most do.
fn undo(host: &FleetHost) -> String {
    let at = host.address.host();
    let mut undo = format!("deployd-ctl hosts add {} --ssh root@{at}", host.name);
    if host.address.port() != PORT {
        undo += &format!(" --address {}", host.address);
    }
    host.groups.iter().for_each(|group| undo += &format!(" --group {group}"));
    host.labels.iter().for_each(|(key, value)| undo += &format!(" --label {key}={value}"));
    undo
}

/// So that no ctl takes it for a host of the fleet, where the CA is at hand; whether it was.
fn revoke_host(context: &Context<'_>, name: &str) -> Result<bool, CtlError> {
    let home = Home::find()?;
    let now = human::now();
    let live = issued::read(&home)?.iter().any(|i| i.host.is_some() && i.name == name && i.is_live(now));
    if !live {
        let text = format!(
            "{name} has no certificate in the list here: where the CA is, deployd-ctl pki revoke {name}"
        );
        context.printer.talk(&text);
        return Ok(false);
    }
    let authority = open_authority(&home)?;
    revoke(&home, &authority, name)?;
    context.printer.talk(&format!("the certificate of {name} is revoked: this ctl refuses it from now on"));
    Ok(true)
}

/// The host's name must be typed.
async fn confirm(context: &Context<'_>, name: &str) -> Result<(), CtlError> {
    if !context.printer.can_ask() {
        return Err(CtlError::Usage {
            message: format!("{name} would be taken out of the fleet, and there is no terminal to ask"),
            hint: "add --yes".to_owned(),
        });
    }
    let line =
        context.printer.ask(&format!("{name} will be taken out of the fleet. Type its name: ")).await?;
    if line == name {
        return Ok(());
    }
    let message = "that is not its name; nothing was touched".to_owned();
    Err(CtlError::Usage { message, hint: format!("type {name}") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn undo_is_a_command_that_brings_all_of_it_back() {
        let host = |address: &str, groups: &[&str], labels: &[(&str, &str)]| FleetHost {
            name: "web1".parse().unwrap(),
            address: address.parse().unwrap(),
            groups: groups.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<BTreeMap<_, _>>(),
        };
        for (host, want) in [
            (host("10.0.0.1", &[], &[]), "--ssh root@10.0.0.1"),
            (host("10.0.0.1:99", &[], &[]), "--ssh root@10.0.0.1 --address 10.0.0.1:99"),
            (
                host("fd00::1", &["eu", "web"], &[("disk", "ssd"), ("region", "fra")]),
                "--ssh root@fd00::1 --group eu --group web --label disk=ssd --label region=fra",
            ),
        ] {
            assert_eq!(undo(&host), format!("deployd-ctl hosts add web1 {want}"));
        }
    }
}
