//! deployd-exec as a child process, with sockets passed as systemd passes them.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long anything may take that normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shell passes `first` as descriptor 3 and `second` (if any) as 4, then becomes the trampoline.
fn trampoline(names: &str, first: &TcpListener, second: Option<&TcpListener>) -> Command {
    let mut command = Command::new("sh");
    let (moves, count) = match second {
        Some(_) => ("exec 3<&0 4>&1 0</dev/null 1>&2", 2),
        None => ("exec 3<&0 0</dev/null 1>&2", 1),
    };
    let script = format!("{moves}; LISTEN_PID=$$ exec \"$0\" \"$@\"");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_deployd-exec")])
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_FDNAMES", names)
        .env("LISTEN_PIDFDID", "1")
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::from(OwnedFd::from(first.try_clone().unwrap())))
        .stderr(Stdio::piped());
    if let Some(second) = second {
        command.stdout(Stdio::from(OwnedFd::from(second.try_clone().unwrap())));
    }
    command
}

/// Runs to its end; what it printed (standard output goes to the error stream here).
fn text(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    (listener, name.to_str().unwrap().to_owned())
}

/// Prints the variables and sockets that the program has. `$$` is the process id that systemd knows.
const SHOW: &str = "env | grep -E '^(LISTEN|LD_PRELOAD|DEPLOYD_BIND|PORT)' | sed \"s/=$$\\$/=self/\" | sort; \
                    for f in 0 3 4 5 6; do l=$(readlink /proc/$$/fd/$f); case $l in socket*) echo $f $l;; esac; done";

#[test]
fn activation_and_auto_are_passed_on_in_their_order() {
    let ((first, first_name), (second, second_name)) = (listener(), listener());
    let (status, text) = text(trampoline("admin:http", &first, Some(&second)).args([
        "run",
        "--listener",
        "http=activation:127.0.0.1:80",
        "--listener",
        "admin=auto:127.0.0.1:81",
        "--shim",
        "/nowhere/shim.so",
        "--",
        "sh",
        "-c",
        SHOW,
    ]));
    assert_eq!(status, 0, "{text}");
    let text = without_loader(&text);
    assert_eq!(
        text,
        format!(
            "DEPLOYD_BIND=4=127.0.0.1:81\nLD_PRELOAD=/nowhere/shim.so\nLISTEN_FDNAMES=http:admin\nLISTEN_FDS=2\n\
             LISTEN_PID=self\n3 {second_name}\n4 {first_name}\n"
        )
    );
}

/// The loader warns once per program about a shim that is not there; this test needs none.
fn without_loader(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains("ld.so")).collect()
}

#[test]
fn bind_has_no_listen_variables_and_an_existing_preload_stays() {
    let (first, name) = listener();
    let (status, text) =
        text(trampoline("http", &first, None).env("LD_PRELOAD", "/nowhere/other.so").args([
            "run",
            "--listener",
            "http=bind:[::]:80",
            "--shim",
            "/nowhere/shim.so",
            "--",
            "sh",
            "-c",
            SHOW,
        ]));
    assert_eq!(status, 0, "{text}");
    assert_eq!(
        without_loader(&text),
        format!("DEPLOYD_BIND=3=[::]:80\nLD_PRELOAD=/nowhere/shim.so:/nowhere/other.so\n3 {name}\n")
    );
}

#[test]
fn arg_and_stdin_have_no_variables() {
    let ((first, first_name), (second, second_name)) = (listener(), listener());
    let (status, text) = text(trampoline("http:inetd", &first, Some(&second)).args([
        "run",
        "--listener",
        "inetd=stdin:127.0.0.1:80",
        "--listener",
        "http=arg:127.0.0.1:81",
        "--",
        "sh",
        "-c",
        &format!("echo \"$1\"; {SHOW}"),
        "sh",
        "--listen=fd:{fd:http}",
    ]));
    assert_eq!((status, text), (0, format!("--listen=fd:3\n0 {second_name}\n3 {first_name}\n")));
}

#[test]
fn port_has_a_number_and_no_socket() {
    let (first, _) = listener();
    let (status, text) = text(trampoline("http", &first, None).args([
        "run",
        "--listener",
        "http=port:127.0.0.1:80",
        "--base-port",
        "9000",
        "--instance",
        "2",
        "--",
        "sh",
        "-c",
        SHOW,
    ]));
    assert_eq!((status, text.as_str()), (0, "PORT=9002\n"));
}

#[test]
fn the_program_keeps_the_process_id_and_an_ignored_sigpipe() {
    let (first, _) = listener();
    let script = "[ $LISTEN_PID = $$ ] && grep SigIgn /proc/$$/status";
    let (status, text) = text(trampoline("http", &first, None).args([
        "run",
        "--listener",
        "http=activation:127.0.0.1:80",
        "--",
        "sh",
        "-c",
        script,
    ]));
    let mask = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!((status, mask >> 12 & 1), (0, 1), "{text}");
}

#[test]
fn failures_are_one_line_and_status_75() {
    let (first, _) = listener();
    let run = |words: &[&str]| text(trampoline("http", &first, None).args(words));
    for (words, wanted) in [
        (
            &["run", "--listener", "x=auto:[::]:1", "--", "true"][..],
            "listener x was not passed by its .socket unit (passed: http)",
        ),
        (&["run", "--listener", "http=auto:[::]:1", "--", "true"], "http needs --shim PATH"),
        (&["run", "--", "/nowhere/program"], "start /nowhere/program: ENOENT: No such file or directory"),
        (&["run", "--", "true", "{fd:http}"], "{fd:http} names no listener with handoff = \"arg\""),
        (&["jump"], "unknown subcommand \"jump\"; usage: deployd-exec run|proxy|lend|relay ..."),
    ] {
        assert_eq!(run(words), (75, format!("deployd-exec: {wanted}\n")));
    }
}

#[test]
fn proxy_forwards_the_passed_socket_to_the_private_port() {
    let ((public, _), (private, _)) = (listener(), listener());
    let port = private.local_addr().unwrap().port();
    let mut proxy = trampoline("http", &public, None)
        .args(["proxy", "--base-port", &(port - 2).to_string(), "--instance", "2"])
        .spawn()
        .unwrap();
    let mut client = TcpStream::connect(public.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut server, _) = private.accept().unwrap();
    server.write_all(b"through").unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    assert_eq!(&answer, b"through");
}
