//! WebSocket clients that only hold their connection: enough of RFC 6455 to open one and to close it politely.
//! Used by the suites about draining.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::machine::Host;
use crate::shop::{PORT, within};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A masked close frame without a status.
const CLOSE: [u8; 6] = [0x88, 0x80, 1, 2, 3, 4];

/// Clients in a host, each with an open connection.
#[derive(Debug)]
pub struct WebSockets {
    open: Vec<TcpStream>,
}

impl WebSockets {
    /// Opens `count` of them, one after the other, from inside the host.
    pub fn open(host: &Host, count: usize) -> Result<Self> {
        let open = within(host.netns(), move || (0..count).map(|_| connect()).collect::<Result<Vec<_>>>())?;
        Ok(Self { open })
    }

    /// Closes the first `count` of them, as a client does that has had enough.
    pub fn close(&mut self, count: usize) -> Result<()> {
        for mut stream in self.open.drain(..count.min(self.open.len())) {
            stream.write_all(&CLOSE).context("failed to send a close frame")?;
        }
        Ok(())
    }

    /// How many the server has not ended.
    pub fn count(&mut self) -> usize {
        self.open.retain_mut(is_open);
        self.open.len()
    }
}

fn connect() -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), HANDSHAKE)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.write_all(
        b"GET /ws HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).context("the handshake was cut")?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let accepted = head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    ensure!(accepted, "not a WebSocket: {head}");
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Reads what the server sent (pings, "draining") and whether it ended the connection.
fn is_open(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
