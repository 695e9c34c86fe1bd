//! Real child processes with passed sockets. A child is this test program again, running one ignored test.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use deployd_handoff::{Listeners, notify};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long anything may take that normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// This program as a child that runs `case`, with `listener` as descriptor 3. `LISTEN_PID` is `pid`.
fn child(case: &str, listener: TcpListener, pid: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec 3<&0 0</dev/null; export {pid}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", case, "--ignored", "--nocapture", "--test-threads=1"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "http")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::piped());
    command
}

#[test]
#[ignore = "a child of the tests below"]
fn child_serves_one() {
    let mut listeners = Listeners::from_env().unwrap();
    let found = listeners.tcp("http", "127.0.0.1:0").unwrap();
    assert!(listeners.unused().next().is_none());
    assert!(Listeners::from_env().is_err(), "a descriptor has one owner");
    notify::ready().unwrap();
    let (mut stream, _) = found.accept().unwrap();
    let inherited = Command::new("sh").args(["-c", "readlink /proc/self/fd/3; true"]).output().unwrap();
    stream.write_all(&inherited.stdout).unwrap();
    stream.write_all(b"served\n").unwrap();
    notify::stopping().unwrap();
}

#[test]
#[ignore = "a child of the tests below"]
fn child_prints_its_port() {
    let mut listeners = Listeners::from_env().unwrap();
    println!("port {}", listeners.tcp("http", "127.0.0.1:0").unwrap().local_addr().unwrap().port());
}

fn serve_through_child(pid: &str, notify: &str, manager: &UnixDatagram) {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut child = child("child_serves_one", listener, pid).env("NOTIFY_SOCKET", notify).spawn().unwrap();
    let mut message = [0; 64];
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "served\n", "a program started by the child must not have the listener");
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_passed_listener_is_found_and_the_manager_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    serve_through_child("LISTEN_PID=$$", path.to_str().unwrap(), &UnixDatagram::bind(&path).unwrap());
}

#[test]
fn an_unset_pid_and_an_abstract_notify_socket_work() {
    let name = format!("deployd-handoff-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    serve_through_child("NOTHING=1", &format!("@{name}"), &UnixDatagram::bind_addr(&address).unwrap());
}

#[test]
fn a_foreign_pid_means_that_nothing_was_passed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = child("child_prints_its_port", listener, "LISTEN_PID=1").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("port ") && !text.contains(&format!("port {port}\n")), "{text}");
}

#[test]
fn without_anything_passed_it_binds() {
    let mut listeners = Listeners::from_env().unwrap();
    let tcp = listeners.tcp("http", "127.0.0.1:0").unwrap();
    TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    assert_eq!(
        listeners.tcp("http", "localhost").unwrap_err().to_string(),
        "localhost is no address: write IP:PORT or :PORT"
    );
    let taken = listeners.tcp("http", &tcp.local_addr().unwrap().to_string()).unwrap_err();
    assert!(taken.to_string().starts_with("bind 127.0.0.1:"), "{taken}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    drop(listeners.unix("admin", &path).unwrap());
    let again = listeners.unix("admin", &path).unwrap();
    assert!(listeners.unix("admin", &path).is_err(), "a living listener is not replaced");
    drop(again);
    assert_eq!(notify::ready().unwrap(), notify::Told::Nobody);
}
