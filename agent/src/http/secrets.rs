//! Routes of secrets: names and versions out, values in. No value ever goes out, into a log or into an error; what
//! goes out for `secrets export` only the recovery key opens.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use deployd_api::release::ReleaseDocument;
use deployd_api::secret::{SecretName, SecretRow, SecretsRequest};
use tracing::info;
use zeroize::Zeroize as _;

use super::Api;
use super::answer::{Answer, Refused, id};
use super::audit::AUDIT;
use super::caller::Caller;
use crate::driver::clock;
use crate::store::secrets::SecretRecord;

pub(super) async fn list(State(api): State<Api>, Path(app): Path<String>) -> Answer<Vec<SecretRow>> {
    let app: AppName = id(&app)?;
    Ok(Json(rows(&api, &app).await?))
}

pub(super) async fn change(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(app): Path<String>,
    bytes: Bytes,
) -> Answer<Vec<SecretRow>> {
    let app: AppName = id(&app)?;
    let mut request = read(bytes)?;
    request.by = caller.by(request.by);
    let live = live(&api, &app).await;
    let vault = &api.supervisor.host().secrets;
    let spec = live.as_ref().map(|document| &document.spec);
    vault.change(&app, &request, &request.by, clock::now(), spec).await?;
    let names = |of: &mut dyn Iterator<Item = &str>| of.collect::<Vec<_>>().join(" ");
    let set = names(&mut request.set.keys().map(SecretName::as_str));
    let unset = names(&mut request.unset.iter().map(SecretName::as_str));
    info!(target: AUDIT, audit = "secrets", caller = caller.name, %app, by = %request.by, %set, %unset, "secrets were changed");
    Ok(Json(rows(&api, &app).await?))
}

/// The request; the bytes that it came in are wiped. What is wrong is told without its text, which may be a
/// part of a value.
fn read(bytes: Bytes) -> Result<SecretsRequest, Refused> {
    let parsed = serde_json::from_slice(&bytes);
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.as_mut().zeroize();
    }
    parsed.map_err(|e: serde_json::Error| {
        let message =
            format!("the body is not of the route's form, at line {}, column {}", e.line(), e.column());
        let hint = "names are [A-Za-z_][A-Za-z0-9_]{0,63}, values are base64: see docs/reference/api.md";
        ErrorBody::new(ErrorCode::BadRequest, message, hint).into()
    })
}

async fn rows(api: &Api, app: &AppName) -> Result<Vec<SecretRow>, Refused> {
    let records = api.supervisor.host().secrets.records(app).await?;
    let live = live(api, app).await.map(|document| document.secrets).unwrap_or_default();
    Ok(records.into_iter().map(|record| row(record, &live)).collect())
}

fn row(record: SecretRecord, live: &BTreeMap<SecretName, u32>) -> SecretRow {
    SecretRow {
        live: !record.removed && live.get(&record.name) == Some(&record.version),
        name: record.name,
        version: record.version,
        set: record.set,
        by: record.by,
        removed: record.removed,
        recovery: record.recovery,
    }
}

/// The document of the live release. An app that is not known yet has none.
async fn live(api: &Api, app: &AppName) -> Option<ReleaseDocument> {
    let state = api.supervisor.app(app).await.ok()?;
    let state = state.lock().await;
    state.live_release().map(|release| release.document.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_it_is_live_and_has_what_the_recovery_key_opens() {
        let record = |version, removed| SecretRecord {
            name: "A".parse().unwrap(),
            version,
            set: deployd_api::ids::Timestamp(1),
            by: "maria".to_owned(),
            removed,
            recovery: (!removed).then(|| "-----BEGIN AGE".to_owned()),
        };
        let live = BTreeMap::from([("A".parse().unwrap(), 2)]);
        for (version, removed, is_live, recovery) in [
            (2, false, true, Some("-----BEGIN AGE")),
            (3, false, false, Some("-----BEGIN AGE")),
            (2, true, false, None),
        ] {
            let row = row(record(version, removed), &live);
            assert_eq!((row.live, row.recovery.as_deref()), (is_live, recovery), "{version} {removed}");
        }
    }

    #[test]
    fn a_wrong_body_is_refused_without_its_text() {
        for text in [
            r#"{"set": {"A": {"version": 1, "value": "hunter2!"}}}"#,
            r#"{"set": {"A": {"version": "hunter2", "value": "eA=="}}}"#,
            r#"{"hunter2": 1}"#,
            "hunter2",
        ] {
            let Refused(body) = read(Bytes::copy_from_slice(text.as_bytes())).unwrap_err();
            assert_eq!(body.code, ErrorCode::BadRequest);
            assert!(!format!("{body:?}").contains("hunter2"), "{body:?}");
        }
        let good = r#"{"set": {"A": {"version": 1, "value": "eA=="}}, "unset": ["B"], "by": "maria"}"#;
        let request = read(Bytes::copy_from_slice(good.as_bytes())).unwrap();
        assert_eq!((request.set.len(), request.unset.len(), request.by.as_str()), (1, 1, "maria"));
    }
}
