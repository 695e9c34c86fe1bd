//! The body of an upload: frames (`digest | size | content`) of what a host lacks, as one zstd stream.
//!
//! Small files share the stream's window. It is flushed after a file once enough has gathered, so that what
//! arrived before a connection broke can be decoded, and is not sent again. Everything here blocks: it runs on
//! the thread that reads the files.

use std::collections::HashSet;
use std::io::{Read as _, Write};
use std::path::Path;

use bytes::Bytes;
use deployd_api::ids::Digest;
use deployd_api::manifest::Manifest;

use super::{ArtifactError, open_regular, read_error};

/// The word of `content-encoding` for this stream.
pub(crate) const ENCODING: &str = "zstd";

/// Bytes read, and sent, at once.
const CHUNK: usize = 256 * 1024;
/// How hard to compress: as fast as a network of 1 Gbit/s on one core.
const LEVEL: i32 = 3;
/// A file that ends after so many bytes since the last flush is flushed.
const FLUSH_BYTES: u64 = 1 << 20;

/// A part of the body.
#[derive(Debug)]
pub(crate) struct Part {
    /// What goes over the wire.
    pub(crate) wire: Bytes,
    /// Bytes of contents that were read for this and every part before.
    pub(crate) read: u64,
}

/// Hands the body for these contents to `send`, part by part; `send` says whether to go on.
pub(crate) fn send_contents(
    root: &Path,
    manifest: &Manifest,
    missing: &[Digest],
    send: impl FnMut(Part) -> bool,
) -> Result<(), ArtifactError> {
    let wanted: HashSet<&Digest> = missing.iter().collect();
    let mut sent = HashSet::new();
    let mut body = Body::new(send)?;
    for (path, size, digest) in manifest.files() {
        if !wanted.contains(&digest) || !sent.insert(digest) {
            continue;
        }
        let mut header = digest.as_bytes().to_vec();
        header.extend_from_slice(&size.to_le_bytes());
        body.write(&header)?;
        send_file(&root.join(path), size, digest, &mut body)?;
        body.end_of_file()?;
        if body.has_no_reader() {
            return Ok(());
        }
    }
    body.finish()
}

/// Sends one file and checks that it still is what was hashed.
fn send_file<S: FnMut(Part) -> bool>(
    path: &Path,
    size: u64,
    digest: Digest,
    body: &mut Body<S>,
) -> Result<(), ArtifactError> {
    let (file, _) = open_regular(path)?;
    let mut file = file.take(size);
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut rest = size;
    while rest > 0 && !body.has_no_reader() {
        let read = file.read(&mut chunk).map_err(read_error(path))?;
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        rest -= read as u64;
        body.write_content(&chunk[..read])?;
    }
    if body.has_no_reader() {
        return Ok(());
    }
    if rest > 0 || Digest::from_bytes(*hasher.finalize().as_bytes()) != digest {
        return Err(ArtifactError::Changed { path: path.to_owned() });
    }
    Ok(())
}

/// The encoder, and what it is fed with.
struct Body<S: FnMut(Part) -> bool> {
    encoder: zstd::Encoder<'static, Gather<S>>,
    since_flush: u64,
}

impl<S: FnMut(Part) -> bool> Body<S> {
    fn new(send: S) -> Result<Self, ArtifactError> {
        let gather = Gather { send, buffer: Vec::with_capacity(CHUNK), read: 0, closed: false };
        let encoder = zstd::Encoder::new(gather, LEVEL).map_err(ArtifactError::Compress)?;
        Ok(Self { encoder, since_flush: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.since_flush += bytes.len() as u64;
        self.encoder.write_all(bytes).map_err(ArtifactError::Compress)
    }

    fn write_content(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.encoder.get_mut().read += bytes.len() as u64;
        self.write(bytes)
    }

    fn end_of_file(&mut self) -> Result<(), ArtifactError> {
        if self.since_flush < FLUSH_BYTES {
            return Ok(());
        }
        self.since_flush = 0;
        self.encoder.flush().map_err(ArtifactError::Compress)
    }

    /// Whether nobody wants more: the request has ended.
    fn has_no_reader(&self) -> bool {
        self.encoder.get_ref().closed
    }

    fn finish(self) -> Result<(), ArtifactError> {
        let mut gather = self.encoder.finish().map_err(ArtifactError::Compress)?;
        gather.hand_on();
        Ok(())
    }
}

/// Gathers what the encoder writes to parts that are worth sending.
struct Gather<S: FnMut(Part) -> bool> {
    send: S,
    buffer: Vec<u8>,
    read: u64,
    closed: bool,
}

impl<S: FnMut(Part) -> bool> Gather<S> {
    fn hand_on(&mut self) {
        if self.buffer.is_empty() || self.closed {
            return;
        }
        let wire = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)).into();
        self.closed = !(self.send)(Part { wire, read: self.read });
    }
}

impl<S: FnMut(Part) -> bool> Write for Gather<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if !self.closed {
            self.buffer.extend_from_slice(bytes);
        }
        if self.buffer.len() >= CHUNK {
            self.hand_on();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.hand_on();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::scan;
    use super::super::tests::folder;
    use super::*;

    fn collect(root: &Path, missing: &[Digest]) -> (Vec<u8>, Vec<(usize, u64)>) {
        let (mut wire, mut parts) = (Vec::new(), Vec::new());
        let take = |part: Part| {
            wire.extend_from_slice(&part.wire);
            parts.push((part.wire.len(), part.read));
            true
        };
        send_contents(root, &scan(root).unwrap(), missing, take).unwrap();
        (wire, parts)
    }

    fn frame(content: &[u8]) -> Vec<u8> {
        let size = (content.len() as u64).to_le_bytes();
        [Digest::of(content).as_bytes().as_slice(), &size, content].concat()
    }

    /// Bytes that cannot be made smaller.
    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn equal_content_is_sent_once_and_changes_are_noticed() {
        let dir = folder();
        let manifest = scan(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        let (wire, _) = collect(dir.path(), &[digest]);
        assert_eq!(zstd::decode_all(&wire[..]).unwrap(), frame(b"hello"));
        fs::write(dir.path().join("bin/a"), "other").unwrap();
        let outcome = send_contents(dir.path(), &manifest, &[digest], |_| true);
        assert!(matches!(outcome, Err(ArtifactError::Changed { .. })));
    }

    #[test]
    fn small_files_share_a_stream_and_what_is_read_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<String> =
            (0..200).map(|n| format!("{}{n}", "the same words ".repeat(40))).collect();
        for (n, content) in contents.iter().enumerate() {
            fs::write(dir.path().join(n.to_string()), content).unwrap();
        }
        let missing: Vec<Digest> = contents.iter().map(|c| Digest::of(c.as_bytes())).collect();
        let (wire, parts) = collect(dir.path(), &missing);
        let total: usize = contents.iter().map(String::len).sum();
        assert_eq!(zstd::decode_all(&wire[..]).unwrap().len(), total + 200 * 40);
        assert_eq!(parts.last().unwrap().1, total as u64);
        // 200 digests cannot be made smaller; the words are there once.
        assert!(wire.len() < 200 * 32 + 4000, "{} bytes", wire.len());
    }

    /// Whatever arrived before a cut holds every file that ended a flush or more before it.
    #[test]
    fn a_cut_stream_can_be_decoded_up_to_the_last_flush() {
        let dir = tempfile::tempdir().unwrap();
        let contents: Vec<Vec<u8>> = (0..6).map(|n| noise(n, 600_000)).collect();
        for (n, content) in contents.iter().enumerate() {
            fs::write(dir.path().join(n.to_string()), content).unwrap();
        }
        let missing: Vec<Digest> = contents.iter().map(|c| Digest::of(c)).collect();
        let (wire, _) = collect(dir.path(), &missing);
        let whole: Vec<u8> = contents.iter().flat_map(|c| frame(c)).collect();
        assert!(zstd::decode_all(&wire[..]).unwrap() == whole);
        for cut in [1_300_000, 2_600_000] {
            let mut decoded = Vec::new();
            let mut decoder = zstd::Decoder::new(&wire[..cut]).unwrap();
            decoder.read_to_end(&mut decoded).unwrap_err();
            assert!(decoded.len() + (CHUNK * 2) > cut, "{} of {cut} bytes are of use", decoded.len());
            assert!(whole.starts_with(&decoded));
        }
    }

    #[test]
    fn it_stops_when_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let content = noise(1, 5 << 20);
        fs::write(dir.path().join("big"), &content).unwrap();
        let manifest = scan(dir.path()).unwrap();
        let mut calls = 0;
        let stop = |_: Part| {
            calls += 1;
            false
        };
        send_contents(dir.path(), &manifest, &[Digest::of(&content)], stop).unwrap();
        assert_eq!(calls, 1);
    }
}
