//! Answers: JSON, refusals, NDJSON streams, and parsing that answers in our own form.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use deployd_api::error::{ErrorBody, ErrorCode};
use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::audit::Why;

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
        let why = Why { code: self.0.code, message: self.0.message.clone() };
        let mut response = (status, Json(*self.0)).into_response();
        response.extensions_mut().insert(why);
        response
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

/// Most of a refusal of axum's that is read; they are one line.
const REFUSAL_MAX: usize = 64 << 10;

/// Gives refusals that axum made itself (a query, method or length that the route does not take) our form.
pub(super) async fn in_our_form(response: Response) -> Response {
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    let json = |v: &header::HeaderValue| v.as_bytes().starts_with(b"application/json");
    if !refused || response.headers().get(header::CONTENT_TYPE).is_some_and(json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, REFUSAL_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let said =
        if text.trim().is_empty() { status.canonical_reason().unwrap_or("refused") } else { text.trim() };
    let code = match status {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        _ if status.is_server_error() => ErrorCode::Internal,
        _ => ErrorCode::BadRequest,
    };
    let refusal = ErrorBody::new(code, said, "docs/reference/api.md lists the routes and what they take");
    // Other headers stay: a 405 says what is allowed.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let why = Why { code: refusal.code, message: refusal.message.clone() };
    let mut ours = (status, Json(refusal)).into_response();
    ours.extensions_mut().insert(why);
    ours.headers_mut().extend(parts.headers);
    ours
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::{DefaultBodyLimit, Query};
    use axum::http::Request;
    use axum::middleware::map_response;
    use axum::routing::{get, post};
    use tower::ServiceExt as _;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Wanted {
        lines: u32,
    }

    async fn ask(method: &str, uri: &str) -> (StatusCode, Response) {
        let router = Router::new()
            .route("/lines", get(|Query(w): Query<Wanted>| async move { w.lines.to_string() }))
            .route("/body", post(|bytes: Bytes| async move { bytes.len().to_string() }))
            .fallback(no_route)
            .layer(DefaultBodyLimit::max(2))
            .layer(map_response(in_our_form));
        let request = Request::builder().method(method).uri(uri).body(Body::from("abc")).unwrap();
        let response = router.oneshot(request).await.unwrap();
        (response.status(), response)
    }

    #[tokio::test]
    async fn every_refusal_has_our_form() {
        for (method, uri, status, code, said) in [
            ("GET", "/lines?lines=x", 400, ErrorCode::BadRequest, "invalid digit"),
            ("POST", "/lines", 405, ErrorCode::BadRequest, "Method Not Allowed"),
            ("POST", "/body", 413, ErrorCode::BadRequest, "length limit"),
            ("GET", "/nowhere", 404, ErrorCode::NotFound, "there is no route /nowhere"),
        ] {
            let (got, response) = ask(method, uri).await;
            assert_eq!(got.as_u16(), status, "{uri}");
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json", "{uri}");
            assert_eq!(response.headers().contains_key(header::ALLOW), status == 405, "{uri}");
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let body: ErrorBody = serde_json::from_slice(&body).unwrap();
            assert_eq!(body.code, code, "{uri}");
            assert!(body.message.contains(said), "{uri}: {}", body.message);
        }
        let (status, response) = ask("GET", "/lines?lines=7").await;
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        assert_eq!((status.as_u16(), &body[..]), (200, &b"7"[..]));
    }
}
