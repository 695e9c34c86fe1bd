//! `pki init`: a new fleet's CA, its first admin, and the recovery key. Everything is made before anything is
//! written, and nothing is written over.

use deployd_api::access::Role;
use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::cli::PkiInit;
use crate::commands::Context;
use crate::error::CtlError;
use crate::human;
use crate::pki::authority::{Authority, OPERATOR_TTL, new_key};
use crate::pki::facts::days_text;
use crate::pki::issued::{self, Issued};
use crate::pki::{Home, answer, home, identity, invalid, passphrase, sealed};
use crate::project;

/// What `-o json` says.
#[derive(Serialize)]
struct Made<'m> {
    fleet: &'m str,
    operator: &'m str,
    home: String,
    recovery: &'m str,
    not_after: Timestamp,
}

pub(super) fn run(context: &Context<'_>, args: &PkiInit) -> Result<ExitCode, CtlError> {
    let home = Home::find()?;
    refuse_to_overwrite(&home, args)?;
    let operator = match &args.operator {
        Some(name) => name.clone(),
        None => project::origin().by,
    };
    let words = passphrase::choose("the CA's key and the recovery key")?;
    let now = human::now();
    let new = Authority::create(&home, &args.name, now)?;
    let ca = &new.authority;
    let key = new_key()?;
    let signed = ca.operator(&operator, &[Role::Admin], OPERATOR_TTL, &key, now)?;
    let secret = Zeroizing::new(key.serialize_pem());
    let (public, recovery) = sealed::recovery();
    let identity = identity::joined(&[&signed.pem, &secret, ca.ca_pem()], Some(&public));
    let recovery = sealed::seal(sealed::recovery_file(&public, &recovery).as_bytes(), &words)?;
    let files: [(&str, Zeroizing<Vec<u8>>); 6] = [
        (home::CA_KEY, sealed::seal(new.key_pem.as_bytes(), &words)?.into()),
        (home::RECOVERY, format!("{public}\n").into_bytes().into()),
        (home::CRL, ca.revocations(&[], now)?.into_bytes().into()),
        (home::ISSUED, issued::text(&[Issued::of(&signed.facts)])?.into_bytes().into()),
        (home::IDENTITY, identity.as_bytes().to_vec().into()),
        (home::CA, ca.ca_pem().as_bytes().to_vec().into()),
    ];
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_slice())).collect();
    // The recovery key first: a fleet must not exist without one.
    let kept = args.recovery_key.clone().unwrap_or_else(|| home.path(home::RECOVERY_KEY));
    home.make()?;
    home::write_new(&kept, &recovery)?;
    if let Err(error) = home.write_new(&files) {
        // The error is what counts; a key that stays behind opens nothing.
        let _ = std::fs::remove_file(&kept);
        return Err(error);
    }
    let printer = context.printer;
    if printer.is_json() {
        printer.json(&Made {
            fleet: &args.name,
            operator: &operator,
            home: home.shown(),
            recovery: &public,
            not_after: signed.facts.not_after,
        })?;
        return Ok(ExitCode::Ok);
    }
    for line in [
        home.shown(),
        format!(
            "  identity.pem      you: {operator}, admin, {}; calls are made with it",
            days_text(signed.facts.not_after, now)
        ),
        "  ca.pem            certificate of the CA, for 10 years".to_owned(),
        "  ca.key.age        its key, under the passphrase".to_owned(),
        "  crl.pem           what is revoked: nothing".to_owned(),
        "  issued.jsonl      what was issued".to_owned(),
        "  recovery.pub      secrets are encrypted to it, beside the hosts".to_owned(),
    ] {
        printer.talk(&line);
    }
    printer.talk(&format!("{}\n  the key that opens these secrets, under the passphrase", kept.display()));
    printer.talk(&format!(
        "back up  {} and the recovery key, and keep the passphrase elsewhere:\n         \
         without them nobody adds hosts or people, or opens secrets when all hosts are lost",
        home.shown()
    ));
    printer.last(&format!("fleet {} has a CA, and {operator} is its first admin.", args.name))?;
    printer.last("next: deployd-ctl hosts add NAME --ssh root@ADDRESS")?;
    Ok(ExitCode::Ok)
}

fn refuse_to_overwrite(home: &Home, args: &PkiInit) -> Result<(), CtlError> {
    let files =
        [home::CA_KEY, home::CA, home::IDENTITY, home::ISSUED, home::CRL, home::RECOVERY, home::RECOVERY_KEY];
    let own = files.iter().find(|name| home.has(name)).map(|name| home.path(name));
    let Some(path) = own.or_else(|| args.recovery_key.clone().filter(|path| path.exists())) else {
        return Ok(());
    };
    let hint =
        "see what is there: deployd-ctl pki show; for another fleet name another folder: DEPLOYD_HOME=…";
    let body = invalid("there is an identity or a CA already; nothing was made", hint);
    Err(answer(body.cause("where", path.display().to_string())))
}
