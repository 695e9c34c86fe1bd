//! One entry of the journal as `journalctl -o json` prints it. Pure.

use deployd_api::ids::{Label, Timestamp};
use deployd_api::status::LogLine;
use serde_json::{Map, Value};

/// The level of lines that have none: `info`, as for everything that a service prints.
const LEVEL_INFO: u8 = 6;
/// What stands between the name of a listener and the tag in the unit of its proxy.
const PROXY: &str = "_proxy_";

/// What stands for a process in the units of an app's commands, which are no instances of any.
const COMMANDS: [&str; 1] = [deployd_core::units::MIGRATE];

/// An entry about a unit of an app of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: Timestamp,
    pub(super) unit: UnitParts,
    pub(super) level: u8,
    pub(super) message: String,
    pub(super) cursor: String,
}

/// What the name of a unit of an instance, or of a command, says, in the spelling of unit names (`_` for `-`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnitParts {
    pub(super) app: String,
    pub(super) process: String,
    pub(super) label: Label,
    /// 0 for a command.
    pub(super) number: u32,
}

impl UnitParts {
    /// `deployd-shop-web-v42.2@1.service`, `deployd-shop-migrate-v42.service`; `None` for any other unit.
    pub(super) fn parse(unit: &str) -> Option<Self> {
        let name = unit.strip_prefix("deployd-")?.strip_suffix(".service")?;
        let (prefix, number) = name.split_once('@').unwrap_or((name, ""));
        let mut parts = prefix.split('-');
        let (app, process, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let label = tag.split_once('.').map_or(tag, |(label, _)| label);
        if parts.next().is_some() {
            return None;
        }
        let is_command = !name.contains('@');
        if is_command && !COMMANDS.contains(&process) {
            return None;
        }
        Some(Self {
            app: app.to_owned(),
            process: process.to_owned(),
            label: label.parse().ok()?,
            number: if is_command { 0 } else { number.parse().ok()? },
        })
    }

    /// `web@1` as people write it; the proxy of a listener is `http proxy@1`.
    fn instance(&self) -> String {
        let name = |part: &str| part.replace('_', "-");
        match self.process.strip_suffix(PROXY) {
            Some(listener) => format!("{} proxy@{}", name(listener), self.number),
            None if self.number == 0 => name(&self.process),
            None => format!("{}@{}", name(&self.process), self.number),
        }
    }
}

impl Entry {
    /// `None` for what is no entry, or not about an instance.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let Value::Object(fields) = serde_json::from_slice(line).ok()? else { return None };
        // What PID 1 says about a unit has that in UNIT, and PID 1's own unit in _SYSTEMD_UNIT. Others may
        // set UNIT, too, and must not be believed.
        let of_pid_1 = text(&fields, "_PID").as_deref() == Some("1");
        let unit = text(&fields, if of_pid_1 { "UNIT" } else { "_SYSTEMD_UNIT" })?;
        let micros: u64 = text(&fields, "__REALTIME_TIMESTAMP")?.parse().ok()?;
        Some(Self {
            at: Timestamp(micros / 1000),
            unit: UnitParts::parse(&unit)?,
            level: text(&fields, "PRIORITY").and_then(|p| p.parse().ok()).unwrap_or(LEVEL_INFO),
            message: text(&fields, "MESSAGE").unwrap_or_default(),
            cursor: text(&fields, "__CURSOR").unwrap_or_default(),
        })
    }
}

impl From<Entry> for LogLine {
    fn from(entry: Entry) -> Self {
        Self {
            at: entry.at,
            label: Some(entry.unit.label),
            instance: entry.unit.instance(),
            level: entry.level,
            message: entry.message,
        }
    }
}

/// The cursor of the last entry in a text of entries about whatever.
pub(super) fn cursor(text: &[u8]) -> Option<String> {
    let last = text.split(|b| *b == b'\n').rfind(|line| !line.is_empty())?;
    let Value::Object(fields) = serde_json::from_slice(last).ok()? else { return None };
    self::text(&fields, "__CURSOR")
}

fn text(fields: &Map<String, Value>, name: &str) -> Option<String> {
    value_text(fields.get(name)?)
}

fn value_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        // Bytes, when they are not UTF-8 or hold control characters.
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items.iter().filter_map(|n| u8::try_from(n.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        // A field that was given more than once.
        Value::Array(items) => {
            let all: Vec<String> = items.iter().filter_map(value_text).collect();
            Some(all.join("\n"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}
