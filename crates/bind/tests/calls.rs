//! What a C program sees under the shipped library, call by call. New cases go into `programs/probe.c`.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod support;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use support::{BACKLOG, Program, compile, connect, dual_stack, library};

const INET: i32 = 2;
const INET6: i32 = 10;

struct Case {
    program: Program,
    port: u16,
    _listener: OwnedFd,
    _folder: tempfile::TempDir,
}

/// Starts one case of the probe on a dual-stack listener.
fn probe(mode: &str) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile("probe", folder.path(), &[]);
    let (listener, port) = dual_stack();
    let words = [binary.to_str().unwrap(), mode, &port.to_string()];
    let program = Program::start(&listener, &format!("[::]:{port}"), &words);
    Case { program, port, _listener: listener, _folder: folder }
}

impl Case {
    fn until_ready(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.program.line();
            assert!(!line.is_empty(), "ended before it was ready: {lines:?}");
            if line == "ready" {
                return lines;
            }
            lines.push(line);
        }
    }

    /// Connects from `source` and reads the answer.
    fn talk(&self, source: &str) -> String {
        let mut answer = String::new();
        connect(source, self.port).read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn no_symbol_has_a_version_and_no_library_is_needed() {
    let output = Command::new("objdump").args(["-T", "-p"]).arg(library()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" accept4"), "{text}");
    assert!(!text.contains("GLIBC_"), "{text}");
    assert!(!text.contains("NEEDED"), "{text}");
}

#[test]
fn an_inet_socket_gets_inet_addresses_back() {
    let mut case = probe("inet");
    let before = case.until_ready();
    assert_eq!(
        before,
        ["bind 0", "listen 0", "listener-local 2 0.0.0.0 16", "listener-domain 2", "nodelay 1"]
    );
    assert!(case.talk("127.0.0.7").starts_with("pid"));
    assert!(case.talk("::1").starts_with("pid"));
    let (output, errors) = case.program.finish();
    let mut expected = String::new();
    for (peer, local) in [("127.0.0.7", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")] {
        expected += &format!("accept {INET} {peer} 16\n");
        for what in ["conn", "dup"] {
            expected += &format!(
                "{what}-local {INET} {local} 16\n{what}-peer {INET} {peer} 16\n{what}-domain {INET}\n"
            );
        }
    }
    assert_eq!(output, expected);
    assert_eq!(errors, "");
}

#[test]
fn an_inet6_socket_sees_what_the_kernel_says() {
    let mut case = probe("inet6");
    let before = case.until_ready();
    assert_eq!(
        before,
        ["bind 0", "listen 0", "v6only 0", "listener-local 10 :: 28", "listener-domain 10", "nodelay 1"]
    );
    case.talk("127.0.0.7");
    case.talk("::1");
    let (output, _) = case.program.finish();
    assert!(output.contains(&format!("accept {INET6} ::ffff:127.0.0.7 28\n")), "{output}");
    assert!(output.contains(&format!("conn-peer {INET6} ::1 28\n")), "{output}");
}

#[test]
fn one_socket_per_family_on_one_port_each_keep_their_own() {
    let mut case = probe("both");
    assert_eq!(case.until_ready(), ["bind 0 0"]);
    case.talk("127.0.0.7");
    case.talk("127.0.0.7");
    let (output, _) = case.program.finish();
    assert!(output.contains(&format!("accept {INET} 127.0.0.7 16\nconn-local {INET}")), "{output}");
    assert!(output.contains(&format!("accept {INET6} ::ffff:127.0.0.7 28\nconn-local {INET6}")), "{output}");
}

#[test]
fn a_short_address_buffer_is_not_overrun() {
    let mut case = probe("short");
    case.until_ready();
    case.talk("127.0.0.1");
    case.talk("127.0.0.1");
    assert_eq!(case.program.finish().0, "short 16 . x\nnull 1\n");
}

#[test]
fn the_larger_backlog_is_kept() {
    let (output, _) = probe("backlog").program.finish();
    assert_eq!(output, format!("backlog {BACKLOG}\nbacklog 2000\n"));
}

#[test]
fn nonblock_and_cloexec_are_the_programs_own() {
    let (output, _) = probe("flags").program.finish();
    let expected =
        ["nonblock 1 cloexec 1", "nonblock 0 cloexec 0", "nonblock 1 cloexec 0", "nonblock 0 cloexec 1"];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn several_sockets_on_one_port_share_the_listener() {
    let mut case = probe("reuseport");
    assert_eq!(case.until_ready(), ["bind 0", "detach 0", "bind 0", "detach 0", "bind 0", "detach 0"]);
    for _ in 0..3 {
        assert!(case.talk("127.0.0.1").starts_with("pid"));
    }
    case.program.finish();
}

#[test]
fn a_forked_child_binds_again() {
    let mut case = probe("fork");
    assert_eq!(case.until_ready(), ["parent 0", "child 0"]);
    assert_ne!(case.talk("127.0.0.7"), format!("pid {}\n", case.program.id()));
    assert!(case.program.finish().0.contains(&format!("accept {INET} 127.0.0.7 16\n")));
}

#[test]
fn started_programs_inherit_neither_variables_nor_descriptors() {
    assert_eq!(probe("children").program.finish().0, "end\n");
}

#[test]
fn a_program_without_the_listed_sockets_drops_stale_variables() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile("probe", folder.path(), &[]);
    let (listener, port) = dual_stack();
    let run = |address: &str| {
        Program::start(&listener, address, &[binary.to_str().unwrap(), "environment"]).finish().0
    };
    // The passed socket is not the listed one, as in the child of a runtime that keeps its first environment.
    assert_eq!(run(&format!("127.0.0.1:{port}")), "end\n");
    // Before the takeover they stay: this may be the wrapper of the program that binds.
    assert_eq!(run(&format!("[::]:{port}")).lines().count(), 5);
}

#[test]
fn another_address_is_refused_with_the_line_to_write() {
    let case = probe("refuse");
    let port = case.port;
    let (output, errors) = case.program.finish();
    assert_eq!(output, "bind -1 EADDRNOTAVAIL\n".repeat(3));
    assert_eq!(
        errors,
        format!(
            "deployd: this program binds 127.0.0.1:{port} but the release listens on [::]:{port}: bind that \
             address, or write address = \"127.0.0.1:{port}\" in its [listen.NAME] of deployd.toml\n"
        )
    );
}

#[test]
fn other_sockets_are_untouched() {
    let (output, errors) = probe("others").program.finish();
    assert_eq!(output, "zero 0\nother-port 1 family 2\nudp 0\nbad -1 EBADF\nnull -1\n");
    assert_eq!(errors, "");
}

#[test]
fn a_closed_descriptor_changes_nothing() {
    assert_eq!(probe("closed").program.finish().0, "bind -1 EADDRINUSE\n");
}

#[test]
fn a_static_program_ignores_it() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile("probe", folder.path(), &["-static"]);
    let (listener, port) = dual_stack();
    let words = [binary.to_str().unwrap(), "plain", &port.to_string()];
    let (output, errors) = Program::start(&listener, &format!("[::]:{port}"), &words).finish();
    assert_eq!((output.as_str(), errors.as_str()), ("bind -1 1\n", ""));
}

#[test]
fn a_unix_socket_is_taken_and_its_file_kept() {
    let folder = tempfile::tempdir().unwrap();
    let binary = compile("probe", folder.path(), &[]);
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let text = path.to_str().unwrap();
    let mut program = Program::start(&listener.into(), text, &[binary.to_str().unwrap(), "unix", text]);
    for expected in ["unlink 0", "bind 0", "listen 0", "ready"] {
        assert_eq!(program.line(), expected);
    }
    let mut answer = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("pid {}\n", program.id()));
    assert_eq!(program.finish().0, "remove 0\n");
    assert!(path.exists());
}
