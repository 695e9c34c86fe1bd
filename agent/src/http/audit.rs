//! One line in the agent's log for each refused call: who, from where, what, why. Never bodies or queries.
//!
//! What callers did that no deployment records is told under [`AUDIT`], whatever the log's level is.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use deployd_api::error::ErrorCode;
use tracing::{info, warn};

use super::answer::in_our_form;
use super::caller::Caller;

/// The target of lines about what somebody did: never filtered out.
pub const AUDIT: &str = "audit";

/// What a refusal leaves for the log on its response.
#[derive(Debug, Clone)]
pub(super) struct Why {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

/// Runs the request, gives its refusal our form, and notes it.
pub(super) async fn noted(request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().cloned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = in_our_form(next.run(request).await).await;
    if let (Some(caller), Some(why)) = (caller, response.extensions().get::<Why>()) {
        note(&caller, &method, &path, why);
    }
    response
}

/// Those that are about rights or limits stand out.
pub(super) fn note(caller: &Caller, method: &Method, path: &str, why: &Why) {
    let (name, from) = (caller.name.as_str(), caller.from_told());
    let (code, message) = (why.code.as_str(), why.message.as_str());
    match why.code {
        ErrorCode::Forbidden | ErrorCode::CertificateInvalid | ErrorCode::RateLimited => {
            warn!(caller = name, from, %method, path, code, why = message, "refused a call");
        }
        _ => info!(caller = name, from, %method, path, code, why = message, "refused a call"),
    }
}
