//! `hosts`, `[build]`, `[migrate]`, `secrets` and what `[deploy]` says to a fleet.

use toml::de::DeValue;

use super::fields::{Field, Keys, Section};
use super::process::read_command;
use crate::fleet::OnFailure;
use crate::secret::SecretName;
use crate::spec::{Build, Migration, Millis, Secrets, Selector, Share};

pub(super) const BUILD: Keys = Keys { known: &["command", "artifact"], later: &[] };
pub(super) const MIGRATE: Keys =
    Keys { known: &["command", "timeout"], later: &["list", "down", "auto_down"] };
pub(super) const SECRETS: Keys = Keys { known: &["required", "files"], later: &[] };
/// How long a migration may take, unless the spec says otherwise.
const MIGRATE_TIMEOUT: Millis = Millis::from_secs(15 * 60);

/// One selector, or a list of them.
pub(super) fn read_hosts(field: &Field<'_>) -> Vec<Selector> {
    let items = match field.value() {
        DeValue::Array(_) => field.texts().unwrap_or_default(),
        _ => return field.parsed().into_iter().collect(),
    };
    if items.is_empty() {
        field.fail("names no hosts", Some("write a group of fleet.toml: hosts = \"web\"".to_owned()));
    }
    items.iter().filter_map(Field::parsed).collect()
}

pub(super) fn read_build(field: Option<&Field<'_>>) -> Build {
    let Some(section) = field.and_then(|f| f.section(BUILD)) else { return Build::default() };
    let text = |name: &str| {
        let field = section.get(name)?;
        let text = field.text()?;
        if text.trim().is_empty() {
            field.fail("is empty", Some("remove it".to_owned()));
        }
        Some(text.to_owned())
    };
    let build = Build { command: text("command"), artifact: text("artifact") };
    if build.command.is_some() && build.artifact.is_none() {
        let hint = "add artifact = \"_build/prod/rel/shop\": the folder or tar file that the command makes";
        section.fail("the build has a command and no artifact", Some(hint.to_owned()));
    }
    build
}

/// `[migrate]`, or its other name `release_command` at the root.
pub(super) fn read_migration(root: &Section<'_>) -> Option<Migration> {
    let (table, line) = (root.get("migrate"), root.get("release_command"));
    if let (Some(_), Some(line)) = (&table, &line) {
        line.fail("is the same as [migrate] command", Some("keep one of the two".to_owned()));
        return None;
    }
    if let Some(line) = line {
        return Some(Migration { command: read_command(&line)?, timeout: MIGRATE_TIMEOUT });
    }
    let section = table?.section(MIGRATE)?;
    let command = section.required("command", "command = \"bin/shop eval Shop.Release.migrate\"");
    let timeout = section.get("timeout").and_then(|f| f.duration(Millis::from_secs(1)));
    Some(Migration { command: read_command(&command?)?, timeout: timeout.unwrap_or(MIGRATE_TIMEOUT) })
}

/// A list of names that must be set, or a table.
pub(super) fn read_secrets(field: Option<&Field<'_>>) -> Secrets {
    let names = |field: &Field<'_>| -> Vec<SecretName> {
        let items = field.texts().unwrap_or_default();
        let mut names: Vec<SecretName> = items.iter().filter_map(Field::parsed).collect();
        names.sort();
        names.dedup();
        names
    };
    let Some(field) = field else { return Secrets::default() };
    if field.value().is_array() {
        return Secrets { required: names(field), files: Vec::new() };
    }
    let Some(section) = field.section(SECRETS) else { return Secrets::default() };
    let list = |name| section.get(name).map(|f| names(&f)).unwrap_or_default();
    Secrets { required: list("required"), files: list("files") }
}

/// `max_unavailable`, a number or a text.
pub(super) fn read_share(field: &Field<'_>) -> Option<Share> {
    match field.value() {
        DeValue::Integer(_) => field.integer(1, 1000).map(Share::Count),
        _ => field.checked(field.text()?.parse()),
    }
}

pub(super) fn read_on_failure(field: &Field<'_>) -> Option<OnFailure> {
    field.word(&[("rollback", OnFailure::Rollback), ("hold", OnFailure::Hold)], &[])
}
