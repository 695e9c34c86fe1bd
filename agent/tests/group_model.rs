//! The model of a reuseport group, the steering programs and steered probes, against the kernel.
//!
//! Each test runs itself again in a network namespace of its own, and for an ordinary user in a user namespace as well:
//! there it may set `SO_MARK`, which steering marks are, and its traffic on 127.0.0.0/8 meets nobody's.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use deployd::host::listener::{Listener, Queue};
use deployd::host::probe::forward::Forward;
use deployd::host::probe::{HttpProbe, Target, http};
use deployd_core::steering::group::{Chosen, Group};
use deployd_core::steering::{MarkPrefix, only};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrLike, bind, connect, getsockname, listen,
    setsockopt, socket, sockopt,
};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

const PREFIX: MarkPrefix = MarkPrefix::DEFAULT;
const BACKLOG: u16 = 64;

/// Set in the run that is in the namespace.
const ISOLATED: &str = "DEPLOYD_TEST_ISOLATED";

/// Whether the calling test is where it may set marks. Where not, it has run there by now, and there is nothing left
/// to do.
fn is_isolated(test: &str) -> bool {
    if std::env::var_os(ISOLATED).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "--nocapture", test]).env(ISOLATED, "1");
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{out}");
    eprint!("{err}");
    assert!(output.status.success(), "failed in its namespaces, or none can be made here: {}", output.status);
    // A name that no test has would be a success, too.
    assert!(out.contains("1 passed"), "it ran nothing");
    false
}

fn bound(port: u16) -> (OwnedFd, u16) {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    bind(raw, &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))).unwrap();
    let port = getsockname::<SockaddrIn>(raw).unwrap().port();
    (fd, port)
}

/// A listener of the group: one descriptor in our hands, one held as PID 1 or an app would.
fn member(port: u16) -> (Listener, OwnedFd, u16) {
    let (fd, port) = bound(port);
    listen(&fd, Backlog::new(i32::from(BACKLOG)).unwrap()).unwrap();
    let held = fd.try_clone().unwrap();
    (Listener::adopt(fd).unwrap(), held, port)
}

fn connect_marked(port: u16, mark: Option<u32>) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(mark) = mark {
        setsockopt(&fd, sockopt::Mark, &mark)?;
    }
    let addr = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &addr as &dyn SockaddrLike)?;
    Ok(TcpStream::from(fd))
}

/// Accepts the one waiting connection and tells whose queue it was in.
fn accepted_by(held: &HashMap<u32, (Listener, OwnedFd)>) -> Vec<u32> {
    let mut owners = Vec::new();
    for (id, (listener, dup)) in held {
        if !listener.is_listening().unwrap() {
            continue;
        }
        let Queue { waiting, .. } = listener.queue().unwrap();
        let acceptor = TcpListener::from(dup.try_clone().unwrap());
        for _ in 0..waiting {
            let (_, peer) = acceptor.accept().unwrap();
            assert!(matches!(peer, SocketAddr::V4(_)));
            owners.push(*id);
        }
    }
    owners
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Listen,
    Close(u8),
    Shutdown(u8),
    Relisten(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Listen),
        2 => any::<u8>().prop_map(Op::Close),
        2 => any::<u8>().prop_map(Op::Shutdown),
        2 => any::<u8>().prop_map(Op::Relisten),
    ];
    prop::collection::vec(op, 1..12)
}

/// The real group beside the model.
struct Pair {
    model: Group<u32>,
    held: HashMap<u32, (Listener, OwnedFd)>,
    port: u16,
    /// Bound without listening, so that the port stays ours when the group is empty.
    _anchor: OwnedFd,
    next: u32,
}

impl Pair {
    fn new() -> Self {
        let (anchor, port) = bound(0);
        Self { model: Group::new(), held: HashMap::new(), port, _anchor: anchor, next: 0 }
    }

    fn nth(&self, pick: u8) -> Option<u32> {
        let mut ids: Vec<u32> = self.held.keys().copied().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then(|| ids[usize::from(pick) % ids.len()])
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Listen => {
                let (listener, dup, _) = member(self.port);
                self.held.insert(self.next, (listener, dup));
                self.model.listen(self.next);
                self.next += 1;
            }
            Op::Close(pick) => {
                if let Some(id) = self.nth(pick) {
                    self.held.remove(&id);
                    self.model.close(&id);
                }
            }
            Op::Shutdown(pick) => {
                // A second shutdown of the same socket is ENOTCONN: only members can be shut down.
                if let Some(id) = self.nth(pick).filter(|id| self.model.index_of(id).is_some()) {
                    self.held[&id].0.shutdown_read().unwrap();
                    self.model.shutdown(&id);
                }
            }
            Op::Relisten(pick) => {
                if let Some(id) = self.nth(pick) {
                    // Nothing of ours does it; an app may.
                    listen(&self.held[&id].0, Backlog::new(i32::from(BACKLOG)).unwrap()).unwrap();
                    self.model.listen(id);
                }
            }
        }
    }

    /// Asks the kernel for every index, by a program and by a mark, and compares with the model.
    fn check(&self) {
        let Some(first) = self.model.members().first() else {
            assert_eq!(self.model.choose(0), Chosen::Nobody);
            assert!(connect_marked(self.port, None).is_err(), "nobody listens, yet it was accepted");
            return;
        };
        let any_member = &self.held[first].0;
        let beyond = self.model.members().len() as u8;
        for index in 0..=beyond {
            any_member.attach(&only(PREFIX, index)).unwrap();
            let client = connect_marked(self.port, None).unwrap();
            self.compare(index);
            drop(client);
        }
        any_member.attach(&only(PREFIX, 0)).unwrap();
        for index in 0..=beyond {
            let client = connect_marked(self.port, Some(PREFIX.mark(index))).unwrap();
            self.compare(index);
            drop(client);
        }
    }

    fn compare(&self, index: u8) {
        let owners = accepted_by(&self.held);
        assert_eq!(owners.len(), 1, "one connection, accepted by {owners:?}");
        match self.model.choose(u32::from(index)) {
            Chosen::Member(id) => assert_eq!(owners[0], *id, "index {index}, model {:?}", self.model),
            Chosen::Any => assert!(self.model.index_of(&owners[0]).is_some()),
            Chosen::Nobody => panic!("the model is empty, yet {owners:?} accepted"),
        }
    }
}

/// As many as a run has time for; `cargo xtask test --full` has more.
fn cases() -> u32 {
    if std::env::var("DEPLOYD_TEST_FULL").is_ok_and(|value| value == "1") { 1500 } else { 64 }
}

/// The seed that the run printed, if it did.
fn rng_seed() -> RngSeed {
    let given = std::env::var("DEPLOYD_TEST_SEED").ok().and_then(|text| text.parse().ok());
    given.map_or(RngSeed::Random, RngSeed::Fixed)
}

#[test]
fn the_model_agrees_with_the_kernel() {
    if !is_isolated("the_model_agrees_with_the_kernel") {
        return;
    }
    let config = ProptestConfig {
        cases: cases(),
        rng_seed: rng_seed(),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let agrees = TestRunner::new(config).run(&ops(), |ops| {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
            pair.check();
        }
        Ok(())
    });
    agrees.unwrap();
}

#[test]
fn what_a_listener_tells_is_what_the_kernel_has() {
    if !is_isolated("what_a_listener_tells_is_what_the_kernel_has") {
        return;
    }
    let (listener, _held, port) = member(0);
    assert!(listener.is_listening().unwrap());
    let clone = Listener::adopt(listener.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let clients: Vec<_> = (0..3).map(|_| connect_marked(port, None).unwrap()).collect();
    assert_eq!(listener.queue().unwrap(), Queue { waiting: 3, backlog: u32::from(BACKLOG) });
    drop(clients);
    listener.shutdown_read().unwrap();
    assert!(!clone.is_listening().unwrap(), "shutdown reaches every holder");
    assert!(Listener::adopt(clone.as_fd().try_clone_to_owned().unwrap()).is_err());
}

/// A server that answers every request on this listener with one word.
fn answer_with(word: &'static str, listener: OwnedFd) {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        for stream in TcpListener::from(listener).incoming() {
            let mut stream = stream.unwrap();
            // A client that only connects is served by being closed.
            if stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len()).unwrap();
            }
        }
    });
}

#[tokio::test(flavor = "current_thread")]
async fn a_probe_reaches_the_release_of_its_mark_whoever_has_the_traffic() {
    if !is_isolated("a_probe_reaches_the_release_of_its_mark_whoever_has_the_traffic") {
        return;
    }
    let (old, held_old, port) = member(0);
    let (_new, held_new, _) = member(port);
    answer_with("old", held_old);
    answer_with("new", held_new);
    let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let probe = HttpProbe {
        method: "GET".into(),
        path: "/".into(),
        host: "localhost".into(),
        headers: Vec::new(),
        statuses: vec![(200, 200)],
        json: None,
        timeout: Duration::from_secs(10),
    };
    for live in [0, 1] {
        old.attach(&only(PREFIX, live)).unwrap();
        for (index, word) in [(Some(0), "old"), (Some(1), "new"), (None, ["old", "new"][usize::from(live)])] {
            let target = Target::Tcp { addr, mark: index.map(|i| PREFIX.mark(i)) };
            let direct = http(&target, &probe).await;
            assert_eq!((direct.failure, direct.excerpt.as_deref()), (None, Some(word)), "live {live}");
            let forward = Forward::open(target).await.unwrap();
            let through = http(&Target::Tcp { addr: forward.addr(), mark: None }, &probe).await;
            assert_eq!((through.failure, through.excerpt.as_deref()), (None, Some(word)), "live {live}");
        }
    }
}
