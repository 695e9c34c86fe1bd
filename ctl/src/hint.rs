//! Commands in texts, made to work as they are printed.
//!
//! Agents do not know how they are reached: they write `deployd-ctl VERB …`. Only here, on the way to a
//! person, the flags of this connection are added, so that the line can be copied.

use std::fmt;
use std::sync::OnceLock;

use clap::CommandFactory;

use crate::cli::Cli;

/// How this run reaches its hosts, and so what a copied command has to say. Set once, at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The hosts of a fleet: nothing has to be said.
    Fleet,
    /// The host that it runs on.
    Local,
}

impl Reach {
    pub(crate) fn of(local: bool) -> Self {
        if local { Self::Local } else { Self::Fleet }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Fleet => "deployd-ctl",
            Self::Local => "deployd-ctl --local",
        }
    }
}

static REACH: OnceLock<Reach> = OnceLock::new();

/// Says how this run reaches its hosts; the first word counts.
pub(crate) fn set_reach(reach: Reach) {
    // Only tests say it twice, and then the same.
    let _ = REACH.set(reach);
}

/// How a user calls this program here: `{CTL} status` is a command to copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller;

/// See [`Caller`].
pub(crate) const CTL: Caller = Caller;

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REACH.get().copied().unwrap_or(Reach::Fleet).program())
    }
}

/// The name of the program, as agents write it before a verb.
const NAME: &str = "deployd-ctl ";
/// Verbs that talk to no agent of this connection: the flags would be wrong there.
const APART: &[&str] = &["help", "completions", "init", "pki", "hosts"];

/// The text with the connection's flags in every command of ours.
pub(crate) fn runnable(text: &str) -> String {
    with_program(text, &CTL.to_string())
}

fn with_program(text: &str, program: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        let (before, after) = rest.split_at(at);
        let after = &after[NAME.len()..];
        let word = after.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
        out += before;
        out += if is_verb(word) { program } else { NAME.trim_end() };
        out.push(' ');
        rest = after;
    }
    out + rest
}

/// Whether it is a verb that talks to an agent.
fn is_verb(word: &str) -> bool {
    !APART.contains(&word) && Cli::command().find_subcommand(word).is_some()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn only_commands_get_flags() {
        for (text, want) in [
            ("see: deployd-ctl status -a shop", "see: deployd-ctl --local status -a shop"),
            ("deployd-ctl logs; deployd-ctl abort", "deployd-ctl --local logs; deployd-ctl --local abort"),
            ("deployd-ctl --local status", "deployd-ctl --local status"),
            ("compare: deployd-ctl --version", "compare: deployd-ctl --version"),
            (
                "install deployd-ctl first, deployd-ctl and deployd",
                "install deployd-ctl first, deployd-ctl and deployd",
            ),
            ("deployd-ctl help all", "deployd-ctl help all"),
        ] {
            assert_eq!(with_program(text, Reach::Local.program()), want);
            assert_eq!(with_program(text, Reach::Fleet.program()), text);
        }
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }

    /// What agents and the planner tell people to run is a command of ours, and names the app: it is read
    /// in any folder.
    #[test]
    fn commands_in_hints_exist_and_name_the_app() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for part in ["agent/src", "crates/core/src", "crates/api/src"] {
            sources(&root.join(part), &mut files);
        }
        let mut seen = 0;
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            // Only texts, and only up to the tests.
            let code = text.split("#[cfg(test)]").next().unwrap();
            for line in code.lines().filter(|l| l.contains('"') && !l.trim_start().starts_with("//")) {
                for command in line.split(NAME).skip(1) {
                    let word = command.split(|c: char| !c.is_ascii_lowercase()).next().unwrap();
                    if !is_verb(word) {
                        continue;
                    }
                    seen += 1;
                    let alone = ["doctor", "push"].contains(&word) || command.starts_with("status --all");
                    let place = format!("{}: {line}", file.display());
                    assert!(alone || command.contains("-a {"), "no app in {place}");
                }
            }
        }
        assert!(seen > 10, "only {seen} commands found: the search is broken");
    }
}
