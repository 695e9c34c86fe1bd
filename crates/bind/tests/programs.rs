//! Unchanged Python and Node servers under the shipped library, on one shared dual-stack listener.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod support;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use support::{Program, dual_stack, get, wait_until};

/// How each interpreter is started: the real binary, as a version-manager's wrapper would add a process.
fn words(language: &str, port: u16, host: &str) -> Vec<String> {
    let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/apps");
    let (interpreter, file) = match language {
        "node" => ("node", "node/server.js"),
        _ => ("python3", "python/server.py"),
    };
    let file = apps.join(file).canonicalize().unwrap();
    let mut words =
        vec!["env".to_owned(), format!("PORT={port}"), "APP_NAME=shop".into(), "APP_VERSION=v1".into()];
    if !host.is_empty() {
        words.push(format!("HOST={host}"));
    }
    words.extend([interpreter.to_owned(), file.to_str().unwrap().to_owned()]);
    words
}

fn start(listener: &OwnedFd, language: &str, port: u16, address: &str, host: &str) -> Program {
    let words = words(language, port, host);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut program = Program::start(listener, address, &words);
    assert_eq!(program.line(), "listening");
    program
}

/// Two instances of a server on one listener; what each family's clients look like to it.
fn check(language: &str, host: &str, over_ipv4: &str, over_ipv6: &str) {
    let (listener, port) = dual_stack();
    let address = format!("[::]:{port}");
    let _first = start(&listener, language, port, &address, host);
    let _second = start(&listener, language, port, &address, host);
    for _ in 0..10 {
        assert_eq!(get("127.0.0.7", port, "/"), "shop v1");
        assert_eq!(get("127.0.0.7", port, "/peer"), over_ipv4);
        assert_eq!(get("::1", port, "/peer"), over_ipv6);
    }
    let mut seen = HashSet::new();
    wait_until("both instances serve", || {
        seen.insert(get("127.0.0.1", port, "/pid"));
        seen.len() == 2
    });
    let child = get("127.0.0.1", port, "/child");
    assert!(child.contains("APP_NAME=shop"), "{child}");
    for unwanted in ["LD_PRELOAD", "DEPLOYD_BIND", "LISTEN_"] {
        assert!(!child.contains(unwanted), "{unwanted} in the child of {language}:\n{child}");
    }
    // execFile and subprocess give pipes or socketpairs for stdio; the listener must not be there.
    let listener_name =
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&listener)));
    assert!(!child.contains(listener_name.unwrap().to_str().unwrap()), "{child}");
}

#[test]
fn python_on_every_ipv4_address() {
    check("python", "", "127.0.0.7", "0.0.0.0");
}

#[test]
fn python_on_every_address() {
    check("python", "::", "::ffff:127.0.0.7", "::1");
}

#[test]
fn node_as_it_comes() {
    check("node", "", "::ffff:127.0.0.7", "::1");
}

#[test]
fn node_on_every_ipv4_address() {
    check("node", "0.0.0.0", "127.0.0.7", "0.0.0.0");
}

#[test]
fn an_explicit_address_that_is_listed_is_taken() {
    for language in ["python", "node"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _program = start(&listener.into(), language, port, &format!("127.0.0.1:{port}"), "127.0.0.1");
        assert_eq!(get("127.0.0.7", port, "/peer"), "127.0.0.7");
    }
}

#[test]
fn an_explicit_address_that_is_not_listed_ends_with_the_line_to_write() {
    for language in ["python", "node"] {
        let (listener, port) = dual_stack();
        let words = words(language, port, "127.0.0.1");
        let mut with_status = vec!["sh", "-c", "\"$@\"; echo status $?", "sh"];
        with_status.extend(words.iter().map(String::as_str));
        let (output, errors) = Program::start(&listener, &format!("[::]:{port}"), &with_status).finish();
        assert!(output.contains("status 1"), "{output}{errors}");
        assert!(
            errors.contains(&format!("write address = \"127.0.0.1:{port}\" in its [listen.NAME]")),
            "{errors}"
        );
    }
}
