//! Single HTTP requests from a namespace of choice, and who answered them.
//!
//! For what load cannot tell: bodies, the process behind an answer, one connection that is held over an event.
//! Nothing is retried, and a request that takes longer than two seconds has failed, as under load.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};

use crate::netns::NetPath;

/// The limit of a request.
const LIMIT: Duration = Duration::from_secs(2);
/// Threads of [`Asker::many`].
const PARALLEL: usize = 8;

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `X-Pid`: the process that answered, as the host numbers it.
    pub pid: Option<u32>,
    /// The body without its last newline.
    pub body: String,
}

/// Where requests come from and go to.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The namespace of the client.
    pub from: NetPath,
    /// Its address; `None`: whatever the kernel chooses.
    pub source: Option<IpAddr>,
    /// The server.
    pub target: SocketAddr,
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Kept {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Asker {
    /// Runs `task` in a thread inside the namespace.
    fn inside<T: Send>(&self, task: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let run = || {
            self.from.enter_thread()?;
            task()
        };
        thread::scope(|scope| scope.spawn(run).join().map_err(|_| anyhow!("a client panicked"))?)
    }

    fn connect(&self) -> Result<TcpStream> {
        let family = if self.target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        if let Some(source) = self.source {
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))
                .with_context(|| format!("failed to be {source}"))?;
        }
        connect(fd.as_raw_fd(), &SockaddrStorage::from(self.target))
            .with_context(|| format!("failed to connect to {}", self.target))?;
        let stream = TcpStream::from(fd);
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A new connection that stays open.
    pub fn keep(&self) -> Result<Kept> {
        self.inside(|| Ok(Kept { stream: self.connect()?, buffer: Vec::new() }))
    }

    fn once(&self, path: &str) -> Result<Answer> {
        Kept { stream: self.connect()?, buffer: Vec::new() }.request(path, "close")
    }

    /// One request on a connection of its own.
    pub fn ask(&self, path: &str) -> Result<Answer> {
        self.inside(|| self.once(path))
    }

    /// `count` requests one after the other, each on a new connection; every one must be answered with 200.
    pub fn sequence(&self, path: &str, count: usize) -> Result<Vec<Answer>> {
        self.inside(|| {
            let one = |index| {
                let answer = self.once(path).with_context(|| format!("request {index} of {count}"))?;
                ensure!(answer.status == 200, "request {index} of {count}: {answer:?}");
                Ok(answer)
            };
            (1..=count).map(one).collect()
        })
    }

    /// `count` requests, several at a time; every one must be answered with 200.
    pub fn many(&self, path: &str, count: usize) -> Result<Vec<Answer>> {
        let share = count.div_ceil(PARALLEL);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(|| self.sequence(path, share))).collect();
            let mut answers = Vec::new();
            for thread in threads {
                answers.extend(thread.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            Ok(answers)
        })
    }
}

impl Kept {
    /// One more request on this connection.
    pub fn ask(&mut self, path: &str) -> Result<Answer> {
        self.request(path, "keep-alive")
    }

    fn request(&mut self, path: &str, connection: &str) -> Result<Answer> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).context("failed to send")?;
        loop {
            if let Some((answer, length)) = parse(&self.buffer)? {
                drop(self.buffer.drain(..length));
                return Ok(answer);
            }
            let mut part = [0; 4096];
            let length = self.stream.read(&mut part).context("no answer")?;
            ensure!(length > 0, "the connection ended after {} bytes of the answer", self.buffer.len());
            self.buffer.extend_from_slice(&part[..length]);
        }
    }
}

/// The response at the front of `bytes` and its length; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the head is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let headers: BTreeMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
        .collect();
    let length: usize = headers.get("content-length").context("no Content-Length")?.parse()?;
    let whole = end + 4 + length;
    let Some(body) = bytes.get(end + 4..whole) else { return Ok(None) };
    let answer = Answer {
        status: status.parse()?,
        pid: headers.get("x-pid").and_then(|pid| pid.parse().ok()),
        body: String::from_utf8_lossy(body).trim_end_matches('\n').to_owned(),
    };
    Ok(Some((answer, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_taken_whole() -> Result<()> {
        let bytes = b"HTTP/1.1 200 OK\r\nX-Pid: 7\r\ncontent-length: 3\r\n\r\nok\nHTTP";
        for cut in 0..bytes.len() - 4 {
            assert_eq!(parse(&bytes[..cut])?, None);
        }
        let answer = Answer { status: 200, pid: Some(7), body: "ok".to_owned() };
        assert_eq!(parse(bytes)?, Some((answer, bytes.len() - 4)));
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        Ok(())
    }
}
