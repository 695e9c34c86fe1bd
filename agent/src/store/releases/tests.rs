//! Pushes onto a real file system: what is shared, what is refused, and kills at every instant.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]

use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use deployd_api::manifest::{Entry, EntryKind, Manifest};

use super::frames::{Header, encode, encode_header};
use super::staging::Missing;
use super::verify::Depth;
use super::*;
use crate::store::crash::{Child, child_dir, run_child};
use crate::store::disk::Need;

pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
    pub(super) releases: Releases,
    pub(super) app: AppName,
}

pub(super) fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let releases = open_releases(dir.path());
    Host { dir, releases, app: "shop".parse().unwrap() }
}

fn open_releases(dir: &Path) -> Releases {
    Releases::open(&dir.join("state"), &dir.join("app-states")).unwrap()
}

pub(super) fn file(path: &str, content: &[u8]) -> Entry {
    let kind = EntryKind::File { executable: false, size: content.len() as u64, digest: Digest::of(content) };
    Entry { path: path.into(), kind }
}

pub(super) fn program(path: &str, content: &[u8]) -> Entry {
    let kind = EntryKind::File { executable: true, size: content.len() as u64, digest: Digest::of(content) };
    Entry { path: path.into(), kind }
}

pub(super) fn link(path: &str, target: &str) -> Entry {
    Entry { path: path.into(), kind: EntryKind::Link { target: target.into() } }
}

pub(super) fn folder(path: &str) -> Entry {
    Entry { path: path.into(), kind: EntryKind::Dir }
}

pub(super) fn name(n: u32) -> TreeName {
    TreeName::new(Label::new(n).unwrap(), Digest::of(&n.to_le_bytes()))
}

impl Host {
    pub(super) fn begin(&self, manifest: &Manifest) -> Missing {
        self.releases.begin(&self.app, manifest).unwrap()
    }

    fn send(&self, artifact: Digest, stream: &[u8]) -> Result<receive::Received, ReleaseError> {
        let mut receiver = self.releases.receiver(&self.app, artifact, Encoding::Raw)?;
        // In odd parts, as a network would.
        for part in stream.chunks(37) {
            receiver.feed(part)?;
        }
        receiver.finish()
    }

    /// A whole push: what is missing is sent from `contents`.
    pub(super) fn push(&self, manifest: &Manifest, contents: &[&[u8]], n: u32) -> seal::Sealed {
        let missing = self.begin(manifest);
        let sent: Vec<&[u8]> =
            contents.iter().copied().filter(|c| missing.digests.contains(&Digest::of(c))).collect();
        assert_eq!(sent.len(), missing.digests.len());
        self.send(missing.artifact, &encode(&sent)).unwrap();
        self.seal(manifest, n).unwrap()
    }

    fn seal(&self, manifest: &Manifest, n: u32) -> Result<seal::Sealed, ReleaseError> {
        self.releases.seal(&self.app, manifest.digest(), &name(n))
    }

    pub(super) fn path(&self, n: u32, path: &str) -> PathBuf {
        self.releases.tree(&self.app, &name(n)).join(path)
    }

    fn inode(&self, n: u32, path: &str) -> u64 {
        std::fs::metadata(self.path(n, path)).unwrap().ino()
    }

    /// Whether this file system shares extents: then nothing is ever hard-linked or copied.
    fn reflinks(&self) -> bool {
        let path = |name: &str| self.dir.path().join(name);
        std::fs::write(path("probe"), "x").unwrap();
        let from = std::fs::File::open(path("probe")).unwrap();
        rustix::fs::ioctl_ficlone(std::fs::File::create(path("probed")).unwrap(), from).is_ok()
    }

    fn staged(&self) -> usize {
        self.releases.staged(&self.app).unwrap().len()
    }
}

const A: &[u8] = b"content a";
const B: &[u8] = b"content b, which is longer";
const C: &[u8] = b"";

fn first() -> Manifest {
    Manifest::new(vec![
        program("bin/run", A),
        file("lib/deep/data", B),
        file("lib/empty", C),
        file("lib/same", A),
        folder("tmp"),
        link("current", "lib/deep"),
    ])
    .unwrap()
}

#[test]
fn a_tree_is_what_its_manifest_says() {
    let host = host();
    let missing = host.begin(&first());
    assert_eq!(missing.digests, [Digest::of(A), Digest::of(B), Digest::of(C)]);
    assert_eq!(missing.bytes, (A.len() + B.len()) as u64);
    let sealed = host.push(&first(), &[A, B, C], 1);
    assert_eq!((sealed.received, sealed.shared + sealed.copied), (3, 1));
    assert_eq!(std::fs::read(host.path(1, "current/data")).unwrap(), B);
    assert_eq!(std::fs::metadata(host.path(1, "bin/run")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(host.path(1, "lib/same")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(host.path(1, "bin")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(host.path(1, "")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::metadata(host.path(1, "lib/empty")).unwrap().nlink(), 1, "staging keeps nothing");
    host.releases.verify(&host.app, &name(1), Depth::Content).unwrap();
    assert_eq!(host.releases.manifest(&host.app, &name(1)).unwrap(), first());
    assert_eq!(host.releases.list(&host.app).unwrap(), [name(1)]);
    assert_eq!(host.staged(), 0);
}

#[test]
fn an_equal_file_costs_nothing_and_a_mode_is_a_difference() {
    let host = host();
    host.push(&first(), &[A, B, C], 1);
    let second = Manifest::new(vec![file("bin/run", A), file("moved", B), file("new", b"new")]).unwrap();
    let missing = host.begin(&second);
    assert_eq!(missing.digests, [Digest::of(b"new")]);
    let sealed = host.push(&second, &[b"new"], 2);
    assert_eq!((sealed.received, sealed.copied), (1, 0));
    let linked = !host.reflinks();
    assert_eq!(host.inode(1, "lib/same") == host.inode(2, "bin/run"), linked, "the one that has the mode");
    assert_ne!(host.inode(1, "bin/run"), host.inode(2, "bin/run"));
    assert_eq!(host.inode(1, "lib/deep/data") == host.inode(2, "moved"), linked);

    let third = Manifest::new(vec![program("moved", B)]).unwrap();
    let sealed = host.push(&third, &[], 3);
    assert_eq!(sealed.copied, u64::from(linked), "its mode differs");
    host.releases.verify(&host.app, &name(1), Depth::Content).unwrap();
    host.releases.verify(&host.app, &name(3), Depth::Content).unwrap();
}

#[test]
fn a_kept_file_that_is_not_as_we_left_it_gives_nothing() {
    let changes: [fn(&Path); 4] = [
        |p| std::fs::set_permissions(p, Permissions::from_mode(0o666)).unwrap(),
        |p| std::fs::write(p, "other size").unwrap(),
        |p| std::fs::remove_file(p).unwrap(),
        |p| {
            std::fs::rename(p, p.with_extension("old")).unwrap();
            std::os::unix::fs::symlink(p.with_extension("old"), p).unwrap();
        },
    ];
    for change in changes {
        let host = host();
        let only = Manifest::new(vec![file("lib/data", B)]).unwrap();
        host.push(&only, &[B], 1);
        change(&host.path(1, "lib/data"));
        let second = Manifest::new(vec![file("data", B)]).unwrap();
        assert_eq!(host.begin(&second).digests, [Digest::of(B)]);
        assert!(host.releases.verify(&host.app, &name(1), Depth::Shape).is_err());
        host.push(&second, &[B], 2);
        host.releases.verify(&host.app, &name(2), Depth::Content).unwrap();
    }
}

#[test]
fn another_apps_files_are_never_used() {
    let host = host();
    host.push(&first(), &[A, B, C], 1);
    let other = "blog".parse().unwrap();
    assert_eq!(host.releases.begin(&other, &first()).unwrap().digests.len(), 3);
}

#[test]
fn too_many_links_fall_back_to_a_copy() {
    let host = host();
    let only = Manifest::new(vec![file("data", B)]).unwrap();
    host.push(&only, &[B], 1);
    let many = host.dir.path().join("many");
    std::fs::create_dir(&many).unwrap();
    let full =
        (0..70_000).find(|i| std::fs::hard_link(host.path(1, "data"), many.join(i.to_string())).is_err());
    if full.is_none() || host.reflinks() {
        eprintln!("skipped: this file system does not limit links, or needs none");
        return;
    }
    let sealed = host.push(&Manifest::new(vec![file("again", B)]).unwrap(), &[], 2);
    assert_eq!(sealed.copied, 1);
    host.releases.verify(&host.app, &name(2), Depth::Content).unwrap();
}

#[test]
fn streams_that_are_not_what_they_claim_are_refused() {
    let host = host();
    let artifact = host.begin(&first()).artifact;
    let header =
        |content: &[u8], size: u64| encode_header(Header { digest: Digest::of(content), size }).to_vec();
    let send = |stream: Vec<u8>| host.send(artifact, &stream).unwrap_err();
    let mut lie = header(B, B.len() as u64);
    lie.extend(vec![b'x'; B.len()]);
    assert!(matches!(send(lie), ReleaseError::DigestMismatch { .. }));
    assert!(matches!(send(encode(&[b"stranger"])), ReleaseError::UnknownContent { .. }));
    assert!(matches!(send(header(B, u64::MAX)), ReleaseError::WrongSize { .. }));
    assert!(matches!(send(header(B, 1)), ReleaseError::WrongSize { .. }));
    assert!(matches!(send(encode(&[A, A])), ReleaseError::Repeated { .. }));
    assert!(matches!(send(encode(&[B])[..50].to_vec()), ReleaseError::Frame(_)));
    let staging = host.releases.staging(&host.app, artifact);
    assert!(entry_names(&staging.join(staging::INCOMING)).unwrap().is_empty(), "nothing is left");
    assert!(matches!(host.send(Digest::of(b"?"), &[]), Err(ReleaseError::NotBegun { .. })));
    assert!(matches!(host.seal(&first(), 1), Err(ReleaseError::Incomplete { .. })));
    assert_eq!(host.releases.list(&host.app).unwrap(), []);
}

#[test]
fn manifests_that_lie_are_refused_before_anything_is_written() {
    let host = host();
    let sized = |path: &str, size| {
        let kind = EntryKind::File { executable: false, size, digest: Digest::of(b"same") };
        Entry { path: path.into(), kind }
    };
    let huge = |path: &str| {
        let kind = EntryKind::File { executable: false, size: u64::MAX, digest: Digest::of(path.as_bytes()) };
        Entry { path: path.into(), kind }
    };
    let begin = |entries: Vec<Entry>| {
        // As it comes over the wire: not made by `Manifest::new`.
        let wire = serde_json::to_value(entries).unwrap();
        let manifest: Manifest = serde_json::from_value(wire).unwrap();
        host.releases.begin(&host.app, &manifest).unwrap_err()
    };
    assert!(matches!(begin(vec![sized("a", 1), sized("b", 2)]), ReleaseError::TwoSizes { .. }));
    assert!(matches!(begin(vec![huge("a"), huge("b")]), ReleaseError::TooLarge));
    for bad in [
        vec![file("../escape", A)],
        vec![file("/etc/passwd", A)],
        vec![file("a", A), file("a", B)],
        vec![file("b", A), file("a", A)],
        vec![link("a", "/etc/passwd")],
        vec![link("a", "../../etc")],
        vec![link("a", "b"), file("a/x", A)],
        vec![link("m", "p/q/d/.."), link("p/q/d", "../..")],
    ] {
        assert!(matches!(begin(bad.clone()), ReleaseError::Manifest(_)), "{bad:?}");
    }
    assert!(!host.releases.staging_root(&host.app).exists());
}

#[test]
fn a_name_is_never_given_to_another_content() {
    let host = host();
    host.push(&first(), &[A, B, C], 1);
    // Again: nothing to do, and nothing left behind.
    host.begin(&first());
    assert_eq!(host.seal(&first(), 1).unwrap().received, 0);
    assert_eq!(host.staged(), 0);
    let other = Manifest::new(vec![file("x", A)]).unwrap();
    host.begin(&other);
    assert!(matches!(host.seal(&other, 1), Err(ReleaseError::TreeExists { .. })));
    assert_eq!(host.releases.discard(&host.app, other.digest()).unwrap().leftovers, []);
    assert_eq!(host.staged(), 0);
    std::fs::write(host.path(1, "bin/extra"), "x").unwrap();
    assert!(matches!(host.seal(&first(), 1), Err(ReleaseError::NotAsSealed { .. })));
}

#[test]
fn trees_are_listed_newest_first_and_removed_whole() {
    let host = host();
    for n in [2, 10, 9] {
        host.push(&first(), &[A, B, C], n);
    }
    assert_eq!(host.releases.list(&host.app).unwrap(), [name(10), name(9), name(2)]);
    assert_eq!(host.releases.remove(&host.app, &name(9)).unwrap().leftovers, []);
    assert_eq!(host.releases.remove(&host.app, &name(9)).unwrap().leftovers, []);
    assert_eq!(host.releases.list(&host.app).unwrap(), [name(10), name(2)]);
    assert_eq!(entry_names(&host.releases.trees(&host.app)).unwrap().len(), 4, "no manifest stays");
    host.releases.verify(&host.app, &name(10), Depth::Content).unwrap();
    assert_eq!(host.releases.remove_app(&host.app).unwrap().leftovers, []);
    assert_eq!(host.releases.list(&host.app).unwrap(), []);
}

/// A push that goes nowhere is forgotten when nothing of it came for long, also one of an unknown app.
#[test]
fn staging_that_nobody_takes_up_is_collected() {
    let host = host();
    let begun = host.begin(&first());
    host.send(begun.artifact, &encode(&[A])).unwrap();
    let staging = host.releases.staging(&host.app, begun.artifact);
    let last = || host.releases.staged(&host.app).unwrap()[0].1;
    let before = last();
    assert_eq!(host.releases.collect_staging(&host.app, before).unwrap(), 0);
    // Taking it up again counts.
    let old = std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
    for folder in [staging.join("objects"), staging.join(".incoming"), staging.clone()] {
        std::fs::File::open(folder).unwrap().set_times(old).unwrap();
    }
    assert_eq!(last(), SystemTime::UNIX_EPOCH);
    host.begin(&first());
    assert!(last() >= before);
    assert_eq!(host.releases.apps().unwrap(), std::slice::from_ref(&host.app));
    let later = SystemTime::now() + std::time::Duration::from_secs(1);
    assert_eq!(host.releases.collect_staging(&host.app, later).unwrap(), 1);
    assert_eq!(host.staged(), 0);
    host.releases.forget_empty(&host.app);
    assert_eq!(host.releases.apps().unwrap(), []);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_taken_up_where_it_stood() {
    use tokio::io::AsyncWriteExt as _;
    let host = host();
    let big = vec![7u8; 700_000];
    let manifest = Manifest::new(vec![file("a", A), file("big", &big)]).unwrap();
    let artifact = host.begin(&manifest).artifact;
    let stream = encode(&[A, &big]);
    let cut = stream[..500_000].to_vec();
    let broken = tokio_test_reader(cut, Some(std::io::ErrorKind::ConnectionReset));
    let out = host.releases.receive(&host.app, artifact, Encoding::Raw, broken, |_| ()).await;
    assert!(matches!(out, Err(ReleaseError::Upload(_))), "{out:?}");
    assert_eq!(host.begin(&manifest).digests, [Digest::of(&big)], "what was complete is kept");
    let (mut client, server) = tokio::io::duplex(1000);
    let rest = encode(&[&big]);
    let sender = tokio::spawn(async move { client.write_all(&rest).await });
    let on_disk = std::cell::Cell::new(Need::default());
    let count = |part: Need| {
        let sum = on_disk.get();
        on_disk.set(Need { bytes: sum.bytes + part.bytes, inodes: sum.inodes + part.inodes });
    };
    let received = host.releases.receive(&host.app, artifact, Encoding::Raw, server, count).await.unwrap();
    sender.await.unwrap().unwrap();
    assert_eq!(on_disk.get(), Need { bytes: 700_416, inodes: 1 }, "told once, in whole blocks");
    assert_eq!((received.files, received.bytes), (1, 700_000));
    host.seal(&manifest, 1).unwrap();
    host.releases.verify(&host.app, &name(1), Depth::Content).unwrap();
}

/// A reader that gives these bytes and then fails.
fn tokio_test_reader(bytes: Vec<u8>, then: Option<std::io::ErrorKind>) -> impl tokio::io::AsyncRead + Unpin {
    let parts = bytes.chunks(9000).map(|c| Ok(bytes::Bytes::copy_from_slice(c))).collect::<Vec<_>>();
    let end = then.map(|kind| Err(std::io::Error::from(kind)));
    tokio_util::io::StreamReader::new(tokio_stream::iter(parts.into_iter().chain(end)))
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_written() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let disk = crate::store::db::tests::Tmpfs::mount("1m").expect("root can mount a tmpfs");
    let releases = open_releases(disk.0.path());
    let app: AppName = "shop".parse().unwrap();
    let big = vec![7u8; 2 << 20];
    let manifest = Manifest::new(vec![file("a", A), file("big", &big)]).unwrap();
    let missing = releases.begin(&app, &manifest).unwrap();
    let ledger = crate::store::disk::Reservations::new(disk.0.path().to_owned(), 0);
    assert!(ledger.reserve(missing.need).is_err(), "the preflight would have said so");
    let mut receiver = releases.receiver(&app, missing.artifact, Encoding::Raw).unwrap();
    receiver.feed(&encode(&[A])).unwrap();
    let error = receiver.feed(&encode(&[&big])).unwrap_err();
    assert_eq!(error.code(), deployd_api::error::ErrorCode::DiskLow, "{error:?}");
    drop(receiver);
    let incoming = releases.staging(&app, missing.artifact).join(staging::INCOMING);
    assert!(entry_names(&incoming).unwrap().is_empty());
}

fn second() -> Manifest {
    Manifest::new(vec![
        program("bin/run", A),
        file("lib/new", b"new"),
        link("l", "lib/new"),
        file("n", b"new"),
    ])
    .unwrap()
}

/// A push, a removal: dies at some instant of it.
#[test]
#[ignore = "a child of the test below"]
fn child_that_pushes_and_removes() {
    let dir = child_dir();
    let releases = open_releases(&dir);
    let app: AppName = "shop".parse().unwrap();
    if releases.list(&app).unwrap().contains(&name(2)) {
        // As the driver does after a crash: the same step again.
        releases.seal(&app, second().digest(), &name(2)).unwrap();
        assert_eq!(releases.remove(&app, &name(1)).unwrap().leftovers, []);
        return;
    }
    let missing = releases.begin(&app, &second()).unwrap();
    let mut receiver = releases.receiver(&app, missing.artifact, Encoding::Raw).unwrap();
    if !missing.digests.is_empty() {
        receiver.feed(&encode(&[b"new"])).unwrap();
    }
    receiver.finish().unwrap();
    releases.seal(&app, missing.artifact, &name(2)).unwrap();
    assert_eq!(releases.remove(&app, &name(1)).unwrap().leftovers, []);
}

#[test]
fn a_kill_at_any_instant_is_resumed() {
    let child = "store::releases::tests::child_that_pushes_and_removes";
    let mut instants = 0;
    for at in 1.. {
        let host = host();
        host.push(&first(), &[A, B, C], 1);
        let ended = run_child(child, host.dir.path(), at);
        // Whatever stands is whole, before anything is cleared and after.
        for tree in host.releases.list(&host.app).unwrap() {
            host.releases.verify(&host.app, &tree, Depth::Content).unwrap();
        }
        assert!(!host.releases.list(&host.app).unwrap().is_empty());
        if ended == Child::Crashed {
            instants += 1;
            assert_eq!(run_child(child, host.dir.path(), u64::MAX), Child::Finished);
        }
        let releases = open_releases(host.dir.path());
        assert_eq!(releases.list(&host.app).unwrap(), [name(2)], "after instant {at}");
        releases.verify(&host.app, &name(2), Depth::Content).unwrap();
        let mut left = entry_names(&releases.trees(&host.app)).unwrap();
        left.sort();
        assert_eq!(left, [name(2).to_string(), format!("{}{MANIFEST_SUFFIX}", name(2))]);
        assert_eq!(releases.staged(&host.app).unwrap(), [], "after instant {at}");
        if ended == Child::Finished {
            break;
        }
    }
    assert!(instants >= 15, "only {instants} instants were tried");
}
