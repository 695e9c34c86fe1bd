//! Writable and shared folders, and apps that plant links where root will pass.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]

use std::os::unix::fs::{MetadataExt as _, symlink};

use super::super::tests::{file, folder, host, link, name, program};
use super::super::verify::Depth;
use super::*;

const ME: fn() -> Owner =
    || Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };

/// Another user where we may give files away, else ourselves.
fn owner() -> Owner {
    if nix::unistd::geteuid().is_root() { Owner { uid: 50_123, gid: 50_123 } } else { ME() }
}

fn strings(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[test]
fn writable_folders_begin_as_the_artifact_has_them() {
    let host = host();
    let manifest = Manifest::new(vec![
        file("tmp/keep/.gitkeep", b"k"),
        program("tmp/tool", b"t"),
        link("tmp/l", "tool"),
        folder("tmp/pids"),
        file("app", b"a"),
    ])
    .unwrap();
    host.push(&manifest, &[b"k", b"t", b"a"], 1);
    let (writable, shared) = (strings(&["tmp", "var/new"]), strings(&["public/uploads"]));
    let folders = Folders { writable: &writable, shared: &shared };
    let mounts = host.releases.prepare_dirs(&host.app, &name(1), folders, owner()).unwrap();
    assert_eq!(mounts.len(), 3);
    for mount in &mounts {
        let meta = std::fs::metadata(&mount.source).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner().uid, PRIVATE_MODE), "{mount:?}");
        let target = std::fs::metadata(&mount.target).unwrap();
        assert_eq!((target.uid(), target.mode() & 0o7777), (ME().uid, 0o755), "{mount:?}");
    }
    assert_eq!(mounts[0].target, host.path(1, "public/uploads"));
    assert_eq!(mounts[0].source, host.dir.path().join("app-states/shop/shared/public/uploads"));
    let tmp = &mounts[1].source;
    for path in ["keep", "keep/.gitkeep", "tool", "l", "pids"] {
        assert_eq!(std::fs::symlink_metadata(tmp.join(path)).unwrap().uid(), owner().uid, "{path}");
    }
    assert_eq!(std::fs::metadata(tmp.join("tool")).unwrap().mode() & 0o7777, 0o755);
    // The tree itself is as it was sealed, and what the app wrote since stays.
    host.releases.verify(&host.app, &name(1), Depth::Content).unwrap();
    std::fs::write(tmp.join("tool"), "changed").unwrap();
    std::fs::write(mounts[0].source.join("upload"), "u").unwrap();
    assert_eq!(host.releases.prepare_dirs(&host.app, &name(1), folders, owner()).unwrap(), mounts);
    assert_eq!(std::fs::read(tmp.join("tool")).unwrap(), b"changed");
    assert_eq!(host.releases.remove(&host.app, &name(1)).unwrap().leftovers, []);
    assert!(!tmp.exists(), "private to the release");
    assert!(mounts[0].source.join("upload").exists(), "kept over releases");
}

#[test]
fn a_mount_inside_a_mount_has_its_point_there() {
    let host = host();
    host.push(&Manifest::new(vec![folder("tmp")]).unwrap(), &[], 1);
    let (writable, shared) = (strings(&["tmp"]), strings(&["tmp/cache/big"]));
    let folders = Folders { writable: &writable, shared: &shared };
    let mounts = host.releases.prepare_dirs(&host.app, &name(1), folders, owner()).unwrap();
    assert_eq!(mounts[0].target, host.path(1, "tmp"));
    assert!(mounts[0].source.join("cache/big").is_dir());
    host.releases.verify(&host.app, &name(1), Depth::Content).unwrap();
}

#[test]
fn folders_that_cannot_be_are_refused() {
    let host = host();
    let manifest = Manifest::new(vec![file("data", b"d"), link("l", "dir"), folder("dir")]).unwrap();
    host.push(&manifest, &[b"d"], 1);
    for (writable, shared) in [
        (&["../x"][..], &[][..]),
        (&["/etc"], &[]),
        (&["."], &[]),
        (&[""], &[]),
        (&["data"], &[]),
        (&["data/x"], &[]),
        (&["l"], &[]),
        (&[], &["l/x"]),
        (&["dir"], &["dir"]),
    ] {
        let (w, s) = (strings(writable), strings(shared));
        let folders = Folders { writable: &w, shared: &s };
        let out = host.releases.prepare_dirs(&host.app, &name(1), folders, owner());
        assert!(matches!(out, Err(ReleaseError::Mount { .. })), "{writable:?} {shared:?}: {out:?}");
    }
}

#[test]
fn a_link_that_the_app_planted_is_not_followed() {
    let host = host();
    host.push(&Manifest::new(vec![folder("up")]).unwrap(), &[], 1);
    let precious = host.dir.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    let before = std::fs::metadata(&precious).unwrap().uid();
    let state = host.dir.path().join("app-states/shop");
    let shared = strings(&["up"]);
    let folders = Folders { writable: &[], shared: &shared };
    let attempts: [fn(&std::path::Path, &std::path::Path); 2] = [
        |state, precious| symlink(precious, state.join("shared")).unwrap(),
        |state, precious| {
            std::fs::create_dir(state.join("shared")).unwrap();
            symlink(precious, state.join("shared/up")).unwrap();
        },
    ];
    for plant in attempts {
        drop(std::fs::remove_dir_all(&state));
        std::fs::create_dir_all(&state).unwrap();
        plant(&state, &precious);
        let out = host.releases.prepare_dirs(&host.app, &name(1), folders, owner());
        assert!(matches!(out, Err(ReleaseError::Mount { .. })), "{out:?}");
        assert_eq!(std::fs::metadata(&precious).unwrap().uid(), before);
        assert_eq!(std::fs::read_dir(&precious).unwrap().count(), 0);
    }
}

#[test]
fn names_of_sources_need_no_quoting_and_never_meet() {
    let names = ["a/b", "a_b", "a+b", "%h", "a:b", "a b", ".x", "x"].map(folder_name);
    for name in &names {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name}");
        assert!(!name.starts_with('.'), "{name}");
    }
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
}
