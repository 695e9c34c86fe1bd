//! Artifacts made of programs of this machine and of headers made by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::artifact::scan;

const MACH_O: &[u8] = b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01\x00\x00\x00\x00\x02\x00\x00\x00";

/// An artifact of these files, with the needs of a process that runs `exec`.
fn needs(files: &[(&str, &[u8])], exec: &str) -> Needs {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let spec = format!("app = \"shop\"\n[processes.web]\nexec = \"{exec}\"\n");
    read(dir.path(), &scan(dir.path()).unwrap(), &deployd_api::spec::parse(&spec).unwrap())
}

fn sh() -> Vec<u8> {
    fs::read("/bin/sh").unwrap()
}

/// The header of an ELF program of another machine, with nothing in it.
fn elf_of(machine: u8) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18], header[20], header[52], header[58]) = (2, machine, 1, 64, 64);
    header
}

fn names(list: &[Named]) -> Vec<&str> {
    list.iter().map(|named| named.name.as_str()).collect()
}

#[test]
fn a_program_of_this_machine() {
    let needs = needs(&[("bin/web", &sh())], "bin/web");
    let arch = needs.arch.unwrap();
    assert_eq!((arch.name.as_str(), arch.file.as_str()), (std::env::consts::ARCH, "bin/web"));
    assert!(needs.glibc.unwrap().name.starts_with("2."));
    assert_eq!(needs.interpreters.len(), 1, "{:?}", needs.interpreters);
    assert!(needs.interpreters[0].name.contains("ld-linux"));
    assert_eq!((names(&needs.libraries), names(&needs.foreign)), (vec![], vec![]));
}

/// `git`, `curl` or whatever here has a library of its own: it is missing until the artifact brings it.
#[test]
fn libraries_are_missing_unless_the_artifact_has_them() {
    let with_library = |path: &&str| {
        let missing = needs(&[("bin/web", &fs::read(path).unwrap_or_default())], "bin/web").libraries;
        (!missing.is_empty()).then_some(missing)
    };
    let programs =
        ["/bin/ls", "/usr/bin/git", "/usr/bin/curl", "/bin/tar", "/usr/bin/python3", "/usr/bin/find"];
    let Some((program, missing)) = programs.iter().find_map(|p| with_library(p).map(|m| (p, m))) else {
        panic!("no program here has a library");
    };
    let mut files = vec![("bin/web".to_owned(), fs::read(program).unwrap())];
    files.extend(missing.iter().map(|l| (format!("vendor/{}", l.name), b"a library".to_vec())));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(p, c)| (p.as_str(), c.as_slice())).collect();
    assert_eq!(names(&needs(&files, "bin/web").libraries), Vec::<&str>::new());
}

#[test]
fn scripts_name_their_interpreters() {
    let files: [(&str, &[u8]); 3] = [
        ("bin/web", b"#!/usr/bin/env python3\nimport os\n"),
        ("bin/other", b"#!/opt/perl\n"),
        ("README", b"#!/bin/never\n"),
    ];
    let needs = needs(&files, "bin/web");
    assert_eq!(names(&needs.interpreters), ["/usr/bin/env", "python3"]);
    assert_eq!(needs.arch, None);
}

#[test]
fn programs_of_other_machines_are_foreign_when_they_run() {
    let needs_of = |content: &[u8]| needs(&[("bin/web", content), ("tools/x", MACH_O)], "bin/web");
    assert_eq!(names(&needs_of(MACH_O).foreign), ["Mach-O arm64 (macOS)"]);
    assert_eq!(needs_of(&sh()).foreign, []);
    let arm = needs_of(&elf_of(183));
    assert_eq!((arm.arch.unwrap().name.as_str(), arm.foreign.len()), ("aarch64", 0));
}

#[test]
fn a_beam_release_made_on_macos_is_told_by_its_runtime_and_natives() {
    let start: (&str, &[u8]) = ("bin/shop", b"#!/bin/sh\nexec erl\n");
    let files = [
        start,
        ("releases/start_erl.data", b"15.0 1.0"),
        ("erts-15.0/bin/beam.smp", MACH_O),
        ("lib/bcrypt-1/priv/bcrypt_nif.so", MACH_O),
        ("lib/esbuild-1/priv/esbuild-darwin", MACH_O),
    ];
    let needs = needs(&files, "bin/shop start");
    let found: Vec<&str> = needs.foreign.iter().map(|named| named.file.as_str()).collect();
    assert_eq!(found, ["erts-15.0/bin/beam.smp", "lib/bcrypt-1/priv/bcrypt_nif.so"]);
    assert_eq!(names(&needs.interpreters), ["/bin/sh"]);
    assert!(refuse_foreign(&"shop".parse().unwrap(), &needs).is_err());
}

/// One program of another architecture among those of the runtime is named, whatever the rest is.
#[test]
fn mixed_architectures_are_named() {
    let files: [(&str, &[u8]); 5] = [
        ("bin/shop", b"#!/bin/sh\n"),
        ("releases/start_erl.data", b"15.0 1.0"),
        ("erts-15.0/bin/beam.smp", &sh()),
        ("erts-15.0/bin/epmd", &sh()),
        ("erts-15.0/bin/erlexec", &elf_of(183)),
    ];
    let needs = needs(&files, "bin/shop start");
    assert_eq!(needs.arch.unwrap().name, std::env::consts::ARCH);
    assert_eq!(names(&needs.foreign), ["ELF aarch64"]);
}
