//! NDJSON as it arrives.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::error::CtlError;

/// A body of JSON lines.
#[derive(Debug)]
pub(crate) struct Lines {
    during: String,
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    pub(super) fn new(during: String, body: Incoming) -> Self {
        Self { during, body, buffer: BytesMut::new() }
    }

    /// The next object; `None` at the orderly end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CtlError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|e| CtlError::Wire { during: self.during.clone(), source: e.into() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().ok()),
                Some(Err(e)) => {
                    return Err(CtlError::Lost { during: self.during.clone(), source: e.into() });
                }
                None => return Ok(None),
            }
        }
    }
}
