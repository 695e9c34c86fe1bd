//! Whole-program tests: the real binary against a scripted agent on a Unix socket.
//!
//! The agent here is a double of the wire and nothing more: it answers what the test says and records
//! what it was asked. New verbs get a file of their own beside `push.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod agent;
mod captured;
mod fake_host;
mod fleet;
mod hosts;
mod observe;
mod pki;
mod push;
mod secrets;

use std::path::Path;
use std::process::Stdio;

use agent::Agent;

/// What a run of the binary gave.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A folder with a spec and an artifact in `out/`.
pub(crate) fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let spec = "app = \"shop\"\n[processes.web]\nexec = \"bin/shop\"\n[listen.http]\naddress = \":8080\"\n\
                [checks.deep]\npath = \"/health/deep\"\n";
    std::fs::write(dir.path().join("deployd.toml"), spec).unwrap();
    std::fs::create_dir_all(dir.path().join("out/bin")).unwrap();
    std::fs::write(dir.path().join("out/bin/shop"), "hello").unwrap();
    dir
}

/// The binary, not yet started, so that no variable of the machine shows in what it prints.
pub(crate) fn command(dir: &Path, socket: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_deployd-ctl"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("TZ", "UTC")
        .env("USER", "ops-1")
        .env("DEPLOYD_SOCKET", socket)
        .env("DEPLOYD_HOST_NAME", "web1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs the binary in a fresh project against this agent.
pub(crate) async fn run(agent: &Agent, arguments: &[&str]) -> Run {
    let dir = project();
    let output = command(dir.path(), &agent.socket, arguments).output().await.unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Compares line by line after masking what depends on the speed of the machine.
#[track_caller]
pub(crate) fn assert_lines(text: &str, want: &[&str]) {
    let lines: Vec<String> = text.lines().map(mask).collect();
    assert_eq!(lines, want, "whole text:\n{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "too wide: {line}");
    }
}

pub(crate) fn mask(line: &str) -> String {
    let mut line = line.to_owned();
    let bytes = line.as_bytes();
    if bytes.first() == Some(&b'+') && bytes.get(3) == Some(&b':') {
        line.replace_range(1..6, "TT:TT");
    }
    // The time a run took: after the host in the last line, after the size of an upload.
    for before in ["on web1, ", "on web1 again, ", "of 3 hosts, ", "of 2 hosts, ", "sent 54B "] {
        if let Some(start) = line.find(before).map(|at| at + before.len())
            && line[start..].starts_with(|c: char| c.is_ascii_digit())
        {
            let rest = &line[start..];
            let end = rest.find("s.").map_or(rest.len(), |at| at + 1);
            line.replace_range(start..start + end, "TIME");
        }
    }
    // A plan's token.
    while let Some(at) = line.find("p-").filter(|at| {
        let digits = line.get(at + 2..at + 10);
        digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
    }) {
        line.replace_range(at..at + 10, "TOKEN");
    }
    line
}
