//! The one place that decides who may call what: the route's need, with the app of the path, against the caller's
//! roles. It stands before every handler.

use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use deployd_api::access::{Need, Role};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use deployd_api::route::Route;

use super::answer::{Refused, id};
use super::caller::Caller;

/// Lets a request through to its handler, or answers it.
pub(super) async fn decide(
    State(route): State<&'static Route>,
    parts: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let app = parts.iter().find(|(name, _)| *name == "app").map(|(_, text)| id::<AppName>(text)).transpose();
    let allowed = app.and_then(|app| {
        let caller = request.extensions().get::<Caller>();
        refusal(route, app.as_ref(), caller).map_or(Ok(()), |body| Err(Refused::from(body)))
    });
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Why this caller may not call this route.
fn refusal(route: &Route, app: Option<&AppName>, caller: Option<&Caller>) -> Option<ErrorBody> {
    // Neither happens: every listener names its callers, and a test holds that such routes name an app.
    let (Some(caller), Some(need)) = (caller, route.needs.of(app)) else {
        let message = format!("nobody may {route}");
        return Some(ErrorBody::new(ErrorCode::Forbidden, message, ErrorCode::Forbidden.next()));
    };
    if caller.roles.iter().any(|role| role.allows(&need)) {
        return None;
    }
    let (name, had) = (&caller.name, caller.roles_told());
    let message =
        format!("{name} may not {route}{}: it needs {}, and {name} has {had}", about(app), enough(&need));
    let role = match &need {
        Need::View => Role::Viewer,
        Need::Deploy(app) => Role::Deployer(app.clone()),
        Need::Administer => Role::Admin,
    };
    let hint = format!(
        "whoever holds the fleet's CA gives it: deployd-ctl pki issue {name} --role {role}; then use that identity"
    );
    Some(ErrorBody::new(ErrorCode::Forbidden, message, hint).about(name.clone()))
}

fn about(app: Option<&AppName>) -> String {
    app.map(|app| format!(" of {app}")).unwrap_or_default()
}

/// The roles of which one is enough, in words.
fn enough(need: &Need) -> String {
    match need {
        Need::View => "any role".to_owned(),
        Need::Deploy(app) => format!("{} or {}", Role::Deployer(app.clone()), Role::Admin),
        Need::Administer => Role::Admin.to_string(),
    }
}
