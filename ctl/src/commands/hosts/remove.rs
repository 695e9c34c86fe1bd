//! `hosts remove`: out of the file, and its certificate revoked. What runs there goes on.

use std::fs;
use std::io::{self, BufRead, IsTerminal};

use deployd_api::exit::ExitCode;

use crate::commands::Context;
use crate::commands::pki::{open_authority, revoke};
use crate::enrol::{answer, refused};
use crate::error::CtlError;
use crate::fleet;
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
    revoke_host(context, name)?;
    let wrong = |why: String| {
        let body = refused(
            format!("cannot take {name} out of {}", fleet.file.display()),
            "mend the file and run it again",
        );
        answer(body.cause("what", why))
    };
    let text = fs::read_to_string(&fleet.file).map_err(|e| wrong(e.to_string()))?;
    let (text, _) = fleet::remove(&text, name).map_err(wrong)?;
    home::write_shared(&fleet.file, text.as_bytes())?;
    let at = known.address.host();
    printer.talk(&format!(
        "what runs on {name} goes on running there. To take it off, on the host ({at}), as root:"
    ));
    printer.talk("  deployd-ctl --local remove -a APP    for each app of: deployd-ctl --local status --all");
    printer.talk("  apt-get purge deployd");
    printer.last(&format!("{name} is not in the fleet any more."))?;
    printer.last(&format!("undo: deployd-ctl hosts add {name} --ssh root@{at}"))?;
    Ok(ExitCode::Ok)
}

/// So that no ctl takes it for a host of the fleet, where the CA is at hand.
fn revoke_host(context: &Context<'_>, name: &str) -> Result<(), CtlError> {
    let home = Home::find()?;
    let now = human::now();
    let live = issued::read(&home)?.iter().any(|i| i.host.is_some() && i.name == name && i.is_live(now));
    if !live {
        let text = format!(
            "{name} has no certificate in the list here: where the CA is, deployd-ctl pki revoke {name}"
        );
        context.printer.talk(&text);
        return Ok(());
    }
    let authority = open_authority(&home)?;
    revoke(&home, &authority, name)?;
    context.printer.talk(&format!("the certificate of {name} is revoked: this ctl refuses it from now on"));
    Ok(())
}

/// The host's name must be typed.
async fn confirm(context: &Context<'_>, name: &str) -> Result<(), CtlError> {
    if !io::stdin().is_terminal() {
        return Err(CtlError::Usage {
            message: format!("{name} would be taken out of the fleet, and there is no terminal to ask"),
            hint: "add --yes".to_owned(),
        });
    }
    context.printer.ask(&format!("{name} will be taken out of the fleet. Type its name: "));
    let read = || -> io::Result<String> {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    };
    let line = tokio::task::spawn_blocking(read).await;
    let line = line.map_err(|e| CtlError::Runtime(e.into()))?.map_err(CtlError::Runtime)?;
    if line.trim() == name {
        return Ok(());
    }
    let message = "that is not its name; nothing was touched".to_owned();
    Err(CtlError::Usage { message, hint: format!("type {name}") })
}
