//! The smallest HTTP server that hands over: says its process id, closes each connection after one answer.
//!
//! Try it: `cargo run -p deployd-handoff --features tokio --example echo`, then `curl localhost:8080`;
//! SIGTERM lets answers in flight end.

use deployd_handoff::tokio::{Lifecycle, listener};
use deployd_handoff::{Drained, Guard, Listeners, notify};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest request head that is read.
const HEAD: usize = 8192;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut listeners = Listeners::from_env()?;
    let http = listener(&mut listeners, "http", ":8080")?;
    let lifecycle = Lifecycle::on_signal()?;
    notify::ready()?;
    lifecycle.serve(http, answer).await;
    match lifecycle.wait(Duration::from_secs(30)).await {
        Drained::Empty => Ok(()),
        Drained::Left(count) => Err(format!("{count} connections were cut").into()),
    }
}

/// Reads a request's head and answers it. The guard lives until the answer is out.
async fn answer(mut stream: TcpStream, _guard: Guard) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let body = format!("{}\n", std::process::id());
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}
