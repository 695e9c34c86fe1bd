//! Bodies of requests: read before a handler sees them, within the measure of their route and a time, and large ones
//! only so many at once. So no caller takes more of the agent's memory than is there for all.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::route::{BODY_MAX, Route};
use http_body_util::LengthLimitError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Refused;
use crate::effects::step_failed;

/// Large bodies that are read and worked on at one time: what one of half a million files takes, twice.
const LARGE_AT_ONCE: usize = 2;
/// How long a caller waits for a place among them.
const PLACE_WAIT: Duration = Duration::from_mins(1);
/// How long a body may take to arrive, and a large one.
const ARRIVES: Duration = Duration::from_secs(30);
const LARGE_ARRIVES: Duration = Duration::from_mins(5);

/// The places of large bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }
}

impl Bodies {
    /// A place for a large body; `None` when nobody went in time.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(PLACE_WAIT, self.0.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// Reads the body of a route that takes one whole; those of uploads and upgrades are streams of their own.
pub(super) async fn whole(
    State((route, bodies)): State<(&'static Route, Bodies)>,
    request: Request,
    next: Next,
) -> Response {
    let Some(max) = route.body_max() else { return next.run(request).await };
    let told = request.body().size_hint();
    if told.lower() > max {
        return too_large(max);
    }
    // One that does not say how long it is may be as long as it can.
    if told.upper().unwrap_or(max).min(max) <= BODY_MAX {
        return match read(request, max, ARRIVES).await {
            Ok(request) => next.run(request).await,
            Err(refusal) => refusal,
        };
    }
    let Some(place) = bodies.place().await else { return busy() };
    let request = match read(request, max, LARGE_ARRIVES).await {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    // A caller that goes away must not give its place up while its request is still worked on.
    let worked = tokio::spawn(async move {
        let response = next.run(request).await;
        drop(place);
        response
    });
    worked.await.unwrap_or_else(|e| Refused::from(step_failed(&e)).into_response())
}

async fn read(request: Request, max: u64, within: Duration) -> Result<Request, Response> {
    let (parts, body) = request.into_parts();
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    let Ok(read) = tokio::time::timeout(within, axum::body::to_bytes(body, limit)).await else {
        return Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time").into_response());
    };
    match read {
        Ok(bytes) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Err(e) if is_too_large(&e) => Err(too_large(max)),
        Err(e) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {e}")).into_response()),
    }
}

fn is_too_large(e: &axum::Error) -> bool {
    e.source().and_then(|why| why.downcast_ref::<LengthLimitError>()).is_some()
}

fn too_large(max: u64) -> Response {
    let text = format!("the body exceeds the length limit of this route, {} MiB", max >> 20);
    (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
}

fn busy() -> Response {
    let message = format!("{LARGE_AT_ONCE} large requests are being worked on already");
    let hint = "call again in a while: one after another, for manifests of very many files";
    Refused::from(ErrorBody::new(ErrorCode::RateLimited, message, hint)).into_response()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::DefaultBodyLimit;
    use axum::middleware::from_fn_with_state;
    use axum::routing::any;
    use deployd_api::route::ROUTES;
    use futures_util::stream;
    use tower::ServiceExt as _;

    use super::*;

    fn router(path: &str, bodies: &Bodies) -> Router {
        let route = ROUTES.iter().find(|r| r.to_string() == path).unwrap();
        let layer = from_fn_with_state((route, bodies.clone()), whole);
        let handler = any(|bytes: Bytes| async move { bytes.len().to_string() });
        Router::new().route("/", handler.layer(layer)).layer(DefaultBodyLimit::disable())
    }

    async fn send(path: &str, body: Body) -> u16 {
        let router = router(path, &Bodies::default());
        router.oneshot(Request::new(body)).await.unwrap().status().as_u16()
    }

    /// Without a length.
    fn streamed(size: usize) -> Body {
        let parts = vec![Bytes::from(vec![b' '; 64 << 10]); size.div_ceil(64 << 10)];
        Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn each_route_takes_what_it_is_for() {
        let (lease, rollout) = ("POST /v1/apps/{app}/lease", "PUT /v1/apps/{app}/rollout");
        for (path, size, status) in [
            (lease, 1 << 20, 200),
            (lease, (1 << 20) + (64 << 10), 413),
            (rollout, 4 << 20, 200),
            (rollout, (4 << 20) + (64 << 10), 413),
            ("POST /v1/apps/{app}/plan", 9 << 20, 200),
            ("POST /v1/apps/{app}/uploads", 9 << 20, 200),
        ] {
            assert_eq!(send(path, Body::from(vec![b' '; size])).await, status, "{path} {size}");
            assert_eq!(send(path, streamed(size)).await, status, "{path} {size}, in parts");
        }
    }

    /// A third large body waits until one of two is worked on; small ones do not.
    #[tokio::test]
    async fn so_many_large_ones_at_once() {
        let (bodies, plan) = (Bodies::default(), "POST /v1/apps/{app}/plan");
        let held = [bodies.place().await.unwrap(), bodies.place().await.unwrap()];
        let ask = |body| router(plan, &bodies).oneshot(Request::new(body));
        assert_eq!(ask(Body::from("{}")).await.unwrap().status(), StatusCode::OK);
        let mut third = Box::pin(ask(streamed(2 << 20)));
        tokio::select! {
            biased;
            _ = &mut third => panic!("there was no place"),
            () = tokio::task::yield_now() => {}
        }
        drop(held);
        assert_eq!(third.await.unwrap().status(), StatusCode::OK);
        assert_eq!(bodies.0.available_permits(), LARGE_AT_ONCE);
    }
}
