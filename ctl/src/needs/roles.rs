//! Which files of an artifact a process runs or surely loads. Pure.

use std::collections::HashSet;

use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::spec::{CheckKind, Spec};

/// What a file is to the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A process runs it, or it is part of what every BEAM release runs.
    Program,
    /// A native module that an interpreter or runtime loads.
    Loaded,
    /// A program beside one that is run: a script may run it.
    Beside,
    /// It may be loaded by one of these.
    Other,
}

impl Role {
    /// Whether a file of another system is worth a word here.
    pub(super) fn is_judged(self) -> bool {
        matches!(self, Self::Program | Self::Loaded)
    }
}

/// Folders in which interpreters keep what they load.
const MODULES: [&str; 5] = ["site-packages", "dist-packages", "node_modules", "bundle", "gems"];
/// Words in paths of files that are for one platform among several that a package brings.
const PLATFORMS: [&str; 13] = [
    "darwin", "macos", "osx", "win32", "windows", "android", "freebsd", "ios", "musl", "arm", "arm64",
    "aarch64", "ia32",
];

/// What the spec runs, and what the artifact is.
#[derive(Debug)]
pub(super) struct Roles {
    programs: HashSet<String>,
    folders: HashSet<String>,
    is_beam: bool,
}

/// The roles of the files of an artifact.
pub(super) fn of(manifest: &Manifest, spec: &Spec) -> Roles {
    let programs: HashSet<String> = commands(spec).filter_map(|c| resolve(manifest, c.first()?)).collect();
    let is_beam = manifest.entries().iter().any(|e| e.path == "releases/start_erl.data");
    // Beside the start script of a release stand only more scripts; the programs of others stand in `bin`.
    let folders = programs.iter().filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir.to_owned()));
    Roles { folders: folders.collect(), programs, is_beam }
}

impl Roles {
    /// The role of a file; `None` when it can be no program and no library.
    pub(super) fn role(&self, path: &str, executable: bool) -> Option<Role> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let of_runtime = self.is_beam && path.starts_with("erts-") && folder.ends_with("/bin");
        if self.programs.contains(path) || (of_runtime && executable) {
            return Some(Role::Program);
        }
        // The loaders of both look at these very letters.
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        let is_library = matches!(extension, Some("so" | "node")) || name.contains(".so.");
        if !executable && !is_library {
            return None;
        }
        let is_native = self.is_beam && is_library && path.starts_with("lib/") && path.contains("/priv/");
        // Python's own modules are loaded when they are asked for, and some need a screen.
        let is_python =
            (name.contains(".cpython-") || name.ends_with(".abi3.so")) && !folder.ends_with("lib-dynload");
        let is_module =
            is_library && path.split('/').any(|part| MODULES.contains(&part)) && !names_platform(path);
        if is_native || is_python || is_module {
            return Some(Role::Loaded);
        }
        let is_beside = executable && !is_library && !folder.is_empty() && self.folders.contains(folder);
        Some(if is_beside { Role::Beside } else { Role::Other })
    }
}

/// Whether a word of the path says that it is for some platforms only.
fn names_platform(path: &str) -> bool {
    path.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| PLATFORMS.contains(&word))
}

/// Every command line of a spec.
fn commands(spec: &Spec) -> impl Iterator<Item = &[String]> {
    let processes = spec.processes.values().map(|process| process.exec.as_slice());
    let checks = spec.checks.values().filter_map(|check| match &check.kind {
        CheckKind::Exec { command, .. } => Some(command.as_slice()),
        _ => None,
    });
    processes.chain(checks).chain(spec.migrate.iter().map(|m| m.command.as_slice()))
}

/// The file of the artifact that a first word runs, links followed.
fn resolve(manifest: &Manifest, word: &str) -> Option<String> {
    // Without a slash it is looked for in PATH, and with one at the front it is the host's.
    if word.starts_with('/') || !word.contains('/') {
        return None;
    }
    let mut path = normal("", word)?;
    for _ in 0..40 {
        let at = manifest.entries().binary_search_by(|e| e.path.as_str().cmp(&path)).ok()?;
        match &manifest.entries()[at].kind {
            EntryKind::File { .. } => return Some(path),
            EntryKind::Link { target } => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                path = normal(folder, target)?;
            }
            EntryKind::Dir => return None,
        }
    }
    None
}

/// A path below the root without `.` and `..`.
fn normal(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::Digest;
    use deployd_api::manifest::Entry;

    use super::*;

    fn roles(paths: &[&str], exec: &str) -> Roles {
        let entry = |path: &&str| {
            let (path, kind) = path.split_once(" -> ").map_or_else(
                || {
                    (
                        *path,
                        EntryKind::File { executable: true, size: 1, digest: Digest::of(path.as_bytes()) },
                    )
                },
                |(path, target)| (path, EntryKind::Link { target: target.to_owned() }),
            );
            Entry { path: path.to_owned(), kind }
        };
        let manifest = Manifest::new(paths.iter().map(entry).collect()).unwrap();
        let spec = format!("app = \"a\"\n[processes.web]\nexec = \"{exec}\"\n");
        of(&manifest, &deployd_api::spec::parse(&spec).unwrap())
    }

    #[test]
    fn what_runs_is_a_program() {
        let roles = roles(&["bin/run -> ../lib/run-1", "lib/run-1", "server"], "./bin/run --port 80");
        assert_eq!(roles.role("lib/run-1", false), Some(Role::Program));
        assert_eq!(roles.role("server", true), Some(Role::Other));
        assert_eq!(roles.role("readme", false), None);
    }

    #[test]
    fn commands_of_the_host_are_none_of_the_artifact() {
        for exec in ["python3 app.py", "/usr/bin/node x", "bin/../../x", "bin/missing", "bin/loop"] {
            let roles = roles(&["bin/loop -> loop", "python3"], exec);
            assert!(roles.programs.is_empty(), "{exec}");
        }
    }

    #[test]
    fn a_beam_release_runs_its_runtime_and_loads_its_natives() {
        let roles = roles(&["bin/shop", "releases/start_erl.data"], "bin/shop start");
        for (path, executable, want) in [
            ("erts-15.0/bin/beam.smp", true, Some(Role::Program)),
            ("lib/crypto-5.5/priv/lib/crypto.so", false, Some(Role::Loaded)),
            ("lib/esbuild-1/priv/static/darwin", true, Some(Role::Other)),
            ("lib/shop-1/priv/static/app.js", false, None),
        ] {
            assert_eq!(roles.role(path, executable), want, "{path}");
        }
    }

    #[test]
    fn modules_for_other_platforms_are_not_loaded() {
        let roles = roles(&["server.js"], "node server.js");
        for (path, want) in [
            ("node_modules/a/build/Release/a.node", Role::Loaded),
            ("node_modules/a/prebuilds/linux-x64/a.node", Role::Loaded),
            ("node_modules/a/prebuilds/linux-x64/a.musl.node", Role::Other),
            ("node_modules/a/prebuilds/darwin-arm64/a.node", Role::Other),
            (".venv/lib/python3.11/site-packages/b/_b.cpython-311-x86_64-linux-gnu.so", Role::Loaded),
            // No folder for one of several platforms: it was installed on macOS.
            ("vendor/b/_b.cpython-311-darwin.so", Role::Loaded),
            ("python/lib/python3.11/lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so", Role::Other),
            ("vendor/bundle/ruby/3.3.0/gems/pg-1/lib/pg_ext.so", Role::Loaded),
            ("jre/lib/libawt_xawt.so", Role::Other),
        ] {
            assert_eq!(roles.role(path, false), Some(want), "{path}");
        }
    }
}
