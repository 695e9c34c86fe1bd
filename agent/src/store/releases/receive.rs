//! Takes the stream of files of a push: every content is hashed while it is written, and gets its name
//! only when it is what it claims to be and durable.
//!
//! Memory is bounded by one buffer, the window of a compressed stream and a short list of open files, whatever
//! is sent. What was completed before a connection broke is kept. Called by the API's upload handler.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use deployd_api::ids::{AppName, Digest};
use nix::fcntl::renameat;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::encoding::{Encoding, Inflate};
use super::error::ReleaseError;
use super::frames::{Decoder, Header, Piece};
use super::staging::{INCOMING, OBJECTS, on_blocks, open};
use super::{Releases, manifests};
use crate::store::crash;
use crate::store::dirfd::Dir;
use crate::store::disk::Need;

/// Bytes read before they are handed to the disk in one go.
const BUFFER_BYTES: usize = 256 << 10;
/// Complete contents made durable together: after the first fsync the others cost little.
const BATCH_FILES: usize = 64;
/// The same, by bytes.
const BATCH_BYTES: u64 = 32 << 20;

/// What one stream brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Contents.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Releases {
    /// Takes a whole stream, and tells of each part of it that is on disk. The disk work is done on blocking
    /// threads.
    pub async fn receive(
        &self,
        app: &AppName,
        artifact: Digest,
        encoding: Encoding,
        mut from: impl AsyncRead + Unpin,
        on_disk: impl Fn(Need),
    ) -> Result<Received, ReleaseError> {
        let mut told_of = Need::default();
        let (releases, app) = (self.clone(), app.clone());
        let mut receiver = blocking(move || releases.receiver(&app, artifact, encoding)).await?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            let end = match fill(&mut from, &mut buffer).await {
                Ok(end) => end,
                Err(e) => {
                    blocking(move || receiver.feed(&buffer).and_then(|()| receiver.settle())).await?;
                    return Err(ReleaseError::Upload(e));
                }
            };
            (receiver, buffer) = blocking(move || {
                receiver.feed(&buffer)?;
                buffer.clear();
                Ok((receiver, buffer))
            })
            .await?;
            let part = receiver.taken;
            on_disk(Need { bytes: part.bytes - told_of.bytes, inodes: part.inodes - told_of.inodes });
            told_of = part;
            if end == End::Reached {
                return blocking(move || receiver.finish()).await;
            }
        }
    }

    /// A receiver for the contents of an artifact that was begun. It blocks.
    pub fn receiver(
        &self,
        app: &AppName,
        artifact: Digest,
        encoding: Encoding,
    ) -> Result<Receiver, ReleaseError> {
        let sizes = manifests::contents(&self.staged_manifest(app, artifact)?)?;
        let staging = self.staging(app, artifact);
        Ok(Receiver {
            objects: open(&staging.join(OBJECTS))?,
            incoming: open(&staging.join(INCOMING))?,
            shown: staging,
            sizes,
            seen: HashSet::new(),
            inflate: if encoding == Encoding::Zstd { Some(Inflate::new()?) } else { None },
            decoder: Decoder::default(),
            current: None,
            pending: Vec::new(),
            pending_bytes: 0,
            received: Received::default(),
            taken: Need::default(),
        })
    }
}

#[derive(PartialEq, Eq)]
enum End {
    Reached,
    NotYet,
}

/// Reads until the buffer is full or the stream ends.
async fn fill(from: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> std::io::Result<End> {
    while buffer.len() < BUFFER_BYTES {
        let mut part = from.take((BUFFER_BYTES - buffer.len()) as u64);
        if part.read_buf(buffer).await? == 0 {
            return Ok(End::Reached);
        }
    }
    Ok(End::NotYet)
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, ReleaseError> + Send + 'static,
) -> Result<T, ReleaseError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| ReleaseError::Ending)?
}

/// The receiving end of one stream.
#[derive(Debug)]
pub struct Receiver {
    objects: Dir,
    incoming: Dir,
    shown: PathBuf,
    sizes: HashMap<Digest, u64>,
    seen: HashSet<Digest>,
    /// Only when the stream is compressed.
    inflate: Option<Inflate>,
    decoder: Decoder,
    current: Option<Current>,
    pending: Vec<Complete>,
    pending_bytes: u64,
    received: Received,
    /// What that takes of the disk.
    taken: Need,
}

/// The content that is being written.
#[derive(Debug)]
struct Current {
    file: File,
    name: String,
    header: Header,
    hasher: blake3::Hasher,
}

/// A verified content that is not durable yet.
#[derive(Debug)]
struct Complete {
    file: File,
    name: String,
    digest: Digest,
}

impl Receiver {
    /// Takes the next bytes of the stream. After an error the receiver must be dropped.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ReleaseError> {
        let Some(mut inflate) = self.inflate.take() else { return self.feed_frames(bytes) };
        let out = inflate.feed(bytes, |part| self.feed_frames(part));
        self.inflate = Some(inflate);
        out
    }

    fn feed_frames(&mut self, bytes: &[u8]) -> Result<(), ReleaseError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        let out = decoder.feed(bytes, |piece| match piece {
            Piece::Begin(header) => self.begin(header),
            Piece::Bytes(bytes) => self.write(bytes),
            Piece::End => self.end(),
        });
        self.decoder = decoder;
        out
    }

    /// The stream has ended: makes the rest durable, and refuses a stream that was cut short.
    pub fn finish(mut self) -> Result<Received, ReleaseError> {
        self.settle()?;
        self.decoder.finish()?;
        if let Some(inflate) = &self.inflate {
            inflate.finish()?;
        }
        Ok(self.received)
    }

    /// Makes every complete content durable and gives it its name.
    pub fn settle(&mut self) -> Result<(), ReleaseError> {
        for complete in &self.pending {
            complete.file.sync_data().map_err(ReleaseError::io("sync a file of", &self.shown))?;
        }
        crash::point("receive: synced");
        for complete in self.pending.drain(..) {
            let digest = complete.digest.to_string();
            renameat(&self.incoming, complete.name.as_str(), &self.objects, digest.as_str())
                .map_err(|e| ReleaseError::io("name a file of", &self.shown)(e.into()))?;
            crash::point("receive: named");
        }
        self.pending_bytes = 0;
        self.objects.sync().map_err(ReleaseError::io("sync", &self.shown))
    }

    fn begin(&mut self, header: Header) -> Result<(), ReleaseError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Header { digest, size: found } = header;
        let expected = *self.sizes.get(&digest).ok_or(ReleaseError::UnknownContent { digest })?;
        if expected != found {
            return Err(ReleaseError::WrongSize { digest, expected, found });
        }
        if !self.seen.insert(digest) {
            return Err(ReleaseError::Repeated { digest });
        }
        // Two streams of one artifact may run, when a client comes back before its old connection ends.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{digest}.{}.{count}", std::process::id());
        let file = self
            .incoming
            .create_file(&name, 0o644)
            .map_err(ReleaseError::io("make a file in", &self.shown))?;
        self.current = Some(Current { file, name, header, hasher: blake3::Hasher::new() });
        crash::point("receive: made");
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ReleaseError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.hasher.update(bytes);
        current.file.write_all(bytes).map_err(ReleaseError::io("write a file in", &self.shown))
    }

    fn end(&mut self) -> Result<(), ReleaseError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let found = Digest::from_bytes(*current.hasher.finalize().as_bytes());
        let expected = current.header.digest;
        if found != expected {
            // Dropping the receiver removes only what it still knows of.
            self.current = Some(current);
            return Err(ReleaseError::DigestMismatch { expected, found });
        }
        self.received.files += 1;
        self.received.bytes += current.header.size;
        self.taken.bytes += on_blocks(current.header.size);
        self.taken.inodes += 1;
        self.pending_bytes += current.header.size;
        self.pending.push(Complete { file: current.file, name: current.name, digest: expected });
        crash::point("receive: verified");
        if self.pending.len() >= BATCH_FILES || self.pending_bytes >= BATCH_BYTES {
            self.settle()?;
        }
        Ok(())
    }
}

impl Drop for Receiver {
    /// Removes what was not completed; what a kill leaves is removed at the agent's start.
    fn drop(&mut self) {
        let names = self.pending.iter().map(|c| &c.name).chain(self.current.iter().map(|c| &c.name));
        for name in names {
            drop(self.incoming.unlink(name.as_str()));
        }
    }
}
