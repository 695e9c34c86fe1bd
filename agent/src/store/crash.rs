//! Points at which tests kill the process, to prove that what follows a crash is right.
//!
//! Outside tests this is nothing at all. Called by the store between two effects on disk.

/// Marks an instant between two effects on disk.
#[cfg(not(test))]
pub(crate) const fn point(_name: &'static str) {}

/// Aborts the process at the N-th point, when the environment of a test's child says so.
#[cfg(test)]
pub(crate) fn point(name: &'static str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let Some(at) = std::env::var(CRASH_AT).ok().and_then(|v| v.parse::<u64>().ok()) else { return };
    if SEEN.fetch_add(1, Ordering::SeqCst) + 1 == at {
        eprintln!("crash point {name}");
        std::process::abort();
    }
}

/// The variable that holds N.
#[cfg(test)]
pub(crate) const CRASH_AT: &str = "DEPLOYD_TEST_CRASH_AT";

/// How a child that ran one test ended.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Finished,
    Crashed,
}

/// Runs the ignored test `name` of this binary in a child that dies at its `at`-th crash point.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts itself")]
pub(crate) fn run_child(name: &str, dir: &std::path::Path, at: u64) -> Child {
    use std::os::unix::process::ExitStatusExt;
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CRASH_AT, at.to_string())
        .env(CHILD_DIR, dir)
        .output()
        .unwrap();
    let text = || String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    match (out.status.code(), out.status.signal()) {
        (Some(0), _) => {
            assert!(text().contains("1 passed"), "no such test: {name}\n{}", text());
            Child::Finished
        }
        (_, Some(6)) => Child::Crashed,
        other => panic!("child {name} ended with {other:?}:\n{}", text()),
    }
}

/// The variable that tells a child where to work.
#[cfg(test)]
pub(crate) const CHILD_DIR: &str = "DEPLOYD_TEST_DIR";

/// The folder a child was told to work in.
#[cfg(test)]
pub(crate) fn child_dir() -> std::path::PathBuf {
    std::env::var_os(CHILD_DIR).expect("only run by run_child").into()
}
