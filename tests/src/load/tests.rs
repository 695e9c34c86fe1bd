//! The generator against real sockets: each misbehaviour of a server must be counted as what it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::{Kind, Load, Options, Pattern, Recording};

const RIGHT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nshop v1\n";
const ENOUGH: Duration = Duration::from_secs(20);

/// Serves every connection with `serve` in a thread of its own, for as long as the process lives.
fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    server_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), serve)
}

fn server_on(address: SocketAddr, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a listener");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads one request head; false at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> bool {
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) if line == "\r\n" => return true,
            Ok(_) => {}
        }
    }
}

/// Answers `count` requests with `response`, then closes.
fn answer(stream: TcpStream, response: &str, count: usize) {
    let mut reader = BufReader::new(stream);
    for _ in 0..count {
        if !read_request(&mut reader) || reader.get_mut().write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

/// Makes the kernel answer with a reset when the socket is closed.
fn reset_on_close(stream: &TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(stream, sockopt::Linger, &linger).expect("linger is settable");
}

/// A few clients until `requests` have ended.
fn run(target: SocketAddr, pattern: Pattern, requests: u64) -> Recording {
    let mut options = Options::new(target).accept(&["shop v1"]);
    options.clients = 4;
    options.pattern = pattern;
    options.timeout = Duration::from_millis(300);
    let load = Load::start(options).expect("started");
    load.wait_flowing(requests, ENOUGH).expect("requests end");
    load.stop().expect("a recording")
}

/// Asserts that every sample is of `kind`.
fn assert_all(recording: &Recording, kind: Kind) {
    assert!(!recording.samples.is_empty());
    let report = recording.report(&[]);
    assert_eq!(report.total.kinds.keys().copied().collect::<Vec<_>>(), [kind], "{:?}", report.total);
}

#[test]
fn right_answers_are_ok_on_both_kinds_of_connections() {
    let target = server(|stream| answer(stream, RIGHT, usize::MAX));
    let recording = run(target, Pattern::Half, 500);
    assert_all(&recording, Kind::Ok);
    let report = recording.report(&[]);
    assert_eq!(report.releases.keys().collect::<Vec<_>>(), ["shop v1"]);
    let reused = recording.samples.iter().filter(|sample| sample.reused).count();
    assert!(reused > 0 && reused < recording.samples.len(), "{reused} of {}", recording.samples.len());
    assert_eq!(report.total.retried, 0);
}

#[test]
fn ipv6_targets_work() {
    let target =
        server_on(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), |stream| answer(stream, RIGHT, usize::MAX));
    assert_all(&run(target, Pattern::Half, 50), Kind::Ok);
}

#[test]
fn loopback_sources_are_used() {
    let target = server(|stream| {
        let from_ours = stream.peer_addr().is_ok_and(|peer| peer.ip().to_string().starts_with("127.1."));
        answer(stream, if from_ours { RIGHT } else { "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n" }, 1);
    });
    assert_all(&run(target, Pattern::NewConnection, 50), Kind::Ok);
}

#[test]
fn a_port_without_listener_is_refused() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let target = listener.local_addr().expect("its address");
    drop(listener);
    assert_all(&run(target, Pattern::Half, 20), Kind::Refused);
}

#[test]
fn a_reset_before_any_byte_is_a_reset() {
    let target = server(|stream| {
        reset_on_close(&stream);
        read_request(&mut BufReader::new(stream));
    });
    assert_all(&run(target, Pattern::Half, 20), Kind::Reset);
}

#[test]
fn an_end_before_any_byte_is_closed() {
    let target = server(|stream| {
        read_request(&mut BufReader::new(stream));
    });
    assert_all(&run(target, Pattern::Half, 20), Kind::Closed);
}

#[test]
fn an_end_after_a_byte_is_cut() {
    let target = server(|stream| answer(stream, &RIGHT[..RIGHT.len() - 1], 1));
    assert_all(&run(target, Pattern::Half, 20), Kind::Cut);
}

#[test]
fn silence_is_a_time_out() {
    let target = server(|mut stream| {
        // Holds the connection without an answer until the client gives up.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    assert_all(&run(target, Pattern::Half, 8), Kind::Timeout);
}

#[test]
fn wrong_answers_keep_their_kind() {
    let cases = [
        ("HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n", Kind::ServerError),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Kind::Short),
        ("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nshop v9\n", Kind::Foreign),
    ];
    for (response, kind) in cases {
        let target = server(move |stream| answer(stream, response, usize::MAX));
        assert_all(&run(target, Pattern::Half, 20), kind);
    }
}

#[test]
fn a_reused_connection_that_ends_is_sent_again_once_and_counted() {
    // The second request of each connection is read and then not answered.
    let target = server(|stream| {
        let mut reader = BufReader::new(stream);
        if read_request(&mut reader) {
            reader.get_mut().write_all(RIGHT.as_bytes()).expect("answered");
            read_request(&mut reader);
        }
    });
    let recording = run(target, Pattern::KeepAlive, 100);
    assert_all(&recording, Kind::Ok);
    let report = recording.report(&[]);
    assert!(report.total.retried >= report.total.requests / 2 - 4, "{:?}", report.total);
    assert!(recording.samples.iter().all(|sample| sample.retried == sample.reused));
}

#[test]
fn an_announced_close_is_no_retry() {
    let target = server(|stream| {
        answer(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\nshop v1\n", 1);
    });
    let recording = run(target, Pattern::KeepAlive, 100);
    assert_all(&recording, Kind::Ok);
    assert_eq!(recording.report(&[]).total.retried, 0);
}
