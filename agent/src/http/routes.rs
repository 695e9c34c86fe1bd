//! The router: the table of `deployd_api::route`, each entry with its handler, behind the one check of access.
//!
//! A new route is an entry there and a line here; a test holds that neither list has what the other lacks.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, on};
use deployd_api::route::Method::{self, Delete, Get, Post, Put};
use deployd_api::route::{LARGE_MAX, ROUTES, Route};

use super::{
    Api, access, answer, apps, audit, bodies, changes, commands, deployments, host, leases, logs, rollouts,
    secrets, tls, uploads,
};

/// Makes what answers a method of a path.
type Make = fn(MethodFilter) -> MethodRouter<Api>;

/// The handler of each route.
#[rustfmt::skip]
const HANDLERS: &[(Method, &str, Make)] = &[
    (Get, "/v1/openapi.json", |m| on(m, host::openapi)),
    (Get, "/v1/host", |m| on(m, host::info)),
    (Get, "/v1/doctor", |m| on(m, apps::doctor)),
    (Get, "/v1/apps", |m| on(m, apps::list)),
    (Get, "/v1/apps/{app}", |m| on(m, apps::status)),
    (Delete, "/v1/apps/{app}", |m| on(m, changes::remove)),
    (Post, "/v1/apps/{app}/uploads", |m| on(m, uploads::begin)),
    (Put, "/v1/apps/{app}/uploads/{artifact}", |m| on(m, uploads::receive)),
    (Post, "/v1/apps/{app}/plan", |m| on(m, apps::plan)),
    (Post, "/v1/apps/{app}/deployments", |m| on(m, changes::push)),
    (Get, "/v1/apps/{app}/deployments/{id}", |m| on(m, deployments::get)),
    (Get, "/v1/apps/{app}/deployments/{id}/events", |m| on(m, deployments::events)),
    (Post, "/v1/apps/{app}/deployments/{id}/abort", |m| on(m, deployments::abort)),
    (Post, "/v1/apps/{app}/rollback", |m| on(m, changes::rollback)),
    (Post, "/v1/apps/{app}/start", |m| on(m, changes::start)),
    (Post, "/v1/apps/{app}/stop", |m| on(m, changes::stop)),
    (Post, "/v1/apps/{app}/restart", |m| on(m, changes::restart)),
    (Get, "/v1/apps/{app}/lease", |m| on(m, leases::show)),
    (Post, "/v1/apps/{app}/lease", |m| on(m, leases::take)),
    (Delete, "/v1/apps/{app}/lease", |m| on(m, leases::give_up)),
    (Get, "/v1/apps/{app}/rollout", |m| on(m, rollouts::show)),
    (Put, "/v1/apps/{app}/rollout", |m| on(m, rollouts::put)),
    (Get, "/v1/apps/{app}/secrets", |m| on(m, secrets::list)),
    (Post, "/v1/apps/{app}/secrets", |m| on(m, secrets::change)),
    (Get, "/v1/apps/{app}/releases", |m| on(m, apps::releases)),
    (Post, "/v1/apps/{app}/releases/{label}/clear", |m| on(m, apps::clear)),
    (Post, "/v1/apps/{app}/commands", |m| on(m, commands::run)),
    (Get, "/v1/apps/{app}/logs", |m| on(m, logs::lines)),
    (Post, "/v1/tls/request", |m| on(m, tls::request)),
    (Put, "/v1/tls/certificate", |m| on(m, tls::certificate)),
    (Put, "/v1/tls/crl", |m| on(m, tls::revoked)),
];

/// Every route with its handler.
pub fn router(api: Api) -> Router {
    let handler = |route: &Route| {
        let found = HANDLERS.iter().find(|(method, path, _)| (*method, *path) == (route.method, route.path));
        found.map(|(method, _, make)| make(filter(*method)))
    };
    assemble(handler).with_state(api)
}

/// The table with these handlers, and what stands before and behind each.
pub(super) fn assemble<S: Clone + Send + Sync + 'static>(
    handler: impl Fn(&'static Route) -> Option<MethodRouter<S>>,
) -> Router<S> {
    let large = bodies::Bodies::default();
    // Nothing of a body is read before its caller may call.
    let guarded = ROUTES.iter().filter_map(|route| {
        let whole = handler(route)?.route_layer(from_fn_with_state((route, large.clone()), bodies::whole));
        Some((route.path, whole.route_layer(from_fn_with_state(route, access::decide))))
    });
    let router = guarded.fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router
        .fallback(answer::no_route)
        .layer(DefaultBodyLimit::max(LARGE_MAX as usize))
        .layer(from_fn(audit::noted))
}

pub(super) fn filter(method: Method) -> MethodFilter {
    match method {
        Get => MethodFilter::GET,
        Post => MethodFilter::POST,
        Put => MethodFilter::PUT,
        Delete => MethodFilter::DELETE,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use deployd_api::access::Role;
    use deployd_api::error::{ErrorBody, ErrorCode};
    use deployd_api::route::Needs;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::caller::Caller;

    #[test]
    fn every_route_has_a_handler_and_every_handler_a_route() {
        let routes: BTreeSet<_> = ROUTES.iter().map(|route| (route.method, route.path)).collect();
        let handlers: BTreeSet<_> = HANDLERS.iter().map(|(method, path, _)| (*method, *path)).collect();
        assert_eq!(routes, handlers);
        assert_eq!(handlers.len(), HANDLERS.len(), "a handler is there twice");
    }

    /// The real table, paths and layers; handlers that only say that they were reached.
    fn doors() -> Router {
        assemble(|route| Some(on(filter(route.method), || async { StatusCode::NO_CONTENT })))
    }

    async fn knock(route: &Route, caller: Option<Caller>) -> (StatusCode, Option<ErrorBody>) {
        let path = route.path.replace("{app}", "shop").replace("{label}", "v1").replace("{id}", "x");
        let path = path.replace("{artifact}", "x");
        let mut request =
            Request::builder().method(route.method.as_str()).uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().extend(
            caller
                .map(|caller| {
                    let mut extensions = axum::http::Extensions::new();
                    extensions.insert(caller);
                    extensions
                })
                .unwrap_or_default(),
        );
        let response = doors().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).ok())
    }

    /// Every route × every role.
    #[tokio::test]
    async fn a_role_opens_what_it_is_for_and_nothing_else() {
        let (own, other) = (Role::Deployer("shop".parse().unwrap()), Role::Deployer("blog".parse().unwrap()));
        for (roles, view, deploy, administer) in [
            (vec![], false, false, false),
            (vec![Role::Viewer], true, false, false),
            (vec![other.clone()], true, false, false),
            (vec![own.clone()], true, true, false),
            (vec![other, own, Role::Viewer], true, true, false),
            (vec![Role::Admin], true, true, true),
        ] {
            for route in ROUTES {
                let caller = Caller { name: "ops-1".into(), roles: roles.clone(), from: None };
                let open = match route.needs {
                    Needs::View => view,
                    Needs::Deploy => deploy,
                    Needs::Administer => administer,
                };
                let (status, body) = knock(route, Some(caller.clone())).await;
                if open {
                    assert_eq!(status, StatusCode::NO_CONTENT, "{route} {roles:?}");
                    continue;
                }
                let body = body.unwrap();
                assert_eq!((status, body.code), (StatusCode::FORBIDDEN, ErrorCode::Forbidden), "{route}");
                assert!(body.message.contains(&caller.roles_told()), "{}", body.message);
                assert!(body.hint.contains("pki issue ops-1 --role "), "{}", body.hint);
            }
        }
    }

    #[tokio::test]
    async fn who_has_no_name_has_no_rights() {
        for route in ROUTES {
            assert_eq!(knock(route, None).await.0, StatusCode::FORBIDDEN, "{route}");
        }
    }

    /// Names that are none end before rights are looked at, and no way to write a path gets around them.
    #[tokio::test]
    async fn the_app_is_the_one_that_the_handler_sees() {
        let caller =
            Caller { name: "ci".into(), roles: vec![Role::Deployer("shop".parse().unwrap())], from: None };
        for (path, status) in [
            ("/v1/apps/shop/start", 204),
            ("/v1/apps/%73hop/start", 204),
            ("/v1/apps/blog/start", 403),
            ("/v1/apps/Shop/start", 400),
            ("/v1/apps/shop%2F..%2Fblog/start", 400),
            ("/v1/apps//start", 400),
            ("/v1/apps/shop/../blog/start", 404),
            ("//v1/apps/blog/start", 404),
        ] {
            let mut request = Request::post(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(caller.clone());
            assert_eq!(doors().oneshot(request).await.unwrap().status().as_u16(), status, "{path}");
        }
    }
}
