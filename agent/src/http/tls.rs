//! Routes of the host's certificate: a request for a new one, the answer, and the list of revoked ones. What was
//! taken in is in force when the call is answered.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::CertificateInfo;
use tracing::info;

use super::Api;
use super::answer::{Answer, Refused};
use super::audit::AUDIT;
use super::caller::Caller;
use crate::driver::clock;
use crate::effects::on_disk;
use crate::tls::{TlsError, Trust, enroll};

/// A request for a certificate with the name and the key that the host has.
pub(super) async fn request(State(api): State<Api>) -> Result<Response, Refused> {
    let not_enrolled = || TlsError::NotEnrolled { path: api.trust.dir().to_owned() };
    let name = api.trust.host().ok_or_else(|| refused(not_enrolled()))?;
    let dir = api.trust.dir().to_owned();
    let made = on_disk(move || enroll::request(&dir, &name)).await?.map_err(refused)?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], made).into_response())
}

pub(super) async fn certificate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    bundle: Bytes,
) -> Answer<CertificateInfo> {
    let bundle = text(bundle)?;
    let info = replaced(&api.trust, move |trust| enroll::install(trust.dir(), &bundle, clock::now())).await?;
    info!(target: AUDIT, audit = "tls", caller = caller.name, serial = %info.serial, "the host has a new certificate");
    Ok(Json(info))
}

pub(super) async fn revoked(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    list: Bytes,
) -> Answer<serde_json::Value> {
    let list = text(list)?;
    let install = move |trust: &Trust| enroll::install_revoked(trust.dir(), &list, clock::now());
    let revoked = replaced(&api.trust, install).await?;
    info!(target: AUDIT, audit = "tls", caller = caller.name, revoked, "the host has a new list of revoked certificates");
    Ok(Json(serde_json::json!({ "revoked": revoked })))
}

/// Changes files and puts them in force, one caller at a time.
async fn replaced<T: Send + 'static>(
    trust: &Trust,
    change: impl FnOnce(&Trust) -> Result<T, TlsError> + Send + 'static,
) -> Result<T, Refused> {
    let _turn = trust.writing().await;
    let trust = trust.clone();
    let work = move || {
        let done = change(&trust)?;
        trust.reload(clock::now())?;
        Ok(done)
    };
    on_disk(work).await?.map_err(refused)
}

fn refused(e: TlsError) -> Refused {
    e.body().into()
}

fn text(bytes: Bytes) -> Result<String, Refused> {
    if bytes.len() as u64 > enroll::BUNDLE_MAX {
        let message = format!("{} bytes are more than certificates take", bytes.len());
        return Err(ErrorBody::new(ErrorCode::BadRequest, message, "send PEM blocks").into());
    }
    String::from_utf8(bytes.into())
        .map_err(|_| ErrorBody::new(ErrorCode::BadRequest, "the body is not text", "send PEM blocks").into())
}
