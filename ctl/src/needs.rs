//! What an artifact needs of a host, read from its programs before anything is sent: "will it run here".
//!
//! | module | does |
//! |---|---|
//! | [`roles`] | which files a process runs or surely loads |
//! | [`kind`] | what a file is, by its first bytes |
//! | [`elf`] | what an ELF file asks for, read within bounds |
//! | [`judge`] | what no Linux host can run, refused before any host is asked |
//!
//! Only what is run or surely loaded counts: an artifact may bring programs for other platforms, and libraries
//! that are loaded on hosts with a screen only. What is missed here is found when the candidate starts; what is
//! refused here by mistake could not be pushed at all. A file that cannot be read is not judged.

mod elf;
mod judge;
mod kind;
mod roles;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::needs::{Named, Needs};
use deployd_api::spec::Spec;

pub(crate) use judge::refuse_foreign;

use elf::Facts;
use kind::Kind;
use roles::Role;

/// Parts of glibc: they come with the interpreter and the version.
const OF_GLIBC: [&str; 8] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libanl.so.1",
];
/// Libraries of device drivers: what uses them looks for them when there is such a device.
const OF_DRIVERS: [&str; 3] = ["libcuda.so", "libnvidia-", "libnvcuvid.so"];

/// Reads the needs of an artifact.
pub(crate) fn read(root: &Path, manifest: &Manifest, spec: &Spec) -> Needs {
    let files = survey(root, manifest, spec);
    let arch = arch_of(&files);
    let mut needs = Needs { arch: arch.clone(), ..Needs::default() };
    let arch = arch.map(|named| named.name);
    let counted = counted(&files, arch.as_deref());
    let provided = provided(manifest, &files);
    let mut glibc: Option<(Vec<u32>, Named)> = None;
    let (mut interpreters, mut libraries) = (BTreeMap::new(), BTreeMap::new());
    for file in &files {
        let named = |name: &str| Named { name: name.to_owned(), file: file.path.to_owned() };
        match &file.kind {
            Kind::Foreign(what) if file.role.is_judged() => needs.foreign.push(named(what)),
            Kind::Elf(facts) if file.role == Role::Program && arch.as_deref() != Some(&facts.arch) => {
                needs.foreign.push(named(&format!("ELF {}", facts.arch)));
            }
            Kind::Script(words) if file.role == Role::Program => {
                for word in words {
                    interpreters.entry(word.clone()).or_insert(file.path);
                }
            }
            Kind::Elf(facts) if counted.contains(file.path) => {
                if let Some(version) =
                    facts.glibc.clone().filter(|v| glibc.as_ref().is_none_or(|(g, _)| v > g))
                {
                    let text: Vec<String> = version.iter().map(ToString::to_string).collect();
                    glibc = Some((version, named(&text.join("."))));
                }
                if file.role == Role::Program
                    && let Some(interpreter) = &facts.interpreter
                {
                    interpreters.entry(interpreter.clone()).or_insert(file.path);
                }
                for library in facts.needed.iter().filter(|l| is_outside(l, &provided)) {
                    libraries.entry(library.clone()).or_insert(file.path);
                }
            }
            _ => {}
        }
    }
    let list = |found: BTreeMap<String, &str>| {
        found.into_iter().map(|(name, file)| Named { name, file: file.to_owned() }).collect()
    };
    needs.glibc = glibc.map(|(_, named)| named);
    needs.interpreters = list(interpreters);
    needs.libraries = list(libraries);
    needs
}

/// A file that is a program, a library or a script.
#[derive(Debug)]
struct Found<'a> {
    path: &'a str,
    role: Role,
    kind: Kind,
}

fn survey<'a>(root: &Path, manifest: &'a Manifest, spec: &Spec) -> Vec<Found<'a>> {
    let roles = roles::of(manifest, spec);
    let mut found = Vec::new();
    for entry in manifest.entries() {
        let EntryKind::File { executable, .. } = entry.kind else { continue };
        let Some(role) = roles.role(&entry.path, executable) else { continue };
        if let Some(kind) = kind::read(&root.join(&entry.path)) {
            found.push(Found { path: &entry.path, role, kind });
        }
    }
    found
}

/// The architecture of the programs; without one that of most libraries.
fn arch_of(files: &[Found<'_>]) -> Option<Named> {
    let of = |role: Role| {
        let mut seen: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for file in files.iter().filter(|f| f.role == role) {
            if let Kind::Elf(facts) = &file.kind {
                seen.entry(&facts.arch).or_insert((0, file.path)).0 += 1;
            }
        }
        let most = seen.into_iter().max_by_key(|(_, (count, _))| *count);
        most.map(|(arch, (_, file))| Named { name: arch.to_owned(), file: file.to_owned() })
    };
    of(Role::Program).or_else(|| of(Role::Beside)).or_else(|| of(Role::Loaded))
}

/// The files that count: programs, what is surely loaded, and what these need of the artifact's own libraries.
fn counted<'a>(files: &[Found<'a>], arch: Option<&str>) -> HashSet<&'a str> {
    let elf = |file: &Found<'a>| match &file.kind {
        Kind::Elf(facts) if arch == Some(facts.arch.as_str()) => Some((file.path, facts.clone())),
        _ => None,
    };
    let all: Vec<(&str, Facts)> = files.iter().filter_map(elf).collect();
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, (path, facts)) in all.iter().enumerate() {
        by_name.entry(base(path)).or_insert(at);
        if let Some(soname) = &facts.soname {
            by_name.entry(soname).or_insert(at);
        }
    }
    // Libraries for musl stand beside those for glibc in packages that bring both.
    let is_for_musl = |facts: &Facts| {
        facts.interpreter.is_none() && facts.needed.iter().any(|l| l.starts_with("libc.musl-"))
    };
    let begin: HashSet<&str> = files.iter().filter(|f| f.role != Role::Other).map(|f| f.path).collect();
    let mut open: Vec<usize> = Vec::new();
    for (at, (path, facts)) in all.iter().enumerate() {
        if begin.contains(path) && !is_for_musl(facts) {
            open.push(at);
        }
    }
    let mut counted = HashSet::new();
    while let Some(at) = open.pop() {
        let (path, facts) = &all[at];
        if counted.insert(*path) {
            open.extend(facts.needed.iter().filter_map(|name| by_name.get(name.as_str())));
        }
    }
    counted
}

/// Names of libraries that the artifact has: of files and links, and what libraries call themselves. Where they
/// stand is not looked at: `$ORIGIN`, `LD_LIBRARY_PATH` and wrappers lead to them in many ways.
fn provided<'a>(manifest: &'a Manifest, files: &'a [Found<'_>]) -> BTreeSet<&'a str> {
    let names = manifest.entries().iter().filter(|e| e.kind != EntryKind::Dir).map(|e| base(&e.path));
    let sonames = files.iter().filter_map(|file| match &file.kind {
        Kind::Elf(facts) => facts.soname.as_deref(),
        _ => None,
    });
    names.chain(sonames).collect()
}

fn is_outside(library: &str, provided: &BTreeSet<&str>) -> bool {
    !provided.contains(base(library))
        && !OF_GLIBC.contains(&library)
        && !library.starts_with("ld-linux")
        && !OF_DRIVERS.iter().any(|driver| library.starts_with(driver))
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
