//! The files of an artifact to one host: what it lacks, again from where it was when the connection breaks.

use std::path::Path;
use std::time::Instant;

use deployd_api::deployment::{UploadAnswer, UploadRequest};
use deployd_api::error::ErrorCode;
use deployd_api::ids::Digest;
use deployd_api::manifest::Manifest;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::artifact::{self, ArtifactError, Part};
use crate::client::{BackOff, Client};
use crate::error::CtlError;
use crate::progress::View;

/// Chunks read ahead of the connection: enough to keep it busy, 2 MB of memory.
const READ_AHEAD: usize = 8;

/// Sends what the host lacks.
pub(crate) async fn send(
    client: &Client,
    request: &UploadRequest,
    dir: &Path,
    view: View<'_>,
) -> Result<Digest, CtlError> {
    let began = Instant::now();
    let sizes = |missing: &[Digest]| -> u64 {
        let mut seen: std::collections::HashSet<Digest> = missing.iter().copied().collect();
        request.manifest.files().filter(|(_, _, d)| seen.remove(d)).map(|(_, size, _)| size).sum()
    };
    let path = format!("/apps/{}/uploads", request.app);
    let mut back_off = BackOff::new();
    let mut wire = 0;
    loop {
        let ask = || client.call::<UploadAnswer>(Method::POST, &path, request);
        let answer = Client::patiently(ask).await?;
        let total = sizes(&answer.missing);
        let sent = if answer.missing.is_empty() {
            Ok(())
        } else {
            let path = format!("{path}/{}", answer.artifact);
            send_missing(client, &path, &request.manifest, answer.missing, dir, (total, &mut wire), view)
                .await
        };
        match sent {
            // The push itself is refused (`upload_incomplete`) if anything is missing all the same.
            Ok(()) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                view.sent(wire, took);
                return Ok(answer.artifact);
            }
            Err(error) if begins_again(&error) && back_off.wait().await => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether asking anew what is missing may help: the agent is away, or lost what it had reserved for this.
fn begins_again(error: &CtlError) -> bool {
    error.is_absence() || matches!(error, CtlError::Answer(body) if body.code == ErrorCode::UploadIncomplete)
}

/// One `PUT` of all missing contents; files are read on another thread.
async fn send_missing(
    client: &Client,
    path: &str,
    manifest: &Manifest,
    missing: Vec<Digest>,
    dir: &Path,
    (total, wire): (u64, &mut u64),
    view: View<'_>,
) -> Result<(), CtlError> {
    let (sender, receiver) = mpsc::channel::<Result<Part, std::io::Error>>(READ_AHEAD);
    let (manifest, dir) = (manifest.clone(), dir.to_owned());
    let reader = tokio::task::spawn_blocking(move || -> Result<(), ArtifactError> {
        let outcome =
            artifact::send_contents(&dir, &manifest, &missing, |part| sender.blocking_send(Ok(part)).is_ok());
        if outcome.is_err() {
            // An error in the body cuts the request short, so that nothing wrong is taken for whole.
            let _ = sender.blocking_send(Err(std::io::Error::other("the artifact changed")));
        }
        outcome
    });
    let (counter, mut counted) = mpsc::unbounded_channel::<(usize, u64)>();
    let frames = ReceiverStream::new(receiver).map(move |chunk| {
        chunk.map(|part| {
            // Nobody counts any more when the view is gone.
            let _ = counter.send((part.wire.len(), part.read));
            Frame::data(part.wire)
        })
    });
    let body = BodyExt::boxed(StreamBody::new(frames));
    let client = client.with_header("content-encoding", artifact::ENCODING.to_owned());
    let request = client.send(Method::PUT, path, body);
    tokio::pin!(request);
    let outcome = loop {
        tokio::select! {
            outcome = &mut request => break outcome,
            Some((bytes, read)) = counted.recv() => {
                *wire += bytes as u64;
                view.sending(read, total);
            }
        }
    };
    // The last parts may have been taken together with the answer.
    while let Ok((bytes, _)) = counted.try_recv() {
        *wire += bytes as u64;
    }
    // The reader knows best why the request broke.
    match reader.await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => outcome.map(drop),
    }
}
