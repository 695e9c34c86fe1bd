//! Verbs of fly, kamal, heroku and cap, answered with ours.

use std::ffi::OsString;

use crate::hint::CTL;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What others call it, and what it is here; longer words first where one begins another.
const VERBS: &[(&str, &str)] = &[
    ("deploy", "push"),
    ("apps destroy", "remove"),
    ("apps restart", "restart"),
    ("apps list", "status"),
    ("app logs", "logs"),
    ("app start", "start"),
    ("app stop", "stop"),
    ("app details", "status"),
    ("machine list", "status"),
    ("ps:restart", "restart"),
    ("ps:stop", "stop"),
    ("ps", "status"),
    ("details", "status"),
    ("info", "status"),
    ("redeploy", "push"),
    ("up", "push"),
    ("launch", "push"),
    ("releases:rollback", "rollback"),
    ("deploy:rollback", "rollback"),
    ("undo", "rollback"),
    ("history", "releases"),
    ("versions", "releases"),
    ("audit", "releases"),
    ("log", "logs"),
    ("tail", "logs -f"),
    ("checks list", "status"),
    ("checks", "status"),
    ("diff", "plan"),
    ("destroy", "remove"),
    ("delete", "remove"),
    ("down", "remove"),
    ("cancel", "abort"),
    ("lock release", "abort"),
    ("reload", "restart"),
    ("check", "doctor"),
    ("deploy:check", "doctor"),
];

/// Words of theirs, and planned words of ours, for what this version does not have.
const LATER: &[&str] = &[
    "ssh console",
    "ssh",
    "console",
    "run",
    "app exec",
    "exec",
    "secrets",
    "config",
    "scale",
    "setup",
    "server",
    "env",
    "init",
    "backup",
    "build",
    "migrate",
    "accessory",
    "proxy",
    "certs",
    "volumes",
    "regions",
    "ps:scale",
    "promote",
    "eject",
    "adopt",
];

/// Whether the command line says `--local`, also when it cannot be read otherwise.
pub(crate) fn is_local(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|a| *a != "--").any(|a| a == "--local")
}

/// The answer to an unknown verb, when we know what was meant.
pub(crate) fn answer(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let at = arguments.iter().skip(1).position(|a| a.to_str() == Some(word))? + 1;
    let two = arguments.get(at + 1).and_then(|a| a.to_str()).map(|next| format!("{word} {next}"));
    let tried: Vec<&str> = two.as_deref().into_iter().chain([word.as_str()]).collect();
    for verb in &tried {
        if let Some((_, ours)) = VERBS.iter().find(|(theirs, _)| theirs == verb) {
            return Some(format!("unknown command \"{verb}\"; here it is: {CTL} {ours}"));
        }
        if LATER.contains(verb) {
            return Some(format!("\"{verb}\" is not built yet in this version; see deployd-ctl --help"));
        }
    }
    None
}
