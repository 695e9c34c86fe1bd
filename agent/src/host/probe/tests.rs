//! Probes against small servers on loopback.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::json;

use super::*;

/// A server that gives every connection the same answer, or none.
fn server(answer: &'static str) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap();
            if answer.is_empty() {
                // Hold it open: the prober must give up by itself.
                std::mem::forget(stream);
                continue;
            }
            let path = String::from_utf8_lossy(&request[..len]).split(' ').nth(1).unwrap_or("").to_owned();
            stream.write_all(answer.replace("PATH", &path).as_bytes()).unwrap();
        }
    });
    Target::Tcp { addr, mark: None }
}

fn probe() -> HttpProbe {
    HttpProbe {
        method: "GET".into(),
        path: "/health?deep=1".into(),
        host: "shop.example".into(),
        headers: vec![("x-check".into(), "1".into())],
        statuses: vec![(200, 299)],
        json: None,
        timeout: Duration::from_secs(5),
    }
}

async fn ask(answer: &'static str, probe: &HttpProbe) -> Probed {
    http(&server(answer), probe).await
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";

#[tokio::test(flavor = "current_thread")]
async fn a_good_answer_passes_and_is_shown() {
    let probed = ask(OK, &HttpProbe { json: Some(json!({"status": "ok"})), ..probe() }).await;
    assert_eq!((probed.failure, probed.status), (None, Some(200)));
    assert_eq!(probed.excerpt.as_deref(), Some(r#"{"status":"ok"}"#));
    let probed = ask("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nPATH", &probe()).await;
    assert_eq!((probed.failure, probed.excerpt.as_deref()), (None, Some("/health?deep=1")));
}

#[tokio::test(flavor = "current_thread")]
async fn what_was_wanted_and_what_came_is_said() {
    let probed = ask("HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\ndown", &probe()).await;
    assert_eq!(probed.failure, Some(Failure::Status { wanted: "200-299".into(), got: 503 }));
    assert_eq!(probed.excerpt.as_deref(), Some("down"));
    let wrong = ask(OK, &HttpProbe { json: Some(json!({"status": "fine"})), ..probe() }).await;
    assert_eq!(wrong.failure.unwrap().to_string(), r#"wanted status = "fine", got "ok""#);
    let any = HttpProbe { json: Some(json!({})), ..probe() };
    let other = ask("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", &any).await;
    assert!(matches!(other.failure, Some(Failure::Body(_))));
    assert!(matches!(ask("SSH-2.0-no\r\n", &probe()).await.failure, Some(Failure::Http(_))));
}

#[tokio::test(flavor = "current_thread")]
async fn silence_is_a_timeout_and_a_closed_port_no_connection() {
    let limit = Duration::from_millis(50);
    let probed = ask("", &HttpProbe { timeout: limit, ..probe() }).await;
    assert_eq!(probed.failure, Some(Failure::Timeout(limit)));
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target::Tcp { addr: free, mark: None };
    assert!(matches!(http(&target, &probe()).await.failure, Some(Failure::Connect(_))));
    assert!(matches!(tcp(&target, Duration::from_secs(5)).await.failure, Some(Failure::Connect(_))));
}

#[tokio::test(flavor = "current_thread")]
async fn a_forwarded_port_leads_to_the_target() {
    let forward = forward::Forward::open(server(OK)).await.unwrap();
    let through = Target::Tcp { addr: forward.addr(), mark: None };
    assert_eq!(http(&through, &probe()).await.failure, None);
    drop(forward);
}

/// The kernel answers for a listener that nobody accepts from.
#[tokio::test(flavor = "current_thread")]
async fn a_connection_counts_only_when_it_is_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp { addr: listener.local_addr().unwrap(), mark: None };
    let limit = Duration::from_millis(100);
    assert_eq!(tcp(&target, limit).await.failure, Some(Failure::NotAccepted(limit)));
    let accepting = std::thread::spawn(move || {
        // The first one gave up; the second is closed at once, which is an answer too.
        drop(listener.accept().unwrap());
        drop(listener.accept().unwrap());
    });
    assert_eq!(tcp(&target, Duration::from_secs(30)).await.failure, None);
    accepting.join().unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn the_same_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (target, limit) = (Target::Unix(path), Duration::from_millis(100));
    assert_eq!(tcp(&target, limit).await.failure, Some(Failure::NotAccepted(limit)));
    let accepting = std::thread::spawn(move || [listener.accept().unwrap(), listener.accept().unwrap()]);
    assert_eq!(tcp(&target, Duration::from_secs(30)).await.failure, None);
    accepting.join().unwrap();
}
