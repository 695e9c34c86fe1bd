//! From TOML text to a [`Spec`]: unknown keys, missing keys and wrong values, all at once.
//!
//! | module | does |
//! |---|---|
//! | [`fields`] | typed getters that record errors with line and key |
//! | [`process`], [`listen`], [`check`] | one section each |
//! | [`project`] | hosts, build, migration, secrets |
//! | [`between`] | rules that hold between sections |
//!
//! Called by ctl on the file of the user. The agent gets the validated spec as JSON.

pub(super) mod between;
mod check;
mod fields;
mod listen;
mod process;
mod project;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::de::{DeTable, DeValue};

use self::fields::{Field, Keys, Problems, Section};
use super::check::{Fault, WAIT_TIMEOUT_MIN, is_reserved, is_variable};
use super::{Deploy, Drain, Millis, Project, Share, Spec, Strategy};
use crate::ids::ProcessName;

const ROOT: Keys = Keys {
    known: &[
        "app",
        "hosts",
        "build",
        "env",
        "secrets",
        "processes",
        "listen",
        "checks",
        "migrate",
        "release_command",
        "deploy",
    ],
    later: &["backup", "region"],
};

const DEPLOY: Keys = Keys {
    known: &[
        "strategy",
        "wait_timeout",
        "drain_timeout",
        "min_healthy",
        "monitor",
        "max_unavailable",
        "on_failure",
    ],
    later: &["canary", "analysis"],
};

/// The keys of each section, for who explains them: `""` is the top level, `processes.NAME` one of its tables.
pub fn keys() -> [(&'static str, &'static [&'static str]); 8] {
    [
        ("", ROOT.known),
        ("build", project::BUILD.known),
        ("secrets", project::SECRETS.known),
        ("processes.NAME", process::PROCESS.known),
        ("listen.NAME", listen::LISTEN.known),
        ("checks.NAME", check::CHECK.known),
        ("migrate", project::MIGRATE.known),
        ("deploy", DEPLOY.known),
    ]
}

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, dotted: `processes.web.exec`; empty when the file is not TOML there.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do: the nearest name, an example.
    pub hint: Option<String>,
}

impl fmt::Display for SpecError {
    /// Everything but the line: ``processes.web.exce: unknown key, did you mean `exec`?``.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) if hint.starts_with("did you mean") => write!(f, ", {hint}"),
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything wrong with a spec, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the spec has {} error{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
pub struct SpecErrors(pub Vec<SpecError>);

impl SpecErrors {
    /// One line an error: ``deployd.toml:12: processes.web.exce: unknown key, did you mean `exec`?``.
    pub fn render(&self, file: &str) -> String {
        let lines: Vec<String> = self.0.iter().map(|e| format!("{file}:{}: {e}", e.line)).collect();
        lines.join("\n")
    }
}

/// Parses and validates a spec; what it says to the fleet is validated and left out.
pub fn parse(text: &str) -> Result<Spec, SpecErrors> {
    parse_project(text).map(|project| project.spec)
}

/// Parses and validates a whole `deployd.toml`.
pub fn parse_project(text: &str) -> Result<Project, SpecErrors> {
    let problems = Problems::new(text);
    let (document, broken) = DeTable::parse_recoverable(text);
    // What is recovered from broken TOML would bring errors that the user never made.
    for error in &broken {
        let offset = error.span().map_or(0, |s| s.start);
        problems.at(offset, "", error.message().replace('\n', ", "), None);
    }
    let read = if broken.is_empty() { read_project(document.get_ref(), &problems) } else { None };
    match read {
        Some(project) if !problems.any() => Ok(project),
        _ => Err(SpecErrors(problems.into_errors())),
    }
}

/// Every section, then the rules between them. `None` only when an error was recorded.
fn read_project(document: &DeTable<'_>, problems: &Problems<'_>) -> Option<Project> {
    let root = Section::root(document, problems, ROOT);
    let app = root.required("app", "app = \"shop\"").and_then(|f| f.parsed());
    let hosts = root.get("hosts").map(|f| project::read_hosts(&f)).unwrap_or_default();
    let build = project::read_build(root.get("build").as_ref());
    let migrate = project::read_migration(&root);
    let secrets = project::read_secrets(root.get("secrets").as_ref());
    let env = root.get("env").and_then(|f| read_env(&f));
    let processes = root
        .required("processes", "[processes.web] with exec = \"bin/shop start\"")
        .and_then(|f| f.free_section());
    // Sections refer to processes and listeners by name, also to those with errors of their own.
    let names: BTreeSet<ProcessName> =
        processes.iter().flat_map(Section::fields).filter_map(|f| f.name.parse().ok()).collect();
    let built = processes.as_ref().map(process::read);
    let listeners = root.get("listen").and_then(|f| f.free_section());
    let listen = listeners.as_ref().map(|s| listen::read(s, &names)).unwrap_or_default();
    let listener_names: BTreeSet<_> =
        listeners.iter().flat_map(Section::fields).filter_map(|f| f.name.parse().ok()).collect();
    let checks = root.get("checks").and_then(|f| f.free_section());
    let checks = checks.map(|s| check::read(&s, &names, &listener_names)).unwrap_or_default();
    let deploy_section = root.get("deploy").and_then(|f| f.section(DEPLOY));
    let deploy = read_deploy(deploy_section.as_ref());
    let of_deploy = |name| deploy_section.as_ref().and_then(|s| s.get(name));
    let share = of_deploy("max_unavailable").and_then(|f| project::read_share(&f));
    let on_failure = of_deploy("on_failure").and_then(|f| project::read_on_failure(&f));
    let env = env.unwrap_or_default();
    let spec = Spec { app: app?, env, processes: built?, listen, checks, deploy, migrate, secrets };
    let mut known = between::Known::of(&spec);
    known.processes.extend(processes.iter().flat_map(Section::fields).map(|f| f.name));
    known.listeners.extend(listeners.iter().flat_map(Section::fields).map(|f| f.name));
    let sections = (processes.is_some(), listeners.is_some());
    // They run over what could be read, so a section with an error of its own is not blamed twice.
    for fault in between::faults(&spec, &known) {
        let skipped = match fault.path.first().map(String::as_str) {
            Some("processes") => !sections.0,
            _ => !sections.1,
        };
        if !skipped {
            report(&root, &fault);
        }
    }
    if !problems.any() {
        spec.check().iter().for_each(|fault| report(&root, fault));
    }
    let max_unavailable = share.unwrap_or(Share::DEFAULT);
    Some(Project { spec, hosts, build, max_unavailable, on_failure: on_failure.unwrap_or_default() })
}

/// Records a fault at the last of its keys that the file has.
fn report(root: &Section<'_>, fault: &Fault) {
    let mut keys = fault.path.iter();
    let mut field = keys.next().and_then(|key| root.get(key));
    for key in keys {
        let inner = field.as_ref().filter(|f| f.value().is_table()).and_then(Field::free_section);
        match inner.and_then(|s| s.get(key)) {
            Some(inner) => field = Some(inner),
            None => break,
        }
    }
    match field {
        Some(field) => field.fail(fault.what.clone(), Some(fault.hint.clone())),
        None => root.fail(fault.what.clone(), Some(fault.hint.clone())),
    }
}

fn read_env(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for field in field.free_section()?.fields() {
        let name = field.name;
        if !is_variable(name) {
            field.fail("is not a valid name of a variable", Some("use A-Z, a-z, 0-9 and _".to_owned()));
        } else if is_reserved(name) {
            field.fail("is set by deployd itself", Some("remove it".to_owned()));
        }
        let value = match field.value() {
            DeValue::Integer(n) => Some(n.to_string()),
            DeValue::Float(n) => Some(n.to_string()),
            DeValue::Boolean(b) => Some(b.to_string()),
            _ => field.text().map(str::to_owned),
        };
        env.extend(value.map(|v| (name.to_owned(), v)));
    }
    Some(env)
}

fn read_deploy(section: Option<&Section<'_>>) -> Deploy {
    let get = |name| section.and_then(|s| s.get(name));
    let time = |name, min, default| get(name).and_then(|f| f.duration(min)).unwrap_or(default);
    let strategy = get("strategy").and_then(|f| {
        let words = [("rolling", Strategy::Rolling), ("immediate", Strategy::Immediate)];
        f.word(&words, &["bluegreen", "canary", "hot"])
    });
    let drain = get("drain_timeout").and_then(|f| match f.value().as_str() {
        Some("unlimited") => Some(Drain::Unlimited),
        _ => f.duration(Millis(0)).map(Drain::Limited),
    });
    Deploy {
        strategy: strategy.unwrap_or(Strategy::Rolling),
        wait_timeout: time("wait_timeout", WAIT_TIMEOUT_MIN, Millis::from_secs(300)),
        drain_timeout: drain.unwrap_or(Drain::Limited(Millis::from_secs(30))),
        min_healthy: time("min_healthy", Millis(0), Millis::from_secs(10)),
        monitor: time("monitor", Millis(0), Millis::from_secs(300)),
    }
}

/// The process that a listener or check means when it names none: `web`, or the only one.
fn default_process(names: &BTreeSet<ProcessName>) -> Option<&ProcessName> {
    names.iter().find(|n| n.as_str() == "web").or_else(|| names.first().filter(|_| names.len() == 1))
}

/// Resolves `process = "…"` of a listener or check.
fn read_process_name(section: &Section<'_>, names: &BTreeSet<ProcessName>) -> Option<ProcessName> {
    let Some(field) = section.get("process") else {
        let process = default_process(names).cloned();
        if process.is_none() && !names.is_empty() {
            let (what, hint) = ("no process is named and none is called web", "add process = \"…\"");
            section.fail(what, Some(hint.to_owned()));
        }
        return process;
    };
    let name: ProcessName = field.parsed()?;
    if !names.contains(&name) {
        let hint = fields::did_you_mean(name.as_str(), names.iter().map(ProcessName::as_str));
        field.fail(format!("there is no process `{name}`"), hint);
        return None;
    }
    Some(name)
}
