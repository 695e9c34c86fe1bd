//! Routes of uploads: what is missing, and the stream that brings it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use deployd_api::deployment::{UploadAnswer, UploadRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use futures_util::stream::{self, Stream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use tokio_util::io::StreamReader;

use super::Api;
use super::answer::{Answer, body, id};
use crate::effects::release_failed;
use crate::observe;
use crate::store::disk::{Need, Reservation};
use crate::store::releases::Encoding;

/// How long a push that sends nothing keeps its room.
const IDLE_MAX: Duration = Duration::from_hours(1);

/// Streams that are received at one time: each has a window of memory.
const RECEIVES_MAX: usize = 8;
/// How long a stream may be silent.
const SILENT_MAX: Duration = Duration::from_mins(1);

/// Room promised to pushes that are under way, and places for what they send.
#[derive(Debug, Clone)]
pub struct Reserved {
    rooms: Arc<Mutex<HashMap<(AppName, Digest), Promised>>>,
    receives: Arc<Semaphore>,
}

impl Default for Reserved {
    fn default() -> Self {
        Self { rooms: Arc::default(), receives: Arc::new(Semaphore::new(RECEIVES_MAX)) }
    }
}

#[derive(Debug)]
struct Promised {
    room: Reservation,
    /// When something of it last arrived.
    touched: Instant,
}

impl Reserved {
    fn map(&self) -> MutexGuard<'_, HashMap<(AppName, Digest), Promised>> {
        // A panic elsewhere leaves the map valid: entries are inserted and removed whole.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, app: &AppName, artifact: Digest, room: Reservation) {
        let promised = Promised { room, touched: Instant::now() };
        self.map().insert((app.clone(), artifact), promised);
    }

    /// Refuses to take what has no room: the push was refused, went on long ago, or was begun with an agent before
    /// this one.
    fn require(&self, app: &AppName, artifact: Digest) -> Result<(), ErrorBody> {
        if self.map().contains_key(&(app.clone(), artifact)) {
            return Ok(());
        }
        let message = format!("no room is reserved for files of this artifact of {app}");
        let hint = "push again: it asks for room first, and goes on where it stopped";
        Err(ErrorBody::new(ErrorCode::UploadIncomplete, message, hint))
    }

    /// A part is on disk now.
    fn used(&self, app: &AppName, artifact: Digest, part: Need) {
        if let Some(promised) = self.map().get_mut(&(app.clone(), artifact)) {
            promised.room.used(part);
            promised.touched = Instant::now();
        }
    }

    /// The push goes no further, or becomes a deployment, whose plan looks at the disk itself.
    pub(super) fn release(&self, app: &AppName, artifact: Digest) {
        self.map().remove(&(app.clone(), artifact));
    }

    /// Gives back what was promised to pushes of which nothing came for so long.
    pub(super) fn expire(&self, idle_max: Duration) {
        self.map().retain(|_, promised| promised.touched.elapsed() <= idle_max);
    }
}

pub(super) async fn begin(
    State(api): State<Api>,
    Path(path): Path<String>,
    bytes: Bytes,
) -> Answer<UploadAnswer> {
    let UploadRequest { app, manifest } = body(&bytes)?;
    super::apps::same_app(&id(&path)?, &app)?;
    let host = api.supervisor.host();
    let releases = host.releases.clone();
    let artifact = manifest.digest();
    // What an earlier try of the same push was promised is counted anew.
    api.reserved.release(&app, artifact);
    api.reserved.expire(IDLE_MAX);
    let changed = observe::plan::changed_files(&api.supervisor, &app, &manifest).await.len() as u64;
    let files = manifest.files().count() as u64;
    let of = app.clone();
    let work = move || releases.begin(&of, &manifest);
    let missing =
        tokio::task::spawn_blocking(work).await.map_err(|_| ending())?.map_err(|e| release_failed(&e))?;
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
    headers: HeaderMap,
    content: Body,
) -> Answer<serde_json::Value> {
    let (app, artifact): (AppName, Digest) = (id(&app)?, id(&artifact)?);
    let encoding = encoding(&headers)?;
    api.reserved.require(&app, artifact)?;
    let _place = api.reserved.receives.acquire().await.map_err(|_| ending())?;
    let reader = StreamReader::new(heard(content.into_data_stream().map_err(std::io::Error::other)));
    let on_disk = |part| api.reserved.used(&app, artifact, part);
    let received = api.supervisor.host().releases.receive(&app, artifact, encoding, reader, on_disk).await;
    let received = received.map_err(|e| release_failed(&e))?;
    Ok(Json(serde_json::json!({ "files": received.files, "bytes": received.bytes })))
}

/// A stream that breaks off when it is silent for too long: it has a place that others wait for.
fn heard<T>(stream: impl Stream<Item = io::Result<T>> + Unpin) -> impl Stream<Item = io::Result<T>> + Unpin {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, "nothing was sent for a minute");
    Box::pin(stream::unfold(Some(stream), move |from| async move {
        let mut from = from?;
        match tokio::time::timeout(SILENT_MAX, from.next()).await {
            Ok(next) => next.map(|part| (part, Some(from))),
            Err(_) => Some((Err(silent()), None)),
        }
    }))
}

/// How the body is encoded; one that is not known is refused before a byte of it is read.
fn encoding(headers: &HeaderMap) -> Result<Encoding, ErrorBody> {
    let word = headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("unreadable"));
    Encoding::of_header(word).ok_or_else(|| {
        let message = format!("uploads of the encoding {:?} are not understood", word.unwrap_or_default());
        ErrorBody::new(ErrorCode::BadRequest, message, "send the files as they are, or as zstd")
    })
}

fn ending() -> ErrorBody {
    ErrorBody::new(ErrorCode::Internal, "the agent is ending", "push again: it goes on where it stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::Reservations;

    #[test]
    fn only_known_encodings_are_read() {
        let of = |word: Option<&'static [u8]>| {
            let value = word.map(|word| axum::http::HeaderValue::from_bytes(word).unwrap());
            encoding(&value.map(|value| (CONTENT_ENCODING, value)).into_iter().collect())
        };
        assert_eq!(of(None).unwrap(), Encoding::Raw);
        assert_eq!(of(Some(b"zstd")).unwrap(), Encoding::Zstd);
        for unknown in [&b"gzip"[..], b"\xff"] {
            assert_eq!(of(Some(unknown)).unwrap_err().code, ErrorCode::BadRequest);
        }
    }

    /// What a push was promised comes back however it ends, and what has arrived is not counted twice.
    #[test]
    fn promised_room_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Reservations::new(dir.path().to_owned(), 0);
        let (reserved, app): (Reserved, AppName) = (Reserved::default(), "shop".parse().unwrap());
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let need = Need { bytes: 8192, inodes: 2 };
        reserved.keep(&app, one, ledger.reserve(need).unwrap());
        reserved.keep(&app, two, ledger.reserve(need).unwrap());
        reserved.used(&app, one, Need { bytes: 4096, inodes: 1 });
        assert_eq!(ledger.promised(), Need { bytes: 12_288, inodes: 3 });
        assert!(reserved.require(&app, one).is_ok());
        reserved.release(&app, one);
        let refusal = reserved.require(&app, one).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::UploadIncomplete, "ctl begins again at this one");
        assert_eq!(ledger.promised(), need);
        reserved.expire(IDLE_MAX);
        assert_eq!(ledger.promised(), need, "it was just made");
        reserved.expire(Duration::ZERO);
        assert_eq!(ledger.promised(), Need::default());
    }
}
