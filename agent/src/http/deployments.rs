//! Routes of deployments: one, its events, its abort.

use std::collections::VecDeque;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::{Extension, Json};
use deployd_api::deployment::Deployment;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::event::{Event, What};
use deployd_api::ids::{AppName, DeploymentId};
use futures_util::stream;
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Refused, id, ndjson};
use super::caller::Caller;
use crate::supervisor::{store_failed, unknown_deployment};
use crate::view::Story;

/// App and deployment of the path.
type Parts = Path<(String, String)>;

/// The deployment, if it is one of the app in the path: a right to one app is none to another's.
async fn of_app(api: &Api, parts: &(String, String)) -> Result<Deployment, Refused> {
    let (app, id): (AppName, DeploymentId) = (id(&parts.0)?, id(&parts.1)?);
    let known = api.supervisor.known(&id).await?;
    Ok(known.filter(|found| found.app == app).ok_or_else(|| unknown_deployment(&id))?)
}

pub(super) async fn get(State(api): State<Api>, Path(parts): Parts) -> Answer<Deployment> {
    Ok(Json(of_app(&api, &parts).await?))
}

pub(super) async fn abort(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(parts): Parts,
) -> Answer<Deployment> {
    let known = of_app(&api, &parts).await?;
    let why = format!("{} ended it", caller.name);
    let failure = ErrorBody::new(ErrorCode::Aborted, why, "push again when it is mended");
    Ok(Json(api.supervisor.abort(&known.id, failure).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct After {
    /// The last event that the reader has.
    after: Option<u64>,
}

/// All events so far, then each as it comes, until the end.
pub(super) async fn events(
    State(api): State<Api>,
    Path(parts): Parts,
    Query(query): Query<After>,
) -> Result<Response, Refused> {
    let known = of_app(&api, &parts).await?;
    let reader = Reader {
        news: api.supervisor.news(),
        api,
        id: known.id,
        after: query.after,
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(ndjson(stream::unfold(reader, Reader::next)))
}

struct Reader {
    api: Api,
    id: DeploymentId,
    news: tokio::sync::watch::Receiver<u64>,
    after: Option<u64>,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = Some(event.seq);
                self.ended |= matches!(event.what, What::Finished { .. });
                return Some((event, self));
            }
            if self.ended {
                return None;
            }
            self.news.borrow_and_update();
            let events = self.load().await.ok()?;
            if events.is_empty() {
                self.news.changed().await.ok()?;
            }
            self.ready.extend(events);
        }
    }

    async fn load(&self) -> Result<Vec<Event>, ErrorBody> {
        let store = self.api.supervisor.store();
        let row = store.get(&self.id).await.map_err(|e| store_failed(&e))?;
        let row = row.ok_or_else(|| unknown_deployment(&self.id))?;
        let rows = store.load(&self.id).await.map_err(|e| store_failed(&e))?;
        Ok(Story::read(&row, &rows)?.events(&row, self.after))
    }
}
