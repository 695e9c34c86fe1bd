//! The tokio adapter over real connections: what is in flight ends, what was queued is served, no more.
#![cfg(feature = "tokio")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use deployd_handoff::tokio::{Lifecycle, listener};
use deployd_handoff::{Drained, Guard, Listeners};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take that normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers each byte until the client closes.
async fn echo(mut stream: TcpStream, _guard: Guard) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
}

async fn say(client: &mut TcpStream) {
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
}

async fn client(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn what_is_in_flight_or_queued_ends_and_nothing_new_begins() {
    let mut listeners = Listeners::from_env().unwrap();
    let listening = listener(&mut listeners, "http", "127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let lifecycle = Lifecycle::new();

    // This one is in the queue before anybody accepts, and still when the drain begins.
    let mut queued = client(address).await;
    lifecycle.drain().begin();
    lifecycle.serve(listening, echo).await;
    say(&mut queued).await;
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    assert_eq!(lifecycle.wait(Duration::ZERO).await, Drained::Left(1));
    drop(queued);
    assert_eq!(lifecycle.wait(PATIENCE).await, Drained::Empty);
}

#[tokio::test]
async fn a_signal_begins_the_drain() {
    let mut listeners = Listeners::from_env().unwrap();
    let listening = listener(&mut listeners, "http", "127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap();
    let lifecycle = Lifecycle::on_signal().unwrap();
    let serving = tokio::spawn({
        let lifecycle = lifecycle.clone();
        async move { lifecycle.serve(listening, echo).await }
    });
    let mut first = client(address).await;
    say(&mut first).await;
    assert_eq!(lifecycle.drain().in_flight(), 1);
    let own = std::process::id().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &own]).status().await.unwrap().success());
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    say(&mut first).await;
    drop(first);
    assert_eq!(lifecycle.wait(PATIENCE).await, Drained::Empty);
}
