//! `secrets export`: what only the recovery key opens, for keeping where no host is.

use std::path::Path;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::ids::AppName;
use deployd_api::secret::{SecretName, SecretRow};

use super::{Rows, hosts_of, look, rows};
use crate::commands::Context;
use crate::error::CtlError;
use crate::pki::home;

pub(super) async fn run(
    context: &Context<'_>,
    app: &AppName,
    out: Option<&Path>,
) -> Result<ExitCode, CtlError> {
    let (known, offline) = look(context, app, &hosts_of(context, app).await?).await?;
    context.on_interrupt("stopped; nothing was written.".to_owned());
    let (found, without) = newest(&known);
    if found.is_empty() {
        return Err(CtlError::Answer(Box::new(nothing(app, &without, &offline))));
    }
    let text = text(app, &found);
    if let Some(path) = out {
        home::write(path, text.as_bytes())?;
    }
    let names: Vec<&SecretName> = found.iter().map(|row| &row.name).collect();
    match out {
        _ if context.printer.is_json() => context.printer.json(&serde_json::json!({
            "app": app, "file": out, "without": without, "secrets": found,
        }))?,
        Some(path) => {
            let count = crate::human::plural(names.len() as u64, "secret");
            context.printer.last(&format!("{count} of {app}, encrypted, in {}", path.display()))?;
        }
        None => context.printer.data(text.trim_end())?,
    }
    for name in &without {
        context.printer.talk(&format!(
            "! {name} is not in it: it was set without the recovery key; set it again: deployd-ctl secrets set {name} -a {app}"
        ));
    }
    for (host, error) in &offline {
        context.printer.talk(&format!("! {}: {error}", host.name));
    }
    Ok(if offline.is_empty() && without.is_empty() { ExitCode::Ok } else { ExitCode::Partial })
}

/// The newest version of each secret that is set, with its ciphertext; and the names of those that have none.
fn newest(known: &Rows) -> (Vec<SecretRow>, Vec<SecretName>) {
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for name in rows::names(known) {
        let version = rows::highest(known, &name);
        let all = known.iter().flat_map(|(_, rows)| rows);
        let mut fitting = all.filter(|r| r.name == name && r.version == version && !r.removed);
        match fitting.find(|r| r.recovery.is_some()) {
            Some(row) => found.push(row.clone()),
            None => without.push(name),
        }
    }
    (found, without)
}

/// A file that says how it is read. Each name is a line of its own, before its block.
fn text(app: &AppName, found: &[SecretRow]) -> String {
    let mut text = format!(
        "# The secrets of {app}, encrypted to the recovery key of its fleet. To read the one that is called NAME:\n\
         #   sed -n '/^NAME$/,/^-----END/p' THIS_FILE | sed 1d | age --decrypt -i recovery.key.age\n"
    );
    for row in found {
        let block = row.recovery.as_deref().unwrap_or_default().trim();
        text += &format!("\n# version {}, set by {}\n{}\n{block}\n", row.version, row.by, row.name);
    }
    text
}

fn nothing(app: &AppName, without: &[SecretName], offline: &[(super::Host, CtlError)]) -> ErrorBody {
    let body = if without.is_empty() {
        let hint = format!("deployd-ctl secrets set NAME -a {app}");
        ErrorBody::new(ErrorCode::BadRequest, format!("{app} has no secrets"), hint)
    } else {
        let names = without.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let what =
            format!("the secrets of {app} were set without a recovery key, so nobody can recover them");
        let hint = format!("set them again, with a recovery.pub: deployd-ctl secrets set {names} -a {app}");
        ErrorBody::new(ErrorCode::BadRequest, what, hint)
    };
    super::because(body, offline)
}

#[cfg(test)]
mod tests {
    use age::x25519::Identity;
    use deployd_api::ids::Timestamp;

    use super::*;

    fn row(name: &str, version: u32, recovery: Option<&str>) -> SecretRow {
        SecretRow {
            name: name.parse().unwrap(),
            version,
            set: Timestamp(1),
            by: "maria".to_owned(),
            live: false,
            removed: false,
            recovery: recovery.map(str::to_owned),
        }
    }

    #[test]
    fn each_block_stands_behind_its_name_and_opens() {
        let key = Identity::generate();
        let seal = |value: &[u8]| age::encrypt_and_armor(&key.to_public(), value).unwrap();
        let rows = [row("A", 1, Some(&seal(b"one"))), row("AB", 2, Some(&seal(b"two\n")))];
        let text = text(&"shop".parse().unwrap(), &rows);
        for (name, value) in [("A", &b"one"[..]), ("AB", b"two\n")] {
            // As `sed` of its first lines takes it.
            let lines = text.lines().skip_while(|line| *line != name).skip(1);
            let mut block = Vec::new();
            for line in lines {
                block.push(line);
                if line.starts_with("-----END") {
                    break;
                }
            }
            assert_eq!(age::decrypt(&key, block.join("\n").as_bytes()).unwrap(), value, "{name}");
        }
    }
}
