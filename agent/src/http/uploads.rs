//! Routes of uploads: what is missing, and the stream that brings it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use deployd_api::deployment::{UploadAnswer, UploadRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use futures_util::TryStreamExt as _;
use tokio_util::io::StreamReader;

use super::Api;
use super::answer::{Answer, body, id};
use crate::observe;
use crate::store::disk::Reservation;
use crate::store::releases::{LinkPolicy, ReleaseError};

/// Room promised to pushes that are under way.
#[derive(Debug, Clone, Default)]
pub struct Reserved(Arc<Mutex<HashMap<(AppName, Digest), Reservation>>>);

impl Reserved {
    fn keep(&self, app: &AppName, artifact: Digest, room: Reservation) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((app.clone(), artifact), room);
    }

    /// The push has become a deployment, whose plan looked at the disk itself.
    pub(super) fn release(&self, app: &AppName, artifact: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(app.clone(), artifact));
    }
}

fn refused(e: &ReleaseError) -> ErrorBody {
    let hint = match e.code() {
        ErrorCode::DiskLow => "free disk space on the host: deployd-ctl doctor says where",
        ErrorCode::UploadIncomplete => "push again: it goes on where it stopped",
        _ => "mend the artifact and push again",
    };
    let mut out = ErrorBody::new(e.code(), e.to_string(), hint);
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        out = out.cause("because", s.to_string());
        source = s.source();
    }
    out
}

pub(super) async fn begin(State(api): State<Api>, bytes: Bytes) -> Answer<UploadAnswer> {
    let UploadRequest { app, manifest } = body(&bytes)?;
    let host = api.supervisor.host();
    let releases = host.releases.clone();
    let artifact = manifest.digest();
    // What an earlier try of the same push was promised is counted anew.
    api.reserved.release(&app, artifact);
    let changed = observe::plan::changed_files(&api.supervisor, &app, &manifest).await.len() as u64;
    let files = manifest.files().count() as u64;
    let of = app.clone();
    let work = move || releases.begin(&of, &manifest, LinkPolicy::Share);
    let missing = tokio::task::spawn_blocking(work).await.map_err(|_| ending())?.map_err(|e| refused(&e))?;
    let room = host.disk.reserve(missing.need).map_err(|e| {
        let hint = "free disk space on the host, or lower disk_reserve in /etc/deployd/agent.toml";
        ErrorBody::new(ErrorCode::DiskLow, e.to_string(), hint)
    })?;
    api.reserved.keep(&app, artifact, room);
    Ok(Json(UploadAnswer { artifact, missing: missing.digests, files, changed }))
}

pub(super) async fn receive(
    State(api): State<Api>,
    Path((app, artifact)): Path<(String, String)>,
    content: Body,
) -> Answer<serde_json::Value> {
    let (app, artifact): (AppName, Digest) = (id(&app)?, id(&artifact)?);
    let stream = content.into_data_stream().map_err(std::io::Error::other);
    let reader = StreamReader::new(stream);
    let received =
        api.supervisor.host().releases.receive(&app, artifact, reader).await.map_err(|e| refused(&e))?;
    Ok(Json(serde_json::json!({ "files": received.files, "bytes": received.bytes })))
}

fn ending() -> ErrorBody {
    ErrorBody::new(ErrorCode::Internal, "the agent is ending", "push again: it goes on where it stopped")
}
