//! Routes that change an app: push, rollback, start, stop, restart, remove. All take the same: the app of the path,
//! the caller, the lease that it holds, and a body.

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request as HttpRequest};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use deployd_api::deployment::{Deployment, OperateRequest, PushRequest, RollbackRequest};
use deployd_api::ids::{AppName, DeploymentId};
use deployd_api::release::{Origin, ReleaseDocument};
use deployd_core::plan::{Push, Request};
use serde::de::DeserializeOwned;

use super::Api;
use super::answer::{Refused, body, id};
use super::apps::{checked, placed, same_app};
use super::caller::Caller;
use super::leases::claimed;
use crate::supervisor::{Call, Claim};

type Accepted = Result<(StatusCode, Json<Deployment>), Refused>;

/// A call that changes an app.
pub(super) struct Change {
    api: Api,
    app: AppName,
    caller: Caller,
    lease: Option<Claim>,
    bytes: Bytes,
}

impl FromRequest<Api> for Change {
    type Rejection = Response;

    async fn from_request(request: HttpRequest, api: &Api) -> Result<Self, Response> {
        let (mut parts, content) = request.into_parts();
        let Extension(caller) = Extension::<Caller>::from_request_parts(&mut parts, api)
            .await
            .map_err(IntoResponse::into_response)?;
        let Path(app) =
            Path::<String>::from_request_parts(&mut parts, api).await.map_err(IntoResponse::into_response)?;
        let app = id(&app).map_err(Refused::into_response)?;
        let lease = claimed(&parts.headers).map_err(Refused::into_response)?;
        let request = HttpRequest::from_parts(parts, content);
        let bytes = Bytes::from_request(request, api).await.map_err(IntoResponse::into_response)?;
        Ok(Self { api: api.clone(), app, caller, lease, bytes })
    }
}

impl Change {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        body(&self.bytes)
    }

    /// Who asks for it, whatever the request says.
    fn call(&self, id: DeploymentId, said: Origin) -> Call {
        Call { lease: self.lease.clone(), ..Call::new(id, self.caller.origin(said)) }
    }

    /// 202 while it runs, 200 when there was nothing to do.
    async fn submit(self, call: Call, request: Request) -> Accepted {
        let deployment = self.api.supervisor.submit(&self.app, call, request).await?;
        let status = if deployment.verdict.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok((status, Json(deployment)))
    }

    async fn operate(self, what: Request) -> Accepted {
        let request: OperateRequest = self.read()?;
        let call = self.call(request.id, request.origin);
        self.submit(call, what).await
    }
}

pub(super) async fn push(change: Change) -> Accepted {
    let request: PushRequest = change.read()?;
    same_app(&change.app, &request.spec.app)?;
    checked(&request.spec)?;
    placed(&request.spec, request.processes.as_ref())?;
    let call = Call { expect: request.expect, ..change.call(request.id, request.origin) };
    let secrets = request.secrets;
    let document = ReleaseDocument { secrets, ..ReleaseDocument::new(request.artifact, request.spec) };
    let push = Push {
        label: request.label,
        strategy: request.strategy,
        migrate: request.migrate,
        needs: request.needs,
        origin: call.origin.clone(),
        ..Push::new(document, request.processes.as_deref())
    };
    // From here on its plan looks at the disk, and counts what it needs itself; however it ends.
    change.api.reserved.release(&change.app, request.artifact);
    change.submit(call, Request::Push(Box::new(push))).await
}

pub(super) async fn rollback(change: Change) -> Accepted {
    let request: RollbackRequest = change.read()?;
    let call = change.call(request.id, request.origin);
    change.submit(call, Request::Rollback { to: request.to }).await
}

pub(super) async fn start(change: Change) -> Accepted {
    change.operate(Request::Start).await
}

pub(super) async fn stop(change: Change) -> Accepted {
    change.operate(Request::Stop).await
}

pub(super) async fn restart(change: Change) -> Accepted {
    change.operate(Request::Restart).await
}

pub(super) async fn remove(change: Change) -> Accepted {
    change.operate(Request::Remove).await
}
