//! Whether the hand-written pages of docs/reference name all there is: spec keys, ctl's verbs and flags, config keys,
//! routes, kinds of events. A page may say of a thing what it likes, but cannot fall behind without a word.
//!
//! What there is comes from the programs where they tell it (`--help`, `check-config --json`), else from the source
//! that defines it. A list that comes out empty is an error: then the source has moved, and nothing was checked.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use deployd_api::route::ROUTES;
use deployd_tests::package::repository;
use serde_json::Value;

use crate::run::cargo;

/// Fails, and names what is missing.
pub(super) fn check() -> Result<()> {
    let missing: Vec<String> = [
        missing("spec.md", "spec key", &spec_keys()?)?,
        missing("cli.md", "word of deployd-ctl", &ctl_words()?)?,
        missing("config.md", "config key", &config_keys()?)?,
        missing("api.md", "route", &ROUTES.iter().map(ToString::to_string).collect())?,
        missing("api.md", "kind of event", &event_kinds(&source("crates/api/src/event.rs")?))?,
    ]
    .concat();
    if !missing.is_empty() {
        bail!("docs/reference is behind the code:\n{}", missing.join("\n"));
    }
    Ok(())
}

fn source(path: &str) -> Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| format!("failed to read {path}"))
}

/// A line for each word that the page does not have as code.
fn missing(page: &str, kind: &str, words: &BTreeSet<String>) -> Result<Vec<String>> {
    ensure!(!words.is_empty(), "no {kind} was found: where are they now?");
    let text = source(&format!("docs/reference/{page}"))?;
    let absent = words.iter().filter(|word| !names(&text, word));
    Ok(absent.map(|word| format!("  {page}: {kind} `{word}`")).collect())
}

/// Whether a page names a word as code: in a span that it begins (perhaps behind its section: `expect.status`), or as
/// the key of a line in an example.
fn names(text: &str, word: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || "_-".contains(c));
    let begins = [format!("`{word}"), format!("\n{word} ="), format!("[{word}")];
    let begun = begins
        .iter()
        .any(|begin| text.match_indices(begin).any(|(at, found)| ends(&text[at + found.len()..])));
    let mut spans = text.split('`').skip(1).step_by(2);
    begun || spans.any(|span| span.split_once('.').is_some_and(|(_, key)| key == word))
}

/// The keys of every section, from the lists that the parser goes by.
fn spec_keys() -> Result<BTreeSet<String>> {
    let mut keys = known_keys(&source("crates/api/src/spec/parse.rs")?);
    for entry in fs::read_dir(repository().join("crates/api/src/spec/parse"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "rs") {
            keys.extend(known_keys(&fs::read_to_string(&path)?));
        }
    }
    Ok(keys)
}

fn known_keys(source: &str) -> BTreeSet<String> {
    let lists = source.split("known: &[").skip(1).filter_map(|rest| rest.split(']').next());
    lists.flat_map(|list| list.split('"').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// Every verb that `help all` lists, and every flag that each one's `--help` tells.
fn ctl_words() -> Result<BTreeSet<String>> {
    let help = |words: &str| output(&format!("run --quiet --locked -p deployd-ctl -- {words} --help"));
    let mut words = BTreeSet::new();
    let all = output("run --quiet --locked -p deployd-ctl -- help all")?;
    for verb in listed(&all) {
        let text = help(&verb)?;
        words.extend(flags(&text));
        // A verb of a verb stands with it: `releases clear`.
        words.extend(verbs(&text).into_iter().map(|own| format!("{verb} {own}")));
        words.insert(verb);
    }
    Ok(words)
}

/// The verbs of the list in groups that `help all` begins with.
fn listed(all: &str) -> Vec<String> {
    let lines = all.lines().take_while(|line| *line != "Options:");
    let verbs = lines.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    verbs.map(str::to_owned).collect()
}

fn verbs(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn flags(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split("  ").next().unwrap_or_default().split([' ', ',', '=']));
    let long = words.filter(|word| word.starts_with("--") && !["--help", "--version"].contains(word));
    long.map(str::to_owned).collect()
}

/// What `check-config` knows, of an empty config.
fn config_keys() -> Result<BTreeSet<String>> {
    let empty = repository().join("target/empty.toml");
    std::fs::create_dir_all(empty.parent().context("a file stands in a folder")?)?;
    std::fs::write(&empty, "")?;
    let check =
        "run --quiet --locked -p deployd --bin deployd -- --config target/empty.toml check-config --json";
    let text = output(check)?;
    let value: Value = serde_json::from_str(&text).context("check-config --json is not JSON")?;
    Ok(value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect())
}

fn output(words: &str) -> Result<String> {
    let output = cargo(words).output().with_context(|| format!("failed to run cargo {words}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {words} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// The variants of `What`, as they are written on the wire.
fn event_kinds(source: &str) -> BTreeSet<String> {
    let body = source.split("pub enum What {").nth(1).unwrap_or_default();
    let lines = body.lines().take_while(|line| *line != "}");
    // Variants stand one level in; their fields deeper, their comments begin with a slash.
    let variants = lines
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    variants.filter_map(|line| line.split([' ', ',']).next()).map(kebab).collect()
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_named_as_code_and_as_a_whole() {
        let page = "The `app` and `--wait live|committed`, [env] and\ninstances = 2, `expect.json`\n`POST /v1/apps/{app}`";
        for word in ["app", "--wait", "env", "instances", "json", "POST /v1/apps/{app}"] {
            assert!(names(page, word), "{word}");
        }
        for word in ["ap", "--wa", "wait", "committed", "instance", "GET /v1/apps/{app}"] {
            assert!(!names(page, word), "{word}");
        }
    }

    #[test]
    fn lists_are_read_from_their_sources() {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<String>>();
        let keys = "const A: Keys = Keys { known: &[\"app\", \"env\"], later: &[\"build\"] };";
        assert_eq!(known_keys(keys), set(&["app", "env"]));
        let events = "pub enum What {\n    /// The plan.\n    Accepted {\n        steps: u32,\n    },\n    StepDone,\n}\n    Other";
        assert_eq!(event_kinds(events), set(&["accepted", "step-done"]));
        let help = "Usage: x\n\nCommands:\n  push  Make\n  help  Print\n\nOptions:\n  -a, --app <APP>  The app\n      --wait <U>\n";
        assert_eq!(
            (verbs(help), flags(help)),
            (vec!["push".into(), "help".into()], vec!["--app".into(), "--wait".into()])
        );
    }
}
