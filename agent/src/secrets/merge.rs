//! What a request makes of the current generation, and every reason to refuse it. Pure.
//!
//! Versions only grow, over `unset` too: a version names one value for ever, and a generation is named by its
//! versions alone. Two people who set the same name at once get the same version from their ctl: the second
//! is refused, unless the value is the same.

use std::collections::BTreeMap;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use deployd_api::secret::{
    ALL_MAX, KNOWN_MAX, NAMES_MAX, NewSecret, RECOVERY_MAX, SecretName, SecretsRequest, VALUE_MAX,
};
use deployd_api::spec::Spec;

use super::bundle::Bundle;
use crate::store::secrets::{SecretRecord, Versions};

/// A new generation.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    /// Its values.
    pub bundle: Bundle,
    /// Their versions.
    pub versions: BTreeMap<SecretName, u32>,
    /// What is to be recorded; nothing when the request had been carried out before.
    pub changes: Vec<Change>,
}

/// A row that changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The secret.
    pub name: SecretName,
    /// Its version from now on.
    pub version: u32,
    /// Whether it is unset.
    pub removed: bool,
    /// Its value for the recovery key.
    pub recovery: Option<String>,
}

/// Applies a request.
pub fn merge(
    app: &AppName,
    current: &Bundle,
    records: &[SecretRecord],
    request: &SecretsRequest,
    spec: Option<&Spec>,
) -> Result<Merged, ErrorBody> {
    let known: BTreeMap<&SecretName, &SecretRecord> = records.iter().map(|r| (&r.name, r)).collect();
    let mut bundle = current.clone();
    let mut changes = Vec::new();
    for (name, new) in &request.set {
        if request.unset.contains(name) {
            return Err(refused(app, name, "is both set and unset in one request"));
        }
        refuse_value(app, name, new, spec)?;
        if is_new(app, name, new, known.get(name).copied(), current)? {
            bundle.0.insert(name.clone(), new.value.clone());
            let recovery = new.recovery.clone();
            changes.push(Change { name: name.clone(), version: new.version, removed: false, recovery });
        }
    }
    for name in &request.unset {
        let Some(record) = known.get(name).filter(|r| !r.removed) else { continue };
        bundle.0.remove(name);
        changes.push(Change { name: name.clone(), version: record.version, removed: true, recovery: None });
    }
    refuse_much(app, &bundle, known.len() + request.set.keys().filter(|n| !known.contains_key(n)).count())?;
    let mut versions: BTreeMap<SecretName, u32> =
        records.iter().filter(|r| !r.removed).map(|r| (r.name.clone(), r.version)).collect();
    for change in &changes {
        if change.removed {
            versions.remove(&change.name);
        } else {
            versions.insert(change.name.clone(), change.version);
        }
    }
    Ok(Merged { bundle, versions, changes })
}

/// What systemd would not deliver, or a host not remember.
fn refuse_much(app: &AppName, bundle: &Bundle, known: usize) -> Result<(), ErrorBody> {
    let (message, hint) = if bundle.size() > ALL_MAX {
        let message = format!("the secrets of {app} would take {} bytes together", bundle.size());
        let told = format!(
            "keep them below {} KiB, as base64 and as they are: large files belong into the release",
            ALL_MAX >> 10
        );
        (message, told)
    } else if bundle.0.len() > NAMES_MAX {
        let message = format!("{app} would have {} secrets: {NAMES_MAX} at most", bundle.0.len());
        (message, format!("unset some: deployd-ctl secrets unset NAME -a {app}"))
    } else if known > KNOWN_MAX {
        let message = format!("{app} would have had {known} names of secrets: {KNOWN_MAX} are remembered");
        (message, "give new values to the names that there are".to_owned())
    } else {
        return Ok(());
    };
    Err(ErrorBody::new(ErrorCode::BadRequest, message, hint))
}

/// Whether no value of now outlives this request: it can be carried out without knowing one.
pub fn replaces_all(now: &Versions, request: &SecretsRequest) -> bool {
    now.keys().all(|name| request.set.contains_key(name) || request.unset.contains(name))
}

fn refused(app: &AppName, name: &SecretName, why: &str) -> ErrorBody {
    let hint = format!("set it in a call of its own: deployd-ctl secrets set {name} -a {app}");
    ErrorBody::new(ErrorCode::BadRequest, format!("the secret {name} {why}"), hint).about(name.as_str())
}

fn refuse_value(
    app: &AppName,
    name: &SecretName,
    new: &NewSecret,
    spec: Option<&Spec>,
) -> Result<(), ErrorBody> {
    let bytes = new.value.reveal();
    if bytes.len() > VALUE_MAX {
        let why = format!("has {} bytes: at most {} KiB are kept", bytes.len(), VALUE_MAX >> 10);
        return Err(refused(app, name, &why));
    }
    if new.recovery.as_ref().is_some_and(|sealed| sealed.len() > RECOVERY_MAX) {
        let why = format!("has a value for recovery of more than {} KiB", RECOVERY_MAX >> 10);
        return Err(refused(app, name, &why));
    }
    let is_variable = spec.is_some_and(|s| !s.secrets.files.contains(name));
    if is_variable && bytes.contains(&0) {
        let message = format!("the secret {name} holds a NUL byte, which no variable can");
        let hint = format!("name it in [secrets] files of the spec, push, then set it again (-a {app})");
        return Err(ErrorBody::new(ErrorCode::BadRequest, message, hint).about(name.as_str()));
    }
    if new.version == 0 {
        return Err(refused(app, name, "has version 0: versions begin with 1"));
    }
    Ok(())
}

/// Whether it changes anything; `false` when it was carried out before.
fn is_new(
    app: &AppName,
    name: &SecretName,
    new: &NewSecret,
    known: Option<&SecretRecord>,
    current: &Bundle,
) -> Result<bool, ErrorBody> {
    let Some(known) = known else { return Ok(true) };
    let stale = |what: String| {
        let hint = format!("do it again, it takes the next version: deployd-ctl secrets set {name} -a {app}");
        ErrorBody::new(ErrorCode::PlanStale, what, hint).about(name.as_str())
    };
    if new.version > known.version {
        return Ok(true);
    }
    if new.version < known.version || known.removed {
        let (asked, has) = (new.version, known.version);
        return Err(stale(format!(
            "version {asked} of the secret {name} is old: this host knows version {has}"
        )));
    }
    if current.0.get(name) == Some(&new.value) {
        return Ok(false);
    }
    Err(stale(format!("{} set another value of {name} at the same time", known.by)))
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::Timestamp;
    use deployd_api::secret::SecretValue;

    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec())
    }

    fn record(name: &str, version: u32, removed: bool) -> SecretRecord {
        let (name, by) = (name.parse().unwrap(), "maria".to_owned());
        SecretRecord { name, version, set: Timestamp(1), by, removed, recovery: None }
    }

    fn ask(set: &[(&str, u32, &str)], unset: &[&str]) -> SecretsRequest {
        let new = |v, text| NewSecret { version: v, value: value(text), recovery: None };
        SecretsRequest {
            set: set.iter().map(|(n, v, text)| (n.parse().unwrap(), new(*v, text))).collect(),
            unset: unset.iter().map(|n| n.parse().unwrap()).collect(),
            by: String::new(),
        }
    }

    fn run(request: &SecretsRequest, spec: Option<&Spec>) -> Result<Merged, ErrorBody> {
        let current = Bundle([("A", "a3"), ("B", "b1")].map(|(n, v)| (n.parse().unwrap(), value(v))).into());
        let records = [record("A", 3, false), record("B", 1, false), record("GONE", 5, true)];
        merge(&"shop".parse().unwrap(), &current, &records, request, spec)
    }

    fn listed(merged: &Merged) -> String {
        let of = |(n, v): (&SecretName, &u32)| format!("{n}={v}");
        merged.versions.iter().map(of).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_request_makes_a_generation() {
        for (request, versions, changes) in [
            (ask(&[("A", 4, "a4")], &[]), "A=4 B=1", 1),
            (ask(&[("C", 1, "c")], &["B"]), "A=3 C=1", 2),
            (ask(&[("GONE", 6, "g")], &[]), "A=3 B=1 GONE=6", 1),
            // Twice is once.
            (ask(&[("A", 3, "a3")], &["GONE", "NEVER"]), "A=3 B=1", 0),
            // Another host had a higher one.
            (ask(&[("B", 9, "b9")], &[]), "A=3 B=9", 1),
        ] {
            let merged = run(&request, None).unwrap();
            assert_eq!((listed(&merged).as_str(), merged.changes.len()), (versions, changes), "{request:?}");
            assert!(merged.bundle.0.keys().eq(merged.versions.keys()), "{request:?}");
        }
    }

    #[test]
    fn versions_never_go_back() {
        for (request, said) in [
            (ask(&[("A", 2, "x")], &[]), "is old"),
            (ask(&[("A", 3, "x")], &[]), "maria set another value"),
            (ask(&[("GONE", 5, "x")], &[]), "is old"),
            (ask(&[("GONE", 1, "x")], &[]), "is old"),
        ] {
            let refusal = run(&request, None).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::PlanStale, "{refusal:?}");
            assert!(refusal.message.contains(said) && !refusal.hint.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused() {
        let large = "x".repeat(VALUE_MAX);
        let names: Vec<String> = (0..10).map(|i| format!("L{i}")).collect();
        let many: Vec<(&str, u32, &str)> = names.iter().map(|n| (n.as_str(), 1, large.as_str())).collect();
        let crowd: Vec<String> = (0..NAMES_MAX).map(|i| format!("N{i}")).collect();
        let crowd: Vec<(&str, u32, &str)> = crowd.iter().map(|n| (n.as_str(), 1, "x")).collect();
        let mut sealed = ask(&[("C", 1, "x")], &[]);
        for new in sealed.set.values_mut() {
            new.recovery = Some("x".repeat(RECOVERY_MAX + 1));
        }
        let text = "app = \"shop\"\n[processes.web]\nexec = \"x\"\n[secrets]\nfiles = [\"KEY\"]\n";
        let spec = deployd_api::spec::parse(text).unwrap();
        for (request, said) in [
            (ask(&[("C", 1, &(large.clone() + "y"))], &[]), "at most 64 KiB"),
            (ask(&many, &[]), "together"),
            (ask(&many[..7], &[]), "together"),
            (ask(&crowd, &[]), "256 at most"),
            (sealed, "for recovery"),
            (ask(&[("C", 0, "x")], &[]), "version 0"),
            (ask(&[("A", 4, "x")], &["A"]), "both set and unset"),
            (ask(&[("C", 1, "a\0b")], &[]), "NUL byte"),
        ] {
            let refusal = run(&request, Some(&spec)).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest);
            assert!(
                refusal.message.contains(said) && !refusal.hint.is_empty(),
                "{said}: {}",
                refusal.message
            );
        }
        for (request, spec) in
            [(ask(&[("KEY", 1, "a\0b")], &[]), Some(&spec)), (ask(&[("C", 1, "\0")], &[]), None)]
        {
            assert!(run(&request, spec).is_ok());
        }
    }
}
