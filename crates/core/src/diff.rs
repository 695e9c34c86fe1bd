//! What changed between two releases, in words that people use: `code`, `POOL_SIZE 10 → 20`.

use std::collections::BTreeMap;

use deployd_api::deployment::ConfigChange;
use deployd_api::release::ReleaseDocument;
use deployd_api::spec::Spec;

/// Environment first, then every other key of the spec that differs, dotted.
pub fn config_changes(from: Option<&Spec>, to: &Spec) -> Vec<ConfigChange> {
    let (before, after) = (from.map(flat).unwrap_or_default(), flat(to));
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut changes: Vec<ConfigChange> = keys
        .into_iter()
        .filter(|k| before.get(*k) != after.get(*k))
        .map(|k| ConfigChange {
            key: k.strip_prefix("env.").unwrap_or(k).to_owned(),
            from: before.get(k).cloned(),
            to: after.get(k).cloned(),
        })
        .collect();
    changes.sort_by_key(|c| c.key.contains('.'));
    changes
}

/// The words of the column CHANGED.
pub fn summary(from: Option<&ReleaseDocument>, to: &ReleaseDocument) -> Vec<String> {
    let Some(from) = from else { return vec!["first release".to_owned()] };
    let code = (from.artifact != to.artifact).then(|| "code".to_owned());
    code.into_iter().chain(config_changes(Some(&from.spec), &to.spec).into_iter().map(|c| c.key)).collect()
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
