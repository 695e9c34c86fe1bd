//! The loop: one thread, one epoll, all clients. It decides when a request starts and writes down how it ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::{Events, Poll, Token};

use super::clock::monotonic_ns;
use super::connection::{Client, Habit, Outcome, Request, Reuse, State, connect_kind};
use super::options::{Options, Pattern};
use super::response::Accepted;
use super::running::Shared;
use super::sample::{Kind, NO_RELEASE, Recording, Sample};
use super::source::Connector;

/// Longest sleep: bounds how late a stop, a time-out or the end of a pause is noticed.
const TICK: Duration = Duration::from_millis(2);
/// Pause of a client after a failure, so that a dead target is not hammered in a loop.
const AFTER_FAILURE: Duration = Duration::from_millis(1);

/// A running load.
pub(super) struct Engine {
    poll: Poll,
    clients: Vec<Client>,
    connector: Connector,
    accepted: Accepted,
    keep_request: Vec<u8>,
    renew_request: Vec<u8>,
    /// The mean. Each pause is between half and one and a half of it: clients that all pause alike would march in
    /// step after the first delay, with no load at all between their steps.
    think_ns: u64,
    chance: u64,
    timeout_ns: u64,
    samples: Vec<Sample>,
    shared: Arc<Shared>,
}

impl Engine {
    pub(super) fn new(options: Options, shared: Arc<Shared>) -> Result<Self> {
        let habit = |index: usize| match options.pattern {
            Pattern::KeepAlive => Habit::Keep,
            Pattern::Half if index.is_multiple_of(2) => Habit::Keep,
            Pattern::Half | Pattern::NewConnection => Habit::Renew,
        };
        let request = |connection: &str| {
            format!(
                "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
                options.path, options.target
            )
            .into_bytes()
        };
        Ok(Self {
            poll: Poll::new().context("failed to create an epoll instance")?,
            clients: (0..options.clients).map(|index| Client::new(habit(index))).collect(),
            keep_request: request("keep-alive"),
            renew_request: request("close"),
            connector: Connector::new(options.target, options.sources),
            accepted: Accepted::new(options.accept, options.body_len),
            think_ns: options.think.as_nanos() as u64,
            chance: 1,
            timeout_ns: options.timeout.as_nanos() as u64,
            samples: Vec::new(),
            shared,
        })
    }

    /// Runs until a stop is asked for, then lets the requests in flight end.
    pub(super) fn run(mut self) -> Result<Recording> {
        let mut events = Events::with_capacity(1024);
        loop {
            let stopping = self.shared.is_stopping();
            let now = monotonic_ns();
            let mut in_flight = false;
            for index in 0..self.clients.len() {
                match self.clients[index].state {
                    State::Idle { due_ns } if !stopping && due_ns <= now => self.start(index, now),
                    State::Idle { .. } => {}
                    State::Connecting | State::Waiting => {
                        in_flight = true;
                        if now.saturating_sub(self.clients[index].request.start_ns) > self.timeout_ns {
                            self.end(index, Kind::Timeout, NO_RELEASE, Reuse::No);
                        }
                    }
                }
            }
            if stopping && !in_flight {
                break;
            }
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                    return Err(error).context("failed to wait for events");
                }
                _ => {}
            }
            for event in &events {
                self.handle(event);
            }
        }
        Ok(Recording { releases: self.accepted.lines().to_vec(), samples: self.samples })
    }

    /// Starts a new request on the kept connection or on a new one.
    fn start(&mut self, index: usize, now: u64) {
        let reused = self.clients[index].is_connected();
        self.clients[index].request = Request { start_ns: now, reused, retried: false };
        if reused { self.send(index) } else { self.connect(index) }
    }

    fn connect(&mut self, index: usize) {
        let stream = match self.connector.open() {
            Ok(stream) => stream,
            Err(errno) => {
                return self.end(index, connect_kind(Some(errno as i32)), NO_RELEASE, Reuse::No);
            }
        };
        if let Err(outcome) = self.clients[index].adopt(stream, self.poll.registry(), Token(index)) {
            self.finish(index, outcome, Reuse::No);
        }
    }

    fn send(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let request = match client.habit {
            Habit::Keep => &self.keep_request,
            Habit::Renew => &self.renew_request,
        };
        if let Err(outcome) = client.send(request) {
            self.finish(index, outcome, Reuse::No);
        }
    }

    fn handle(&mut self, event: &Event) {
        let index = event.token().0;
        let client = &mut self.clients[index];
        match client.state {
            State::Connecting => match client.connected() {
                Ok(true) => self.send(index),
                Ok(false) => {}
                Err(outcome) => self.finish(index, outcome, Reuse::No),
            },
            State::Waiting => {
                if let Some((outcome, reuse)) = client.receive(&mut self.accepted) {
                    // The edge that told of the end of the stream is this one: no other will come.
                    let reuse = if event.is_read_closed() { Reuse::No } else { reuse };
                    self.finish(index, outcome, reuse);
                }
            }
            State::Idle { .. } => {
                if client.is_connected() && client.ended_while_idle() {
                    client.disconnect(self.poll.registry());
                }
            }
        }
    }

    fn finish(&mut self, index: usize, outcome: Outcome, reuse: Reuse) {
        match outcome {
            Outcome::Ended(kind, release) => self.end(index, kind, release, reuse),
            Outcome::MayRetry => {
                let client = &mut self.clients[index];
                client.disconnect(self.poll.registry());
                client.request.retried = true;
                client.request.reused = false;
                self.connect(index);
            }
        }
    }

    /// Writes the sample down and lets the client rest.
    fn end(&mut self, index: usize, kind: Kind, release: u8, reuse: Reuse) {
        let now = monotonic_ns();
        let client = &mut self.clients[index];
        let request = client.request;
        self.samples.push(Sample {
            start_ns: request.start_ns,
            latency_us: u32::try_from(now.saturating_sub(request.start_ns) / 1000).unwrap_or(u32::MAX),
            kind,
            release,
            reused: request.reused || request.retried,
            retried: request.retried,
        });
        let keep = client.habit == Habit::Keep && reuse == Reuse::Yes && kind == Kind::Ok;
        if !keep {
            client.disconnect(self.poll.registry());
        }
        let pause = if kind == Kind::Ok { 0 } else { AFTER_FAILURE.as_nanos() as u64 };
        let think =
            self.think_ns / 2 + self.chance.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.think_ns.max(1);
        self.chance = self.chance.wrapping_add(1);
        client.state = State::Idle { due_ns: now + think.max(pause) };
        self.shared.count(kind, release, request.retried, self.accepted.lines());
        if self.think_ns == 0 && kind == Kind::Ok && !self.shared.is_stopping() {
            self.start(index, now);
        }
    }
}
