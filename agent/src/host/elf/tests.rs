//! Real programs of this machine, programs compiled for the purpose, and headers made by hand.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

const PATH: &str = "/nowhere:/usr/bin:/bin";

fn tree() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn put(tree: &tempfile::TempDir, path: &str, content: impl AsRef<[u8]>, mode: u32) {
    let path = tree.path().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn missing(inspected: Program) -> String {
    match inspected {
        Program::Missing { path } => path,
        other => panic!("{other:?}"),
    }
}

fn compile(tree: &tempfile::TempDir, name: &str, flags: &[&str]) {
    let source = tree.path().join("main.c");
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let status =
        Command::new("cc").args(flags).arg("-o").arg(tree.path().join(name)).arg(&source).status().unwrap();
    assert!(status.success());
}

#[test]
fn programs_of_the_host_are_dynamic() {
    let tree = tree();
    for word in ["/bin/true", "true", "sh"] {
        assert_eq!(inspect(tree.path(), word, PATH), Program::Dynamic, "{word}");
    }
}

#[test]
fn linkage_is_read_from_the_program_headers() {
    let tree = tree();
    compile(&tree, "static", &["-static"]);
    compile(&tree, "static-pie", &["-static-pie"]);
    compile(&tree, "pie", &["-pie"]);
    compile(&tree, "fixed", &["-no-pie"]);
    for name in ["static", "static-pie"] {
        let want = Program::Static { path: name.to_owned() };
        assert_eq!(inspect(tree.path(), &format!("./{name}"), PATH), want);
    }
    for name in ["pie", "fixed"] {
        assert_eq!(inspect(tree.path(), &format!("./{name}"), PATH), Program::Dynamic);
    }
    put(&tree, "script", format!("#!{}/static\n", tree.path().display()), 0o755);
    let Program::Static { path } = inspect(tree.path(), "./script", PATH) else { panic!() };
    assert_eq!(path, "static (the interpreter of script)");
}

#[test]
fn scripts_are_followed_to_their_interpreter() {
    let tree = tree();
    let good = [
        "#!/bin/sh\n",
        "#! /bin/sh -e\n",
        "#!/bin/sh",
        "#!/usr/bin/env sh\n",
        "#!/usr/bin/env -S sh -e\n",
        "#!/usr/bin/env -Ssh -e\n",
        "#!/usr/bin/env -S A=1 sh\n",
        "#!/usr/bin/env -i sh\n",
        "#!bin/inner\n",
    ];
    put(&tree, "bin/inner", "#!/usr/bin/env sh\n", 0o755);
    for line in good {
        put(&tree, "bin/start", line, 0o755);
        assert_eq!(inspect(tree.path(), "bin/start", PATH), Program::Dynamic, "{line}");
    }
    put(&tree, "bin/start", "#!/usr/bin/env no-such-thing\n", 0o755);
    let path = missing(inspect(tree.path(), "bin/start", PATH));
    assert_eq!(path, "no-such-thing (the interpreter of bin/start)");
    put(&tree, "bin/start", "#!bin/start\n", 0o755);
    assert!(matches!(inspect(tree.path(), "bin/start", PATH), Program::NotExecutable { .. }));
}

#[test]
fn what_cannot_run_is_named() {
    let tree = tree();
    put(&tree, "bin/web", "#!/bin/sh\n", 0o644);
    let locked = Program::NotExecutable { path: "bin/web".to_owned() };
    assert_eq!(inspect(tree.path(), "bin/web", PATH), locked);
    assert_eq!(inspect(tree.path(), "./bin", PATH), Program::NotExecutable { path: "bin".to_owned() });
    for (content, mode) in [("echo hello\n", 0o755), ("", 0o755), ("\x7fELF", 0o755)] {
        put(&tree, "bin/web", content, mode);
        let Program::NotExecutable { path } = inspect(tree.path(), "bin/web", PATH) else { panic!() };
        assert!(path.contains("neither"), "{path}");
    }
    for word in ["bin/none", "/no/where", "no-such-thing", "", "bin/web/below"] {
        assert_eq!(missing(inspect(tree.path(), word, PATH)), word);
    }
}

#[test]
fn links_stay_in_the_tree_or_lead_to_the_system() {
    let tree = tree();
    let outside = tempfile::tempdir().unwrap();
    put(&outside, "program", "#!/bin/sh\n", 0o755);
    put(&tree, "lib/real", "#!/bin/sh\n", 0o755);
    fs::create_dir(tree.path().join("bin")).unwrap();
    let link = |to: &str, name: &str| symlink(to, tree.path().join("bin").join(name)).unwrap();
    link("../lib/real", "relative");
    link("/usr/bin/env", "system");
    link("/usr/bin", "dir");
    link("circle", "circle");
    link("../../../../../../usr/bin/env", "climbs");
    link(outside.path().join("program").to_str().unwrap(), "other");
    for good in ["bin/relative", "bin/system", "bin/dir/env", "bin/../bin/relative"] {
        assert_eq!(inspect(tree.path(), good, PATH), Program::Dynamic, "{good}");
    }
    assert_eq!(missing(inspect(tree.path(), "bin/circle", PATH)), "bin/circle");
    for bad in ["bin/climbs", "bin/other"] {
        let path = missing(inspect(tree.path(), bad, PATH));
        assert_eq!(path, format!("{bad} (the link {bad} leads out)"));
    }
    assert_eq!(missing(inspect(tree.path(), "../program", PATH)), "../program");
}

#[test]
fn another_architecture_is_told() {
    let tree = tree();
    let (foreign, name) = if cfg!(target_arch = "aarch64") { (62_u8, "x86_64") } else { (183, "aarch64") };
    let mut elf = fs::read("/bin/true").unwrap();
    elf[0x12] = foreign;
    put(&tree, "web", &elf, 0o755);
    let found = inspect(tree.path(), "./web", PATH);
    assert_eq!(found, Program::ForeignArchitecture { path: "web".to_owned(), machine: name.to_owned() });
}

#[test]
fn cut_headers_are_no_programs_and_never_panic() {
    let elf = fs::read("/bin/true").unwrap();
    for len in 0..HEAD_BYTES {
        if let Some(header) = Header::parse(&elf[..len]) {
            assert_eq!(header.linkage(&[]), None);
        }
    }
    let header = Header::parse(&elf).unwrap();
    let table = &elf[header.table_at as usize..][..header.table_bytes()];
    assert_eq!(header.linkage(table), Some(Linkage::Dynamic));
    assert_eq!(header.linkage(&table[..table.len() - 1]), None);
}

#[test]
fn big_endian_and_32_bit_headers_are_read() {
    let mut head = [0; HEADER_BYTES];
    head[..6].copy_from_slice(b"\x7fELF\x01\x02");
    head[0x13] = 8;
    head[0x1F] = 52;
    head[0x2B] = 32;
    head[0x2D] = 5;
    let header = Header::parse(&head).unwrap();
    assert_eq!((header.table_at, header.entry_bytes, header.entries), (52, 32, 5));
    assert_eq!(header.foreign().as_deref(), Some("mips"));
}
