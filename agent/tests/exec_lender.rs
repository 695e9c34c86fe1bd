//! deployd-exec against a lender socket as the agent has it: lending, and relaying leftovers.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use deployd_handoff::fd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, sendmsg,
    socket,
};
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_deployd-exec");
/// How long anything may take that normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's side of the lender socket.
struct Agent {
    socket: OwnedFd,
    path: String,
    /// The manager's: where a relay says that it accepts no more.
    notify: UnixDatagram,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lender.sock");
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify.sock")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path: path.to_str().unwrap().to_owned(), notify, _folder: folder }
    }

    /// The next caller, its message and what it sent.
    fn receive(&self) -> (OwnedFd, String, Vec<OwnedFd>) {
        readable(&self.socket);
        let caller = fd::accept(&self.socket).unwrap();
        readable(&caller);
        let mut text = [0; 256];
        let (length, sockets) = fd::receive(&caller, &mut text).unwrap();
        (caller, String::from_utf8(text[..length].to_vec()).unwrap(), sockets)
    }
}

fn readable(fd: &OwnedFd) {
    let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut waiting, limit).unwrap(), 1, "nobody called");
}

fn reply(caller: &OwnedFd, text: &str, socket: Option<&TcpListener>) {
    let rights: Vec<_> = socket.iter().map(|socket| socket.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&rights)];
    let control: &[_] = if rights.is_empty() { &[] } else { &control };
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg::<()>(caller.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
}

fn finish(child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn lend_sends_the_sockets_and_waits_for_the_answer() {
    let agent = Agent::new();
    for (answer, status, told) in
        [("ok", 0, ""), ("not ours", 75, "deployd-exec: the agent answered: not ours\n")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let child = Command::new("sh")
            .args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"", PROGRAM])
            .args(["lend", "deployd-a.socket", "--lender", &agent.path])
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "http")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (caller, text, mut sockets) = agent.receive();
        assert_eq!((text.as_str(), sockets.len()), ("lend deployd-a.socket\nhttp", 1));
        assert_eq!(TcpListener::from(sockets.remove(0)).local_addr().unwrap(), address);
        reply(&caller, answer, None);
        assert_eq!(finish(child), (status, String::new(), told.to_owned()));
    }
}

/// Starts a relay of `listener` to `to`, with these limits in milliseconds: quiet, accepting, carrying.
fn relay(agent: &Agent, listener: &TcpListener, to: &str, [quiet, limit, carry]: [&str; 3]) -> Child {
    let child = Command::new(PROGRAM)
        .args(["relay", "deployd-a.socket", "--to", to, "--quiet-ms", quiet, "--max-ms", limit])
        .args(["--carry-ms", carry, "--lender", &agent.path])
        .env("NOTIFY_SOCKET", agent.notify.local_addr().unwrap().as_pathname().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (caller, text, _) = agent.receive();
    assert_eq!(text, "take deployd-a.socket");
    reply(&caller, "ok", Some(listener));
    child
}

fn client(listener: &TcpListener) -> TcpStream {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Answers each connection with what it got, reversed, once the client has said its end.
fn reversing() -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                bytes.reverse();
                stream.write_all(&bytes).unwrap();
            });
        }
    });
    address
}

#[test]
fn leftovers_are_served_whole_and_the_listener_stays_blocking() {
    const CLIENTS: usize = 20;
    // Larger than every buffer on the way.
    const BYTES: usize = 3_000_000;
    let agent = Agent::new();
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    // All of them are in the queue before the relay starts.
    let mut queued: Vec<_> = (0..CLIENTS).map(|_| client(&old)).collect();
    for (index, stream) in queued.iter_mut().enumerate() {
        write!(stream, "hello {index}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let child = relay(&agent, &old, &reversing(), ["3000", "60000", "60000"]);
    for (index, mut stream) in queued.into_iter().enumerate() {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.chars().rev().collect::<String>(), format!("hello {index}"));
    }
    // A late and large one.
    let mut large = client(&old);
    let sent: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let mut writer = large.try_clone().unwrap();
    let writing = std::thread::spawn({
        let sent = sent.clone();
        move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut back = Vec::new();
    large.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    back.reverse();
    assert!(back == sent, "{} bytes came back of {BYTES}", back.len());

    let (status, output, errors) = finish(child);
    assert_eq!((status, errors.as_str()), (0, ""));
    assert!(output.starts_with("relayed 21 connections from deployd-a.socket to 127.0.0.1:"), "{output}");
    assert!(output.ends_with(": 0 cut at the limit, 0 broken off, 0 not taken\n"), "{output}");
    let flags = OFlag::from_bits_retain(fcntl(&old, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK), "the shared flag was changed");
}

#[test]
fn the_limit_ends_it_and_the_cut_are_counted() {
    let agent = Agent::new();
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = client(&old);
    let (_, output, _) = finish(relay(&agent, &old, &reversing(), ["50", "60000", "400"]));
    assert!(output.contains("relayed 1 connections"), "{output}");
    assert!(output.contains(": 1 cut at the limit, 0 broken off"), "{output}");
    drop(silent);
}

/// What it took over it carries on, long after it said that it accepts no more; what comes then is not its.
#[test]
fn the_end_of_accepting_cuts_nothing() {
    let agent = Agent::new();
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut slow = client(&old);
    slow.write_all(b"hel").unwrap();
    // Somebody always comes, so only the limit ends it.
    let child = relay(&agent, &old, &reversing(), ["60000", "300", "60000"]);
    let mut said = [0; 256];
    let length = agent.notify.recv(&mut said).unwrap();
    let said = String::from_utf8(said[..length].to_vec()).unwrap();
    assert!(said.starts_with("READY=1\nSTATUS=relayed 1 connections from deployd-a.socket"), "{said}");
    let late = client(&old);
    let (_, of) = old.accept().unwrap();
    assert_eq!(of, late.local_addr().unwrap(), "the relay took what came after its end");
    slow.write_all(b"lo").unwrap();
    slow.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "olleh");
    let (status, output, _) = finish(child);
    assert_eq!(status, 0);
    assert!(output.ends_with(": 0 cut at the limit, 0 broken off, 0 not taken\n"), "{output}");
}

#[test]
fn a_target_that_refuses_breaks_the_connection_off() {
    let agent = Agent::new();
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut queued = client(&old);
    queued.write_all(b"x").unwrap();
    let (status, output, _) = finish(relay(&agent, &old, &nobody, ["50", "60000", "60000"]));
    assert_eq!(status, 0);
    assert!(output.contains("relayed 1 connections"), "{output}");
    assert!(output.contains("1 broken off") || output.contains("1 not taken"), "{output}");
}

#[test]
fn an_agent_that_has_no_such_listener_says_so() {
    let agent = Agent::new();
    let child = Command::new(PROGRAM)
        .args(["relay", "x.socket", "--to", "127.0.0.1:1", "--quiet-ms", "1", "--max-ms", "1"])
        .args(["--lender", &agent.path])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (caller, _, _) = agent.receive();
    reply(&caller, "nothing is borrowed from x.socket", None);
    let expected = "deployd-exec: the agent answered: nothing is borrowed from x.socket\n";
    assert_eq!(finish(child), (75, String::new(), expected.to_owned()));
}
