//! What changed between two releases, in words that people use: `code`, `POOL_SIZE 10 → 20`.

use std::collections::{BTreeMap, BTreeSet};

use deployd_api::deployment::ConfigChange;
use deployd_api::release::ReleaseDocument;
use deployd_api::secret::SecretName;
use deployd_api::spec::{Millis, Spec};

/// Environment first, then every other key of the spec that differs, dotted. A table that is new or gone
/// as a whole is one change. Of a first release only the environment is told: all of its spec is new.
pub fn config_changes(from: Option<&Spec>, to: &Spec) -> Vec<ConfigChange> {
    let (before, after) = (from.map(flat).unwrap_or_default(), flat(to));
    let (tables_before, tables_after) = (from.map(tables).unwrap_or_default(), tables(to));
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let whole = |key: &str| {
        let table = table_of(key)?;
        let (was, is) = (tables_before.contains(&table), tables_after.contains(&table));
        (was != is).then_some((table, is))
    };
    let mut changes: Vec<ConfigChange> = keys
        .into_iter()
        .filter(|k| before.get(*k) != after.get(*k))
        .filter(|k| from.is_some() || k.starts_with("env."))
        .map(|k| match whole(k) {
            Some((table, true)) => ConfigChange { key: table, from: None, to: Some(String::new()) },
            Some((table, false)) => ConfigChange { key: table, from: Some(String::new()), to: None },
            None => ConfigChange {
                key: k.strip_prefix("env.").unwrap_or(k).to_owned(),
                from: before.get(k).map(|v| shown(k, v)),
                to: after.get(k).map(|v| shown(k, v)),
            },
        })
        .collect();
    changes.sort_by_key(|c| c.key.contains('.'));
    changes.dedup();
    changes
}

/// Keys whose numbers are times or sizes, by the last part of the key.
const TIMES: [&str; 9] = [
    "kill_timeout",
    "interval",
    "timeout",
    "grace",
    "wait_timeout",
    "drain_timeout",
    "limited",
    "min_healthy",
    "monitor",
];

/// A value as one writes it in the spec.
fn shown(key: &str, value: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    let free = ["env.", ".headers.", ".json."].iter().any(|part| key.contains(part));
    match (free, value.parse::<u64>()) {
        (false, Ok(ms)) if TIMES.contains(&last) => Millis(ms).to_string(),
        (false, Ok(n)) if last == "memory" && n > 0 && n.is_multiple_of(1 << 30) => format!("{}gb", n >> 30),
        (false, Ok(n)) if last == "memory" && n.is_multiple_of(1 << 20) => format!("{}mb", n >> 20),
        _ => value.to_owned(),
    }
}

/// `checks.health`, of a key below it.
fn table_of(key: &str) -> Option<String> {
    let (kind, rest) = key.split_once('.')?;
    let (name, _) = rest.split_once('.')?;
    ["processes", "listen", "checks"].contains(&kind).then(|| format!("{kind}.{name}"))
}

fn tables(spec: &Spec) -> BTreeSet<String> {
    flat(spec).keys().filter_map(|k| table_of(k)).collect()
}

/// The words of the column CHANGED.
pub fn summary(from: Option<&ReleaseDocument>, to: &ReleaseDocument) -> Vec<String> {
    let Some(from) = from else { return vec!["first release".to_owned()] };
    let code = (from.artifact != to.artifact).then(|| "code".to_owned());
    let config = config_changes(Some(&from.spec), &to.spec).into_iter().map(|c| c.key);
    code.into_iter().chain(config).chain(secrets(from, to)).collect()
}

/// `secrets: STRIPE_KEY`, those that have another version, are new or gone.
fn secrets(from: &ReleaseDocument, to: &ReleaseDocument) -> Option<String> {
    let names: BTreeSet<_> = from.secrets.keys().chain(to.secrets.keys()).collect();
    let other = names.into_iter().filter(|name| from.secrets.get(*name) != to.secrets.get(*name));
    let other: Vec<&str> = other.map(SecretName::as_str).collect();
    (!other.is_empty()).then(|| format!("secrets: {}", other.join(" ")))
}

fn flat(spec: &Spec) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(spec) {
        walk("", &value, &mut out);
    }
    out
}

fn walk(at: &str, value: &serde_json::Value, out: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, v) in map {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                walk(&at, v, out);
            }
        }
        serde_json::Value::String(s) => {
            out.insert(at.to_owned(), s.clone());
        }
        other => {
            out.insert(at.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "app = \"shop\"\n[env]\nPOOL = 5000\n[processes.web]\nexec = \"a\"\n[listen.http]\n\
                        address = \":80\"\n[checks.health]\npath = \"/\"\n";

    fn told(before: &str, after: &str) -> Vec<String> {
        let parse = |text: &str| deployd_api::spec::parse(&format!("{SPEC}{text}")).unwrap();
        let changes = config_changes(Some(&parse(before)), &parse(after));
        let value = |v: Option<String>| v.unwrap_or_else(|| "-".to_owned());
        changes.into_iter().map(|c| format!("{} {} {}", c.key, value(c.from), value(c.to))).collect()
    }

    #[test]
    fn values_are_told_as_they_are_written() {
        let times = "timeout = \"7s\"\ninterval = \"3s\"\ngrace = \"2s\"\n[deploy]\nmonitor = \"1m\"\n\
                     wait_timeout = \"1m\"\nmin_healthy = \"2s\"\ndrain_timeout = \"1m30s\"";
        assert_eq!(
            told("", times),
            [
                "checks.health.grace 0s 2s",
                "checks.health.interval 1s 3s",
                "checks.health.timeout 5s 7s",
                "deploy.drain_timeout.limited 30s 1m30s",
                "deploy.min_healthy 10s 2s",
                "deploy.monitor 5m 1m",
                "deploy.wait_timeout 5m 1m",
            ]
        );
    }

    #[test]
    fn a_table_that_is_new_is_one_change() {
        let worker = "[processes.work]\nexec = \"b\"\nmemory = \"512mb\"\n";
        assert_eq!(told("", worker), ["processes.work - "]);
        assert_eq!(told(worker, ""), ["processes.work  -"]);
        let more = worker.replace("512", "600") + "kill_timeout = \"9s\"";
        assert_eq!(
            told(worker, &more),
            ["processes.work.kill_timeout 5s 9s", "processes.work.memory 512mb 600mb"]
        );
    }

    #[test]
    fn secrets_are_told_by_name() {
        let spec = deployd_api::spec::parse(SPEC).unwrap();
        let mut from = ReleaseDocument::new(deployd_api::ids::Digest::of(b"1"), spec);
        let mut to = from.clone();
        for (name, version) in [("A", 1), ("B", 1), ("C", 1)] {
            from.secrets.insert(name.parse().unwrap(), version);
        }
        for (name, version) in [("A", 2), ("B", 1), ("D", 1)] {
            to.secrets.insert(name.parse().unwrap(), version);
        }
        assert_eq!(summary(Some(&from), &to), ["secrets: A C D"]);
        assert!(summary(Some(&to), &to).is_empty());
    }

    #[test]
    fn a_first_release_tells_its_environment() {
        let spec = deployd_api::spec::parse(SPEC).unwrap();
        let want = ConfigChange { key: "POOL".to_owned(), from: None, to: Some("5000".to_owned()) };
        assert_eq!(config_changes(None, &spec), [want]);
    }
}
