//! The agents' API without ctl: what a host itself says on its local socket. Suites read it; they never change
//! anything by it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::machine::Host;

/// The agent's local socket.
const SOCKET: &str = "/run/deployd/deployd.sock";
const PATIENCE: Duration = Duration::from_secs(10);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Reply {
    /// Takes apart a whole response of a connection that has ended.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no response: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.with_context(|| format!("no status: {head:?}"))?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body)? } else { body.to_owned() };
        Ok(Self { status, body })
    }

    /// The body of a 200 as JSON.
    pub fn json(&self) -> Result<Value> {
        ensure!(self.status == 200, "{self:?}");
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// A request that ends its connection.
pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: deployd\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads from a host's local socket.
pub fn get(host: &Host, path: &str) -> Result<Reply> {
    let socket = host.outside(SOCKET);
    let mut stream =
        UnixStream::connect(&socket).with_context(|| format!("failed to call {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request("GET", path, "").as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Reply::parse(&bytes).with_context(|| format!("{path} of {}", host.name()))
}

fn unchunked(mut rest: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        whole += after.get(..size).context("a short chunk")?;
        rest = after.get(size + 2..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_bodies_are_read() -> Result<()> {
        let plain = Reply::parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")?;
        assert_eq!((plain.status, plain.body.as_str()), (404, "{}"));
        let parts = Reply::parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n",
        )?;
        assert_eq!(parts.json()?, serde_json::json!([1]));
        assert!(Reply::parse(b"").is_err());
        Ok(())
    }
}
