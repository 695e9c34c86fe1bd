//! Tests: uploads as one zstd stream, whole, cut, hostile.

use std::io::{Read as _, Write as _};

use deployd_api::error::ErrorCode;
use deployd_api::manifest::Manifest;

use super::frames::{Header, encode, encode_header};
use super::receive::Received;
use super::staging::INCOMING;
use super::tests::{Host, file, host};
use super::*;

const A: &[u8] = b"content a";

fn big() -> Vec<u8> {
    // Not to be compressed to nothing: a cut has to fall inside it.
    let mut hasher = blake3::Hasher::new().finalize_xof();
    let mut bytes = vec![0; 700_000];
    hasher.fill(&mut bytes);
    bytes
}

fn manifest(big: &[u8]) -> Manifest {
    Manifest::new(vec![file("a", A), file("big", big)]).unwrap()
}

async fn receive(host: &Host, artifact: Digest, stream: &[u8]) -> Result<Received, ReleaseError> {
    host.releases.receive(&host.app, artifact, Encoding::Zstd, stream, |_| ()).await
}

fn leftovers(host: &Host, artifact: Digest) -> usize {
    entry_names(&host.releases.staging(&host.app, artifact).join(INCOMING)).unwrap().len()
}

#[tokio::test]
async fn a_compressed_upload_is_the_same_upload() {
    let (host, big) = (host(), big());
    let begun = host.begin(&manifest(&big));
    let stream = zstd::encode_all(&encode(&[A, &big])[..], 3).unwrap();
    let received = receive(&host, begun.artifact, &stream).await.unwrap();
    assert_eq!((received.files, received.bytes), (2, 700_009));
    assert_eq!(host.begin(&manifest(&big)).digests, []);
}

/// What was flushed before the connection broke is kept, and the rest comes in a stream of its own.
#[tokio::test]
async fn a_compressed_upload_goes_on_where_it_broke() {
    let (host, big) = (host(), big());
    let artifact = host.begin(&manifest(&big)).artifact;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&encode(&[A])).unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&encode(&[&big])).unwrap();
    let stream = encoder.finish().unwrap();
    let error = receive(&host, artifact, &stream[..300_000]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UploadIncomplete, "{error:?}");
    assert_eq!(host.begin(&manifest(&big)).digests, [Digest::of(&big)], "what was complete is kept");
    assert_eq!(leftovers(&host, artifact), 0);
    let rest = zstd::encode_all(&encode(&[&big])[..], 3).unwrap();
    receive(&host, artifact, &rest).await.unwrap();
    assert_eq!(host.begin(&manifest(&big)).digests, []);
}

/// Every frame is there, but the stream has no end: it may have been cut by someone in between.
#[tokio::test]
async fn a_stream_without_its_end_is_not_whole() {
    let host = host();
    let manifest = Manifest::new(vec![file("a", A)]).unwrap();
    let artifact = host.begin(&manifest).artifact;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(&encode(&[A])).unwrap();
    encoder.flush().unwrap();
    let error = receive(&host, artifact, encoder.get_ref()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::UploadIncomplete, "{error:?}");
    assert_eq!(host.begin(&manifest).digests, [], "the content itself was whole");
}

/// A few kilobytes that decode to gigabytes are stopped by what the manifest announced.
#[tokio::test]
async fn bombs_stop_at_the_sizes_of_the_manifest() {
    let host = host();
    let manifest = Manifest::new(vec![file("a", A)]).unwrap();
    let artifact = host.begin(&manifest).artifact;
    let header = |size| encode_header(Header { digest: Digest::of(A), size });
    let whole = encode(&[A]);
    for (before, code) in [
        // Another size than announced, a content that nobody announced, more after the last content.
        (&header(64 << 20)[..], ErrorCode::ArtifactInvalid),
        (&[][..], ErrorCode::ArtifactInvalid),
        (&whole[..], ErrorCode::ArtifactInvalid),
        // The size is right, the content is not; the rest is read as the next header.
        (&header(A.len() as u64)[..], ErrorCode::DigestMismatch),
    ] {
        let plain = before.chain(std::io::repeat(0).take(64 << 20));
        let bomb = zstd::encode_all(plain, 3).unwrap();
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        let error = receive(&host, artifact, &bomb).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert_eq!(leftovers(&host, artifact), 0);
    }
}

#[tokio::test]
async fn garbage_is_refused_and_leaves_nothing() {
    let host = host();
    let artifact = host.begin(&Manifest::new(vec![file("a", A)]).unwrap()).artifact;
    for garbage in [&encode(&[A])[..], &[0xff; 5000][..], b"\x28\xb5\x2f\xfd\x00\xa8\x00\x00\x00"] {
        let error = receive(&host, artifact, garbage).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ArtifactInvalid, "{error:?}");
        assert_eq!(leftovers(&host, artifact), 0);
    }
}
