//! `releases`: what the host has of an app, and what it takes on disk.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label};
use deployd_api::release::{ReleaseRow, ReleaseState};
use deployd_core::state::Release;

use crate::effects::{RealHost, on_disk};
use crate::supervisor::Supervisor;

type Deployd = Arc<Supervisor<RealHost>>;

/// The releases of an app, newest first.
pub async fn list(deployd: &Deployd, app: &AppName) -> Result<Vec<ReleaseRow>, ErrorBody> {
    let state = deployd.app(app).await?.lock().await.clone();
    let trees = state.releases.values().filter(|r| r.is_kept()).map(|r| (r.label, PathBuf::from(&r.tree)));
    let trees: Vec<_> = trees.collect();
    let used = on_disk(move || measure(&trees)).await?;
    let rows = state.releases.values().rev().map(|r| {
        let room = used.get(&r.label).copied().unwrap_or_default();
        ReleaseRow {
            label: r.label,
            digest: r.digest,
            state: if state.live.is_some_and(|t| t.label == r.label) { ReleaseState::Live } else { r.state },
            created: r.created,
            origin: r.origin.clone(),
            changed: r.changed.clone(),
            reason: r.failure.as_ref().map(|f| reason(r, f)),
            size: r.size,
            on_disk: room.on_disk,
            own: room.own,
        }
    });
    Ok(rows.collect())
}

/// Why it was rolled back, in a few words: its label and host stand beside it.
fn reason(release: &Release, failure: &ErrorBody) -> String {
    match (failure.code, &failure.subject) {
        (ErrorCode::CheckFailed, Some(check)) => format!("check {check} failed"),
        (ErrorCode::StartFailed, Some(instance)) => match failure.message.rsplit_once(": ") {
            Some((_, why)) => format!("{instance} did not stay up: {why}"),
            None => format!("{instance} did not stay up"),
        },
        _ => failure.message.replace(&format!("{} {}", release.document.spec.app, release.label), "it"),
    }
}

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Room {
    /// With what others share counted at the oldest.
    on_disk: u64,
    /// What no other tree has.
    own: u64,
}

/// Looks at every file once. `trees` are in the order of their labels. What cannot be read counts nothing:
/// these are figures for people, and `doctor` finds trees that are not as they should be.
fn measure(trees: &[(Label, PathBuf)]) -> BTreeMap<Label, Room> {
    let mut seen = HashSet::new();
    let mut out = BTreeMap::new();
    for (label, tree) in trees {
        let mut room = Room::default();
        add(tree, &mut seen, &mut room);
        out.insert(*label, room);
    }
    out
}

fn add(root: &Path, seen: &mut HashSet<(u64, u64)>, room: &mut Room) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            // Of the entry itself: links are not followed.
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.is_file() {
                let bytes = found.blocks() * 512;
                room.own += if found.nlink() == 1 { bytes } else { 0 };
                room.on_disk += if seen.insert((found.dev(), found.ino())) { bytes } else { 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::atomic;

    #[test]
    fn shared_files_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let label = |n: &str| n.parse::<Label>().unwrap();
        let trees: Vec<_> = ["v1", "v2"].map(|n| (label(n), dir.path().join(n))).into();
        for (_, tree) in &trees {
            std::fs::create_dir_all(tree.join("bin")).unwrap();
        }
        let (old, new) = (&trees[0].1, &trees[1].1);
        let file = |path: PathBuf, size| atomic::write(&path, &vec![1; size], 0o644).unwrap();
        file(old.join("bin/a"), 10_000);
        std::fs::hard_link(old.join("bin/a"), new.join("bin/a")).unwrap();
        file(new.join("b"), 100_000);
        std::os::unix::fs::symlink("b", new.join("c")).unwrap();
        let bytes = |p: &Path| p.metadata().unwrap().blocks() * 512;
        let (shared, alone) = (bytes(&old.join("bin/a")), bytes(&new.join("b")));
        let used = measure(&trees);
        assert_eq!(used[&label("v1")], Room { on_disk: shared, own: 0 });
        assert_eq!(used[&label("v2")], Room { on_disk: alone, own: alone });
    }
}
