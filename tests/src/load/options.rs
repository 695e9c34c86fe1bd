//! What a load run does: target, clients, sources, pace, and which answers are right.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::netns::NetPath;

/// How clients use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every other client keeps its connection, the others open one for each request.
    Half,
    /// All clients keep their connection.
    KeepAlive,
    /// A new connection for each request.
    NewConnection,
}

/// Which address clients connect from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Whatever the kernel chooses.
    Kernel,
    /// `127.1.x.y`, 20,000 of them in turn: no run on loopback ends for lack of ports.
    Loopback,
    /// These, in turn.
    Of(Vec<IpAddr>),
}

/// Whether the generator waits for a processor like every other program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// It does.
    Normal,
    /// It does not: a pause of it would look like a pause of the load. Only with a think time.
    BeforeOthers,
}

/// A load run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to connect to.
    pub target: SocketAddr,
    /// Path of the request.
    pub path: String,
    /// Number of clients, each with at most one request at a time.
    pub clients: usize,
    /// How they use connections.
    pub pattern: Pattern,
    /// Where they connect from.
    pub sources: Sources,
    /// Mean pause of a client between an answer and its next request.
    pub think: Duration,
    /// Of the generator's thread.
    pub priority: Priority,
    /// After this a request has failed as `Timeout`.
    pub timeout: Duration,
    /// Accepted first lines of a body (`shop v1`); empty: every 200 with a first line is accepted.
    pub accept: Vec<String>,
    /// Exact length of a right body, when known: anything shorter is `Short`.
    pub body_len: Option<usize>,
    /// The namespace to send from; `None`: the caller's.
    pub from: Option<NetPath>,
}

impl Options {
    /// The load that swap tests use: 64 clients, half keep-alive, no think time, 2 s.
    pub fn new(target: SocketAddr) -> Self {
        let sources = match target.ip() {
            IpAddr::V4(address) if address.is_loopback() => Sources::Loopback,
            _ => Sources::Kernel,
        };
        Self {
            target,
            path: "/".to_owned(),
            clients: 64,
            pattern: Pattern::Half,
            sources,
            think: Duration::ZERO,
            priority: Priority::Normal,
            timeout: Duration::from_secs(2),
            accept: Vec::new(),
            body_len: None,
            from: None,
        }
    }

    /// Accepts only these first lines.
    #[must_use]
    pub fn accept(mut self, lines: &[&str]) -> Self {
        self.accept = lines.iter().map(|line| (*line).to_owned()).collect();
        self
    }

    /// Sends from another network namespace.
    #[must_use]
    pub fn from_netns(mut self, path: NetPath) -> Self {
        self.from = Some(path);
        self
    }
}
