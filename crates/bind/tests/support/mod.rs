//! Builds the library as it is shipped and starts programs with it, a listener passed as descriptor 3.
//!
//! All traffic stays on loopback; every program is ended by its own handle. Used by the suites beside it.
#![expect(dead_code, reason = "each suite uses its own part")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, sockopt};
use nix::sys::socket::{bind, listen, setsockopt, socket};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take that normally takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Backlog of the passed listeners, unlike any that a program asks for.
pub(crate) const BACKLOG: i32 = 1234;

/// The library, built once per run exactly as the package builds it.
pub(crate) fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shipped");
        let status = Command::new(env!("CARGO"))
            .args(["rustc", "--quiet", "--release", "-p", "deployd-bind", "--target-dir"])
            .arg(&target)
            .args(["--", "-C", "panic=abort"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the library does not build");
        target.join("release/libdeployd_bind.so")
    })
}

/// Compiles `tests/programs/NAME.c`, with these extra flags.
pub(crate) fn compile(name: &str, into: &Path, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(format!("{name}.c"));
    let program = into.join(name);
    let status =
        Command::new("cc").arg("-o").arg(&program).arg(source).args(flags).arg("-pthread").status().unwrap();
    assert!(status.success(), "{name}.c does not compile");
    program
}

/// A dual-stack listener on a free port, as a `.socket` unit opens it.
pub(crate) fn dual_stack() -> (OwnedFd, u16) {
    let fd = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::Ipv6V6Only, &false).unwrap();
    let any = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &any).unwrap();
    listen(&fd, Backlog::new(BACKLOG).unwrap()).unwrap();
    let listener = TcpListener::from(fd);
    let port = listener.local_addr().unwrap().port();
    (listener.into(), port)
}

/// A program under the library.
pub(crate) struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
    errors: Option<ChildStderr>,
}

impl Program {
    /// Starts `words` with `listener` as descriptor 3, listed as `address`.
    pub(crate) fn start(listener: &OwnedFd, address: &str, words: &[&str]) -> Self {
        // The shell moves its standard input to descriptor 3; only what it execs is preloaded.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "exec 3<&0 0</dev/null; exec env LD_PRELOAD=\"$SHIM\" DEPLOYD_BIND=\"$LIST\" \"$@\"",
                "sh",
            ])
            .args(words)
            .env("SHIM", library())
            .env("LIST", format!("3={address}"))
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "http")
            .stdin(Stdio::from(listener.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let errors = child.stderr.take();
        Self { child, output, errors }
    }

    /// The next line the program prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; what it printed on stdout and stderr.
    pub(crate) fn finish(mut self) -> (String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).unwrap();
        self.errors.take().unwrap().read_to_string(&mut errors).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{output}\n{errors}");
        (output, errors)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects from `source` (an address without a port) to a loopback port.
pub(crate) fn connect(source: &str, port: u16) -> TcpStream {
    use nix::sys::socket::{SockaddrStorage, connect};
    let source: SocketAddr =
        if source.contains(':') { format!("[{source}]:0") } else { format!("{source}:0") }.parse().unwrap();
    let (family, target) = match source {
        SocketAddr::V4(_) => (AddressFamily::Inet, format!("127.0.0.1:{port}")),
        SocketAddr::V6(_) => (AddressFamily::Inet6, format!("[::1]:{port}")),
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind(raw, &SockaddrStorage::from(source)).unwrap();
    connect(raw, &SockaddrStorage::from(target.parse::<SocketAddr>().unwrap())).unwrap();
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a server that closes after its answer says to `GET path`: the body.
pub(crate) fn get(source: &str, port: u16, path: &str) -> String {
    let mut stream = connect(source, port);
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}")).1.trim_end().to_owned()
}

/// Polls until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
