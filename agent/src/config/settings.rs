//! The validated config, with every default filled in.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use deployd_api::spec::parse_size;
use deployd_core::secrets::Form;

use super::file::{ConfigError, ConfigErrors, Key, Value};
use super::merge::{self, Merged, Source};
use crate::store::apps::DEFAULT_UIDS;
use crate::store::disk::DEFAULT_RESERVE_BYTES;

/// Good releases kept unless the config says otherwise: one to go back to and some to look at.
const DEFAULT_KEEP_RELEASES: u32 = 5;
/// `DP`: unlikely to meet the marks of a firewall or VPN, which mostly use low bits or one high one.
const DEFAULT_MARK_PREFIX: u16 = 0x4450;
/// The lowest user id that can be an app's: below are people and system users.
const UID_FIRST: u32 = 10_000;
/// Beyond it systemd takes dynamic users and containers, and 65534 is nobody.
const UID_LAST: u32 = 60_577;

/// How much the agent logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what someone should look at.
    Warn,
    /// And what was done.
    Info,
    /// And why.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The agent's config, valid as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the database and the release trees are.
    pub state_dir: PathBuf,
    /// Bytes that a push must leave free.
    pub disk_reserve: u64,
    /// Good releases kept for rollback, the live one included.
    pub keep_releases: u32,
    /// The upper 16 bits of the `SO_MARK` of the agent's probes.
    pub mark_prefix: u16,
    /// User ids that apps are given.
    pub uid_range: RangeInclusive<u32>,
    /// How secrets stand on disk.
    pub secrets: Form,
    /// How much is logged.
    pub log_level: LogLevel,
    /// The region that apps see, if any.
    pub region: Option<String>,
    /// The name that apps see instead of the host's own, if any.
    pub host_name: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/deployd"),
            disk_reserve: DEFAULT_RESERVE_BYTES,
            keep_releases: DEFAULT_KEEP_RELEASES,
            mark_prefix: DEFAULT_MARK_PREFIX,
            uid_range: DEFAULT_UIDS,
            secrets: Form::Sealed,
            log_level: LogLevel::Info,
            region: None,
            host_name: None,
        }
    }
}

/// The settings in force, and where each value is from: what `deployd check-config` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    sources: Vec<(Key, Source)>,
}

impl Settings {
    /// Reads, merges and validates `main` and the additions beside it.
    pub fn load(main: &Path) -> Result<Effective, ConfigErrors> {
        let (merged, mut errors) = merge::read(main);
        let mut settings = Self::default();
        for (key, (value, file, line)) in &merged {
            if let Err(what) = settings.set(*key, value) {
                let what = format!("`{key}` {what}");
                errors.push(ConfigError { file: file.clone(), line: Some(*line), what, hint: None });
            }
        }
        if errors.is_empty() {
            Ok(Effective { settings, sources: sources(&merged) })
        } else {
            Err(ConfigErrors(errors))
        }
    }

    /// What is wrong with the value follows the key's name: "must be …".
    fn set(&mut self, key: Key, value: &Value) -> Result<(), String> {
        match key {
            Key::StateDir => self.state_dir = state_dir(text(value)?)?,
            Key::DiskReserve => self.disk_reserve = disk_reserve(value)?,
            Key::KeepReleases => self.keep_releases = number(value, 1, 1000)? as u32,
            Key::MarkPrefix => self.mark_prefix = number(value, 1, 0xffff)? as u16,
            Key::UidRange => self.uid_range = uid_range(text(value)?)?,
            Key::Secrets => self.secrets = form(text(value)?)?,
            Key::LogLevel => self.log_level = log_level(text(value)?)?,
            Key::Region => self.region = Some(word(text(value)?)?),
            Key::HostName => self.host_name = Some(word(text(value)?)?),
        }
        Ok(())
    }
}

impl Effective {
    /// Every key with its value as TOML would have it, and where that is from. A key without a value has
    /// none.
    pub fn rows(&self) -> Vec<(Key, Option<String>, &Source)> {
        self.sources.iter().map(|(key, source)| (*key, self.settings.shown(*key), source)).collect()
    }

    /// The same as JSON: `{"state_dir": {"value": "…", "source": "default"}, …}`.
    pub fn to_json(&self) -> serde_json::Value {
        let row = |(key, value, source): (Key, Option<String>, &Source)| {
            (key.to_string(), serde_json::json!({ "value": value, "source": source.to_string() }))
        };
        serde_json::Value::Object(self.rows().into_iter().map(row).collect())
    }
}

impl fmt::Display for Effective {
    /// A config file that says the same, with the source of each value behind it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value, source) in self.rows() {
            match value {
                Some(value) => writeln!(f, "{:40} # {source}", format!("{key} = {value}"))?,
                None => writeln!(f, "{:40} # not set", format!("# {key}"))?,
            }
        }
        Ok(())
    }
}

impl Settings {
    fn shown(&self, key: Key) -> Option<String> {
        let quoted = |s: &str| toml::Value::String(s.to_owned()).to_string();
        Some(match key {
            Key::StateDir => quoted(&self.state_dir.to_string_lossy()),
            Key::DiskReserve => quoted(&shown_size(self.disk_reserve)),
            Key::KeepReleases => self.keep_releases.to_string(),
            Key::MarkPrefix => format!("{:#06x}", self.mark_prefix),
            Key::UidRange => quoted(&format!("{}-{}", self.uid_range.start(), self.uid_range.end())),
            Key::Secrets => quoted(FORMS[usize::from(self.secrets == Form::Plain)].0),
            Key::LogLevel => quoted(self.log_level.as_str()),
            Key::Region => quoted(self.region.as_deref()?),
            Key::HostName => quoted(self.host_name.as_deref()?),
        })
    }
}

fn sources(merged: &Merged) -> Vec<(Key, Source)> {
    let source = |key: &Key| match merged.get(key) {
        Some((_, file, line)) => Source::File { file: file.clone(), line: *line },
        None => Source::Default,
    };
    Key::ALL.iter().map(|key| (*key, source(key))).collect()
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(_) => Err("must be a text in quotes, not a number".to_owned()),
        Value::Other(what) => Err(format!("must be a text, not {what}")),
    }
}

fn number(value: &Value, least: i64, most: i64) -> Result<i64, String> {
    match value {
        Value::Number(n) if (least..=most).contains(n) => Ok(*n),
        Value::Number(_) | Value::Text(_) => Err(format!("must be a number from {least} to {most}")),
        Value::Other(what) => Err(format!("must be a number from {least} to {most}, not {what}")),
    }
}

fn state_dir(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    if path.is_absolute() && plain && path.parent().is_some() {
        Ok(path)
    } else {
        Err("must be an absolute path without `..`".to_owned())
    }
}

fn disk_reserve(value: &Value) -> Result<u64, String> {
    match value {
        // A bare number is MiB in a spec; here nobody should have to know that.
        Value::Number(n) => Err(format!("must have a unit: \"{n}mb\" or \"{n}gb\"")),
        Value::Text(_) | Value::Other(_) => parse_size(text(value)?).map_err(|e| format!("is wrong: {e}")),
    }
}

fn uid_range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let parsed =
        text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parsed {
        Some((first, last)) if first <= last && first >= UID_FIRST && last <= UID_LAST => Ok(first..=last),
        Some(_) | None => Err(format!(
            "must be a range of user ids from {UID_FIRST} to {UID_LAST}, such as \"50000-59999\""
        )),
    }
}

/// How secrets may stand on disk, as it is written.
const FORMS: [(&str, Form); 2] = [("sealed", Form::Sealed), ("plaintext-0600", Form::Plain)];

fn form(text: &str) -> Result<Form, String> {
    let found = FORMS.iter().find(|(word, _)| *word == text).map(|(_, form)| *form);
    found.ok_or_else(|| "must be \"sealed\" or \"plaintext-0600\"".to_owned())
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    LogLevel::ALL
        .into_iter()
        .find(|l| l.as_str() == text)
        .ok_or_else(|| "must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".to_owned())
}

/// Regions and host names end up in environments and logs.
fn word(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must have 1 to 64 letters, digits, `-`, `_` or `.`".to_owned())
    }
}

/// The largest unit that gives a whole number.
fn shown_size(bytes: u64) -> String {
    for (unit, shift) in [("gb", 30), ("mb", 20), ("kb", 10)] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}b")
}
