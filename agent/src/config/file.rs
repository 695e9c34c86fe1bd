//! One config file as written: only known keys, each with its line; values not judged yet.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

/// Below this similarity (0 to 1) a name is no likely misspelling of another.
const SIMILAR: f64 = 0.7;

macro_rules! keys {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)+) => {
        /// A key of the config.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key { $($(#[$doc])* $variant,)+ }

        impl Key {
            /// Every key, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The key as it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

keys! {
    /// Where the database and the release trees are.
    StateDir = "state_dir";
    /// Disk space that a push must leave free.
    DiskReserve = "disk_reserve";
    /// Good releases kept for rollback, the live one included.
    KeepReleases = "keep_releases";
    /// The upper half of the `SO_MARK` of the agent's own probes.
    MarkPrefix = "mark_prefix";
    /// User ids that apps are given.
    UidRange = "uid_range";
    /// How secrets stand on disk.
    Secrets = "secrets";
    /// How much is logged.
    LogLevel = "log_level";
    /// The region that apps see in `DEPLOYD_REGION`.
    Region = "region";
    /// The name that apps see in `DEPLOYD_HOST`, instead of the host's own.
    HostName = "host_name";
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing wrong with the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; none when the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do: the nearest name, an example.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

/// Everything wrong with the config: first what cannot be understood, file by file, then values that are
/// not allowed. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// A value as TOML has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(i64),
    /// Anything else, by what it is called.
    Other(&'static str),
}

/// A key with its value, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// Reads the text of a file. The known part is returned even when other parts are wrong.
pub(super) fn parse(file: &Path, text: &str) -> (Vec<Entry>, Vec<ConfigError>) {
    let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(e) => {
            let line = e.span().map(|span| line(span.start));
            let what = e.message().to_owned();
            return (Vec::new(), vec![ConfigError { file: file.to_owned(), line, what, hint: None }]);
        }
    };
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in table {
        let line = line(name.span().start);
        match Key::ALL.iter().find(|k| k.as_str() == name.get_ref().as_ref()) {
            Some(key) => entries.push(Entry { key: *key, value: plain(value.get_ref()), line }),
            None => errors.push(unknown(file, line, name.get_ref())),
        }
    }
    // The parser's table is sorted by name; people read by line.
    entries.sort_by_key(|e| e.line);
    errors.sort_by_key(|e| e.line);
    (entries, errors)
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(s) => Value::Text(s.as_ref().to_owned()),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix())
            .map_or(Value::Other("a number that is too large"), Value::Number),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(_) => Value::Other("a truth value"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(_) => Value::Other("a list"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}

fn unknown(file: &Path, line: usize, name: &str) -> ConfigError {
    let nearest = Key::ALL
        .iter()
        .map(|key| (strsim::jaro_winkler(name, key.as_str()), key))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = nearest.map_or_else(
        || format!("the keys are {}", Key::ALL.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(", ")),
        |(_, key)| format!("did you mean `{key}`?"),
    );
    ConfigError {
        file: file.to_owned(),
        line: Some(line),
        what: format!("unknown key `{name}`"),
        hint: Some(hint),
    }
}
