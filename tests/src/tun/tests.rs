//! The relay for real: needs root, like every suite on hosts, and says so when it is missing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Relay;
use crate::netns::Netns;

#[test]
fn a_connection_over_the_relay_takes_at_least_the_round_trip() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let (client, host) =
        (Netns::create("tun-c").expect("a namespace"), Netns::create("tun-h").expect("another"));
    let one_way = Duration::from_millis(20);
    let relay = Relay::between(client.path(), host.path(), one_way).expect("a relay");
    let inside = host.path().clone();
    let listener = thread::spawn(move || {
        inside.enter_thread().expect("in the host's namespace");
        TcpListener::bind((Relay::HOST, 8080)).expect("a listener")
    });
    let listener = listener.join().expect("bound");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"pong").expect("answered");
    });
    let outside = client.path().clone();
    let took = thread::spawn(move || {
        outside.enter_thread().expect("in the client's namespace");
        let started = Instant::now();
        let mut stream = TcpStream::connect((Relay::HOST, 8080)).expect("connected");
        let connected = started.elapsed();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        assert_eq!(answer, "pong");
        connected
    });
    let took = took.join().expect("the client succeeds");
    server.join().expect("the server succeeds");
    relay.finish().expect("the relay worked throughout");
    // A lower bound only: that is what the relay promises.
    assert!(took >= one_way * 2, "connected after {took:?}");
}
