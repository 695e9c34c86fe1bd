//! The files of an artifact to one host: what it lacks, again from where it was when the connection breaks.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use deployd_api::deployment::{UploadAnswer, UploadRequest};
use deployd_api::ids::Digest;
use deployd_api::manifest::Manifest;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::artifact::{self, ArtifactError};
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
    let mut first = None;
    loop {
        let ask = || client.call::<UploadAnswer>(Method::POST, &path, request);
        let answer = Client::patiently(ask).await?;
        let total = sizes(&answer.missing);
        let first = *first.get_or_insert(total);
        let sent = if answer.missing.is_empty() {
            Ok(())
        } else {
            let path = format!("{path}/{}", answer.artifact);
            send_missing(client, &path, &request.manifest, answer.missing, dir, total, view).await
        };
        match sent {
            // The push itself is refused (`upload_incomplete`) if anything is missing all the same.
            Ok(()) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                view.sent(first, took);
                return Ok(answer.artifact);
            }
            Err(error) if error.is_absence() && back_off.wait().await => {}
            Err(error) => return Err(error),
        }
    }
}

/// One `PUT` of all missing contents; files are read on another thread.
async fn send_missing(
    client: &Client,
    path: &str,
    manifest: &Manifest,
    missing: Vec<Digest>,
    dir: &Path,
    total: u64,
    view: View<'_>,
) -> Result<(), CtlError> {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(READ_AHEAD);
    let (manifest, dir) = (manifest.clone(), dir.to_owned());
    let reader = tokio::task::spawn_blocking(move || -> Result<(), ArtifactError> {
        let outcome = artifact::send_contents(&dir, &manifest, &missing, |bytes| {
            sender.blocking_send(Ok(bytes)).is_ok()
        });
        if outcome.is_err() {
            // An error in the body cuts the request short, so that nothing wrong is taken for whole.
            let _ = sender.blocking_send(Err(std::io::Error::other("the artifact changed")));
        }
        outcome
    });
    let (counter, mut counted) = mpsc::unbounded_channel::<u64>();
    let frames = ReceiverStream::new(receiver).map(move |chunk| {
        chunk.map(|bytes| {
            // Nobody counts any more when the view is gone.
            let _ = counter.send(bytes.len() as u64);
            Frame::data(bytes)
        })
    });
    let body = BodyExt::boxed(StreamBody::new(frames));
    let request = client.send(Method::PUT, path, body);
    tokio::pin!(request);
    let mut sent = 0;
    let outcome = loop {
        tokio::select! {
            outcome = &mut request => break outcome,
            Some(bytes) = counted.recv() => {
                sent += bytes;
                view.sending(sent, total);
            }
        }
    };
    // The reader knows best why the request broke.
    match reader.await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => outcome.map(drop),
    }
}
