//! Answers: JSON, refusals, NDJSON streams, and parsing that answers in our own form.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use deployd_api::error::{ErrorBody, ErrorCode};
use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A refusal.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Box<ErrorBody>);

impl From<ErrorBody> for Refused {
    fn from(e: ErrorBody) -> Self {
        Self(Box::new(e))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(*self.0)).into_response()
    }
}

/// What handlers answer.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// A body, with an error that names the key and place.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(bytes).map_err(|e| {
        let hint =
            "GET the route's description in docs/reference/api.md; ctl and agent may differ in version";
        ErrorBody::new(ErrorCode::BadRequest, format!("the body is not of the route's form: {e}"), hint)
            .into()
    })
}

/// A part of the path, as one of our ids.
pub(super) fn id<T: std::str::FromStr<Err = deployd_api::ids::InvalidId>>(text: &str) -> Result<T, Refused> {
    text.parse().map_err(|e: deployd_api::ids::InvalidId| {
        ErrorBody::new(ErrorCode::BadRequest, e.to_string(), "mend the path of the request").into()
    })
}

/// One JSON object a line.
pub(super) fn ndjson<T, S>(items: S) -> Response
where
    T: Serialize,
    S: Stream<Item = T> + Send + 'static,
{
    use futures_util::StreamExt as _;
    let lines = items.map(|item| {
        let mut line = serde_json::to_vec(&item)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// No such route.
pub(super) async fn no_route(uri: Uri) -> Refused {
    let message = format!("there is no route {}", uri.path());
    ErrorBody::new(ErrorCode::NotFound, message, "docs/reference/api.md lists the routes").into()
}
