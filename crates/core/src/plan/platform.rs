//! Whether the programs of an artifact can run on this host at all.
//!
//! What they need was read from them before anything was sent; what is there was looked at for this plan.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::needs::{Named, Needs};
use deployd_api::spec::Spec;

use super::Push;
use super::refuse::Refusal;
use crate::facts::{Facts, Platform};

/// One thing that is missing, and what to do about it.
struct Lack {
    file: Option<String>,
    what: String,
    next: String,
}

/// The first thing that keeps it from running is the refusal, all others are told with it.
pub(super) fn refuse_platform(push: &Push, facts: &Facts) -> Refusal {
    let lacks = lacks(&push.document.spec, &push.needs, &facts.platform);
    let mut lacks = lacks.into_iter();
    let Some(first) = lacks.next() else { return Ok(()) };
    let mut body = ErrorBody::new(ErrorCode::WillNotRun, first.what, first.next);
    if let Some(file) = first.file {
        body = body.about(file);
    }
    for lack in lacks {
        body = body.cause("and", lack.what);
    }
    Err(Box::new(body.cause("host", host(&facts.platform))))
}

/// What this host is, in a few words: `x86_64, glibc 2.36, Debian GNU/Linux 12 (bookworm)`.
fn host(platform: &Platform) -> String {
    let glibc = platform.glibc.as_ref().map_or("no glibc".to_owned(), |version| format!("glibc {version}"));
    [platform.arch.clone(), glibc, platform.os.clone()].join(", ")
}

fn lacks(spec: &Spec, needs: &Needs, platform: &Platform) -> Vec<Lack> {
    let mut all = Vec::new();
    all.extend(platform.noexec.as_ref().map(|mount| Lack {
        file: None,
        what: format!("{mount}, where releases stand, is mounted noexec: no program of a release can run"),
        next: format!("mount -o remount,exec {mount}, and take noexec out of /etc/fstab"),
    }));
    all.extend(kinds(spec, needs, platform));
    all.extend(needs.glibc.iter().filter_map(|needed| glibc(needed, platform)));
    let absent = |named: &&Named| !platform.found.contains(&named.name);
    all.extend(needs.interpreters.iter().filter(absent).map(|needed| {
        let Named { name, file } = needed;
        let package = name.rsplit('/').next().unwrap_or(name);
        let next = if name.contains("/ld-") {
            format!("build it on the host's own distribution ({}), or link it statically", platform.os)
        } else {
            format!("install it on the host (apt install {package}), or bring it in the artifact")
        };
        Lack {
            file: Some(file.clone()),
            what: format!("{file} needs {name}, and the host does not have it"),
            next,
        }
    }));
    all.extend(needs.libraries.iter().filter(absent).map(|needed| {
        let Named { name, file } = needed;
        let next = format!(
            "install the package that has it (apt-file search {name}), or build on the same release: {}",
            platform.os
        );
        Lack {
            file: Some(file.clone()),
            what: format!("{file} needs the library {name}, and the host does not have it"),
            next,
        }
    }));
    all
}

/// Programs for another machine or system. Packages bring libraries for several: those are no fault as long as
/// there is something for this host, and no process starts one.
fn kinds(spec: &Spec, needs: &Needs, platform: &Platform) -> Option<Lack> {
    let next = format!("build it on Linux for {}, such as {}", platform.arch, platform.os);
    if let Some(Named { name, file }) = needs.arch.as_ref().filter(|arch| arch.name != platform.arch) {
        let what = format!("{file} is built for {name}, and the host is {}", platform.arch);
        return Some(Lack { file: Some(file.clone()), what, next });
    }
    let program = |file: &String| {
        let words = spec.processes.values().filter_map(|p| p.exec.first());
        words.into_iter().any(|word| word.trim_start_matches("./") == file)
    };
    let foreign = needs.foreign.iter().find(|f| needs.arch.is_none() || program(&f.file))?;
    let Named { name, file } = foreign;
    let what = format!("{file} is {name}, and the host runs Linux on {}", platform.arch);
    Some(Lack { file: Some(file.clone()), what, next })
}

fn glibc(needed: &Named, platform: &Platform) -> Option<Lack> {
    let Named { name, file } = needed;
    let next = format!("build on the same release as the host's ({}), or an older one", platform.os);
    let what = match &platform.glibc {
        Some(has) if version(has) >= version(name) => return None,
        Some(has) => format!("{file} needs glibc {name}, and the host has {has}"),
        None => format!("{file} needs glibc {name}, and the host has none"),
    };
    Some(Lack { file: Some(file.clone()), what, next })
}

/// `2.36` in a form that compares.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform {
            arch: "x86_64".to_owned(),
            os: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            glibc: Some("2.36".to_owned()),
            found: ["/usr/bin/env", "python3", "libssl.so.3"].map(str::to_owned).into(),
            noexec: None,
        }
    }

    fn named(name: &str) -> Named {
        Named { name: name.to_owned(), file: "bin/shop".to_owned() }
    }

    #[test]
    fn what_a_host_lacks_is_told() {
        let spec =
            deployd_api::spec::parse("app = \"shop\"\n[processes.web]\nexec = \"./bin/shop x\"\n").unwrap();
        let x86 = || Some(named("x86_64"));
        let other = Named { name: "a program for macOS".to_owned(), file: "lib/x.node".to_owned() };
        let cases = [
            (Needs::default(), None),
            (Needs { arch: x86(), glibc: Some(named("2.36")), ..Needs::default() }, None),
            (Needs { glibc: Some(named("2.9")), ..Needs::default() }, None),
            (
                Needs { glibc: Some(named("2.38")), ..Needs::default() },
                Some("needs glibc 2.38, and the host has 2.36"),
            ),
            (Needs { arch: Some(named("aarch64")), ..Needs::default() }, Some("built for aarch64")),
            (Needs { interpreters: vec![named("python3")], ..Needs::default() }, None),
            (Needs { interpreters: vec![named("ruby")], ..Needs::default() }, Some("needs ruby")),
            (Needs { libraries: vec![named("libssl.so.3")], ..Needs::default() }, None),
            (
                Needs { libraries: vec![named("libssl.so.1.1")], ..Needs::default() },
                Some("library libssl.so.1.1"),
            ),
            // A package brings libraries for several systems.
            (Needs { arch: x86(), foreign: vec![other.clone()], ..Needs::default() }, None),
            (Needs { foreign: vec![other], ..Needs::default() }, Some("lib/x.node is a program for macOS")),
            (
                Needs { arch: x86(), foreign: vec![named("a program for macOS")], ..Needs::default() },
                Some("bin/shop is"),
            ),
        ];
        for (needs, want) in cases {
            let found = lacks(&spec, &needs, &platform());
            match want {
                None => assert!(found.is_empty(), "{needs:?}: {}", found[0].what),
                Some(text) => {
                    assert_eq!(found.len(), 1, "{needs:?}");
                    assert!(found[0].what.contains(text) && !found[0].next.is_empty(), "{}", found[0].what);
                }
            }
        }
        let noexec = Platform { noexec: Some("/var".to_owned()), ..platform() };
        assert!(lacks(&spec, &Needs::default(), &noexec)[0].what.contains("noexec"));
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(version("2.9") < version("2.36") && version("2.36") < version("2.36.1"));
    }
}
