//! `[checks.NAME]`: what is asked, how often, and what it decides.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use super::fields::{Field, Keys, Section, did_you_mean};
use super::process::read_command;
use super::read_process_name;
use crate::ids::{CheckName, ListenerName, ProcessName};
use crate::spec::check::{FAILURES_MAX, INTERVAL_MIN, is_header_value, is_method, is_path, is_token};
use crate::spec::{Check, CheckKind, Gate, Millis};

pub(super) const CHECK: Keys = Keys {
    known: &[
        "kind", "gate", "interval", "timeout", "grace", "failures", "listener", "process", "path", "method",
        "headers", "host", "expect", "command",
    ],
    later: &["on_failure"],
};
const EXPECT: Keys = Keys { known: &["status", "json"], later: &[] };

/// Statuses that pass when the spec names none.
const STATUS_DEFAULT: (u16, u16) = (200, 299);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Exec,
    Notify,
}

const KINDS: [(&str, Kind); 4] =
    [("http", Kind::Http), ("tcp", Kind::Tcp), ("exec", Kind::Exec), ("notify", Kind::Notify)];

/// Keys that only some kinds have.
const KEYS_OF_KINDS: [(&str, &[Kind]); 8] = [
    ("listener", &[Kind::Http, Kind::Tcp]),
    ("path", &[Kind::Http]),
    ("method", &[Kind::Http]),
    ("headers", &[Kind::Http]),
    ("host", &[Kind::Http]),
    ("expect", &[Kind::Http]),
    ("command", &[Kind::Exec]),
    ("process", &[Kind::Exec, Kind::Notify]),
];

/// Every check that could be read.
pub(super) fn read(
    section: &Section<'_>,
    processes: &BTreeSet<ProcessName>,
    listeners: &BTreeSet<ListenerName>,
) -> BTreeMap<CheckName, Check> {
    let mut checks = BTreeMap::new();
    for field in section.fields() {
        let name: Option<CheckName> = field.named();
        let check = field.section(CHECK).and_then(|s| read_one(&s, processes, listeners));
        checks.extend(name.zip(check));
    }
    checks
}

fn read_one(
    section: &Section<'_>,
    processes: &BTreeSet<ProcessName>,
    listeners: &BTreeSet<ListenerName>,
) -> Option<Check> {
    let get = |name| section.get(name);
    let gates = [("traffic", Gate::Traffic), ("deploy", Gate::Deploy), ("none", Gate::None)];
    let gate = get("gate").map_or(Some(Gate::Both), |f| f.word(&gates, &[]));
    let time = |name, min, default| get(name).map_or(Some(default), |f| f.duration(min));
    let interval = time("interval", INTERVAL_MIN, Millis::from_secs(1));
    let timeout = time("timeout", Millis(1), Millis::from_secs(5));
    let grace = time("grace", Millis(0), Millis(0));
    let failures = get("failures").map_or(Some(3), |f| f.integer(1, FAILURES_MAX));
    let kind = read_kind(section)?;
    for (key, kinds) in KEYS_OF_KINDS {
        if let Some(field) = get(key)
            && !kinds.contains(&kind)
        {
            let word = KINDS.iter().find(|(_, k)| *k == kind).map_or("", |(word, _)| word);
            field.fail(format!("a check of kind {word} has no `{key}`"), None);
        }
    }
    let kind = match kind {
        Kind::Http => read_http(section, listeners),
        Kind::Tcp => read_listener(section, listeners).map(|listener| CheckKind::Tcp { listener }),
        Kind::Exec => {
            let command = section.required("command", "command = \"bin/smoke\"");
            let command = command.and_then(|f| read_command(&f));
            let process = read_process_name(section, processes);
            command.zip(process).map(|(command, process)| CheckKind::Exec { command, process })
        }
        Kind::Notify => read_process_name(section, processes).map(|process| CheckKind::Notify { process }),
    };
    Some(Check {
        kind: kind?,
        gate: gate?,
        interval: interval?,
        timeout: timeout?,
        grace: grace?,
        failures: failures?,
    })
}

fn read_kind(section: &Section<'_>) -> Option<Kind> {
    if let Some(field) = section.get("kind") {
        return field.word(&KINDS, &[]);
    }
    let kind = match (section.get("path"), section.get("command")) {
        (Some(_), _) => Some(Kind::Http),
        (None, Some(_)) => Some(Kind::Exec),
        (None, None) => None,
    };
    if kind.is_none() {
        let hint = "add path = \"/health\", or kind = \"tcp\", \"exec\" or \"notify\"".to_owned();
        section.fail("does not say what to check", Some(hint));
    }
    kind
}

fn read_listener(section: &Section<'_>, listeners: &BTreeSet<ListenerName>) -> Option<ListenerName> {
    let Some(field) = section.get("listener") else {
        let only = listeners.first().filter(|_| listeners.len() == 1);
        if only.is_none() && listeners.is_empty() {
            let hint = "add [listen.http] with address = \":8080\", or use kind = \"exec\"".to_owned();
            section.fail("there is no listener to check", Some(hint));
        } else if only.is_none() {
            section.fail("there are several listeners", Some("add listener = \"…\"".to_owned()));
        }
        return only.cloned();
    };
    let name: ListenerName = field.parsed()?;
    if !listeners.contains(&name) {
        let hint = did_you_mean(name.as_str(), listeners.iter().map(ListenerName::as_str));
        field.fail(format!("there is no listener `{name}`"), hint);
        return None;
    }
    Some(name)
}

/// A text that can stand in a header line.
fn read_header_value(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if !is_header_value(text) {
        field.fail("holds a control character", None);
        return None;
    }
    Some(text.to_owned())
}

fn read_http(section: &Section<'_>, listeners: &BTreeSet<ListenerName>) -> Option<CheckKind> {
    let get = |name| section.get(name);
    let listener = read_listener(section, listeners);
    let path = section.required("path", "path = \"/health\"").and_then(|f| read_path(&f));
    let method = get("method").map_or(Some("GET".to_owned()), |f| {
        let text = f.text()?;
        if !is_method(text) {
            f.fail(format!("`{}` is not a method", text.escape_debug()), Some("write \"GET\"".to_owned()));
            return None;
        }
        Some(text.to_owned())
    });
    let host = get("host").map_or(Some("localhost".to_owned()), |f| read_header_value(&f));
    let mut headers = BTreeMap::new();
    for field in get("headers").and_then(|f| f.free_section()).iter().flat_map(Section::fields) {
        if !is_token(field.name) {
            field.fail("is not a valid name of a header", None);
        }
        headers.extend(read_header_value(&field).map(|value| (field.name.to_owned(), value)));
    }
    let expect = get("expect").and_then(|f| f.section(EXPECT));
    let want = |name| expect.as_ref().and_then(|s| s.get(name));
    let status = want("status").map_or(Some(vec![STATUS_DEFAULT]), |f| read_status(&f));
    let json = want("json").and_then(|f| read_json(&f));
    let (listener, path, method) = (listener?, path?, method?);
    Some(CheckKind::Http { listener, path, method, headers, host: host?, status: status?, json })
}

fn read_path(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if is_path(text) {
        return Some(text.to_owned());
    }
    let hint = "write for example \"/health\", other characters as %XX".to_owned();
    field.fail(format!("`{}` is not a path", text.escape_debug()), Some(hint));
    None
}

/// `200`, `"2xx"`, `"200-299"`, or a list of them.
fn read_status(field: &Field<'_>) -> Option<Vec<(u16, u16)>> {
    let items = if field.value().is_array() { field.items()? } else { vec![field.clone()] };
    if items.is_empty() {
        field.fail("the list is empty, so nothing could pass", None);
    }
    let mut ranges = Vec::new();
    for item in &items {
        let text = match item.value() {
            DeValue::Integer(n) => n.to_string(),
            _ => item.text()?.to_owned(),
        };
        let range = parse_status(&text);
        if range.is_none() {
            let hint = Some("write 200, \"2xx\" or \"200-299\"".to_owned());
            item.fail(format!("`{}` is not a status", text.escape_debug()), hint);
        }
        ranges.push(range?);
    }
    Some(ranges)
}

fn parse_status(text: &str) -> Option<(u16, u16)> {
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| digits && (100..=599).contains(n))
    };
    if let Some(class) = text.strip_suffix("xx") {
        let first = status(&format!("{class}00"))?;
        return Some((first, first + 99));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((status(first.trim())?, status(last.trim())?)).filter(|(first, last)| first <= last)
}

/// TOML as JSON; a text that is an object or list in JSON is read as such.
fn read_json(field: &Field<'_>) -> Option<serde_json::Value> {
    if let Some(text) = field.value().as_str().filter(|t| t.trim_start().starts_with(['{', '['])) {
        return field.checked(serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}")));
    }
    let json = to_json(field.value());
    if json.is_none() {
        field.fail("holds a number or time that JSON does not have", None);
    }
    json
}

fn to_json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(s) => s.as_ref().into(),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok()?.into(),
        DeValue::Float(n) => serde_json::Number::from_f64(n.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(b) => (*b).into(),
        DeValue::Datetime(_) => return None,
        DeValue::Array(items) => {
            items.iter().map(|v| to_json(v.get_ref())).collect::<Option<Vec<_>>>()?.into()
        }
        DeValue::Table(table) => {
            let pair = |(k, v): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = k.get_ref();
                Some((key.to_string(), to_json(v.get_ref())?))
            };
            serde_json::Value::Object(table.iter().map(pair).collect::<Option<_>>()?)
        }
    })
}
