//! From a journal entry as JSON to a line of the API. Pure.

use deployd_api::ids::{Label, Timestamp};
use deployd_api::status::LogLine;
use serde_json::{Map, Value};

/// syslog's "informational": lines of a program's plain output.
const INFORMATIONAL: u8 = 6;

/// What the name of an instance's unit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceUnit {
    /// The app.
    pub app: String,
    /// The process.
    pub process: String,
    /// The release.
    pub label: Label,
    /// The instance.
    pub number: u32,
}

/// Takes `deployd-<app>-<process>-<tag>@<n>.service` apart. `_` in a part stands for `-`.
pub fn parse_instance_unit(unit: &str) -> Option<InstanceUnit> {
    let name = unit.strip_prefix("deployd-")?.strip_suffix(".service")?;
    let (template, number) = name.split_once('@')?;
    let mut parts = template.split('-');
    let (app, process, tag) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    // A release that was activated again has the tag `v42.2`.
    let label = tag.split('.').next()?.parse().ok()?;
    Some(InstanceUnit {
        app: app.replace('_', "-"),
        process: process.replace('_', "-"),
        label,
        number: number.parse().ok()?,
    })
}

/// A line of the API. `None` for an entry without time or message.
pub(super) fn log_line(json: &str) -> Option<LogLine> {
    let entry: Map<String, Value> = serde_json::from_str(json).ok()?;
    let micros: u64 = text(entry.get("__REALTIME_TIMESTAMP")?)?.parse().ok()?;
    let message = text(entry.get("MESSAGE")?)?;
    // Entries of PID 1 about a unit name it in UNIT; their own unit is init.scope.
    let unit = ["UNIT", "_SYSTEMD_UNIT"].iter().find_map(|field| text(entry.get(*field)?));
    let unit = unit.as_deref().and_then(parse_instance_unit);
    let level = entry.get("PRIORITY").and_then(text).and_then(|p| p.parse().ok()).unwrap_or(INFORMATIONAL);
    Some(LogLine {
        at: Timestamp(micros / 1000),
        label: unit.as_ref().map(|u| u.label),
        instance: unit.map(|u| format!("{}@{}", u.process, u.number)).unwrap_or_default(),
        level,
        message,
    })
}

/// A field is text, an array of bytes when it is not UTF-8, or an array of either when it came twice.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = items.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(items) => items.first().and_then(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_units_are_taken_apart() {
        let unit = parse_instance_unit("deployd-my_shop-web-v42.2@3.service").unwrap();
        assert_eq!((unit.app.as_str(), unit.process.as_str()), ("my-shop", "web"));
        assert_eq!((unit.label.to_string().as_str(), unit.number), ("v42", 3));
        for other in
            ["deployd.service", "deployd-fd@deployd-a-b-v1.service", "deployd-a-b-v1.socket", "a@1.service"]
        {
            assert_eq!(parse_instance_unit(other), None, "{other}");
        }
    }

    #[test]
    fn entries_become_lines() {
        let json = r#"{"__REALTIME_TIMESTAMP":"1700000000123456","MESSAGE":"hi","PRIORITY":"3",
            "_SYSTEMD_UNIT":"deployd-shop-web-v1@2.service"}"#;
        let line = log_line(json).unwrap();
        assert_eq!((line.at.0, line.level, line.message.as_str()), (1_700_000_000_123, 3, "hi"));
        assert_eq!((line.instance.as_str(), line.label), ("web@2", Some(Label::FIRST)));
    }

    #[test]
    fn bytes_and_repeated_fields_are_text_too() {
        let json = r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":[104,255,105],
            "UNIT":"deployd-shop-web-v1@1.service","_SYSTEMD_UNIT":"init.scope"}"#;
        let line = log_line(json).unwrap();
        assert_eq!((line.message.as_str(), line.instance.as_str()), ("h\u{fffd}i", "web@1"));
        assert_eq!(log_line(r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":["a","b"]}"#).unwrap().message, "a");
        assert!(log_line(r#"{"__REALTIME_TIMESTAMP":"1","MESSAGE":null}"#).is_none());
    }
}
