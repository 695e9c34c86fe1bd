//! `pki issue`: an identity for a person or a job, as a file, as one line, or for a key of theirs.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deployd_api::exit::ExitCode;
use zeroize::Zeroizing;

use super::open_authority;
use crate::cli::PkiIssue;
use crate::commands::Context;
use crate::error::CtlError;
use crate::human;
use crate::pki::authority::{OPERATOR_TTL, Signed, new_key, public_key};
use crate::pki::facts::days_text;
use crate::pki::{Home, broken, home, identity};

pub(super) fn run(context: &Context<'_>, args: &PkiIssue) -> Result<ExitCode, CtlError> {
    let home = Home::find()?;
    let ttl = args.ttl.map_or(OPERATOR_TTL, |ttl| Duration::from_millis(ttl.0));
    if ttl < Duration::from_hours(1) {
        return Err(CtlError::Usage {
            message: "--ttl is less than an hour".to_owned(),
            hint: "write for example --ttl 90d".to_owned(),
        });
    }
    let out = match &args.out {
        Some(path) => path.clone(),
        None => home.path(&format!("{}.{}", args.name, home::IDENTITY)),
    };
    // Before the passphrase, and before anything is in the list.
    if !args.print && out.exists() {
        return Err(CtlError::Usage {
            message: format!("{} exists already", out.display()),
            hint: "name another file: --out FILE".to_owned(),
        });
    }
    let request = args.csr.as_deref().map(read_request).transpose()?;
    let request = request.as_deref().map(public_key).transpose()?;
    let authority = open_authority(&home)?;
    let now = human::now();
    let (signed, text) = if let Some(key) = request {
        let signed = authority.operator(&args.name, &args.roles, ttl, &key, now)?;
        let text = identity::text(&[&signed.pem, authority.ca_pem()], &home)?;
        (signed, text)
    } else {
        let key = new_key()?;
        let signed = authority.operator(&args.name, &args.roles, ttl, &key, now)?;
        let secret = Zeroizing::new(key.serialize_pem());
        let text = identity::text(&[&signed.pem, &secret, authority.ca_pem()], &home)?;
        (signed, text)
    };
    authority.record(&signed)?;
    if args.print {
        return print(context, args, &signed, &text);
    }
    home::write_new(&out, text.as_bytes())?;
    tell(context, args, &signed, &out)
}

/// One line on stdout, and nothing else there.
fn print(context: &Context<'_>, args: &PkiIssue, signed: &Signed, text: &str) -> Result<ExitCode, CtlError> {
    let line = Zeroizing::new(STANDARD.encode(text));
    context.printer.data(&line)?;
    let until = days_text(signed.facts.not_after, human::now());
    context.printer.talk(&format!(
        "{} may act as {} for {until}, whoever has this line. Keep it as the secret DEPLOYD_IDENTITY of your CI.",
        args.name,
        signed.facts.roles_text(),
    ));
    context.printer.talk(&format!("undo: deployd-ctl pki revoke {}", signed.facts.serial));
    Ok(ExitCode::Ok)
}

fn tell(context: &Context<'_>, args: &PkiIssue, signed: &Signed, out: &Path) -> Result<ExitCode, CtlError> {
    let printer = context.printer;
    if printer.is_json() {
        printer.json(&serde_json::json!({ "file": out, "certificate": signed.facts }))?;
        return Ok(ExitCode::Ok);
    }
    let (until, roles) = (days_text(signed.facts.not_after, human::now()), signed.facts.roles_text());
    let shown = out.display();
    printer.talk(&if args.csr.is_some() {
        format!(
            "{shown} has no key. They put it and their key into one file: cat {shown} KEY > ~/.config/deployd/identity.pem"
        )
    } else {
        format!("{shown} holds a key. Hand it over by a safe way; theirs is ~/.config/deployd/identity.pem")
    });
    printer.last(&format!("{} may act as {roles} for {until}: {shown}", args.name))?;
    printer.last(&format!("undo: deployd-ctl pki revoke {}", signed.facts.serial))?;
    Ok(ExitCode::Ok)
}

/// A request from a file, or `-`.
pub(in crate::commands) fn read_request(path: &Path) -> Result<String, CtlError> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map(drop)
    };
    read.map_err(|e| broken(&format!("read the request {}", path.display()), e))?;
    Ok(text)
}
