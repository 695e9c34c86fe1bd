//! A scripted agent: answers by route, event streams in pieces, and everything it was asked.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::UnixListener;

/// One answer to a route.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status and a JSON body.
    Json(u16, Value),
    /// Lines, then the orderly end.
    Lines(Vec<Value>),
    /// Lines, then the connection breaks, as when the agent is killed.
    Cut(Vec<Value>),
    /// Lines, and then nothing more.
    Hang(Vec<Value>),
}

#[derive(Debug, Default)]
struct Script {
    /// Answers by `METHOD /path`; the last one stays.
    answers: HashMap<String, VecDeque<Answer>>,
    asked: Vec<(String, Vec<u8>)>,
    /// The lease header of each call.
    leases: Vec<Option<String>>,
}

/// The agent, until it is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    script: Arc<Mutex<Script>>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Agent {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("deployd.sock");
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = UnixListener::bind(&socket).unwrap();
        let router = Router::new().fallback(answer).with_state(script.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { socket, script, server, _dir: dir }
    }

    /// Adds an answer to a route.
    pub(crate) fn on(&self, route: &str, answer: Answer) -> &Self {
        self.script.lock().unwrap().answers.entry(route.to_owned()).or_default().push_back(answer);
        self
    }

    /// Answers a route otherwise from here on.
    pub(crate) fn again(&self, route: &str, answer: Answer) -> &Self {
        self.script.lock().unwrap().answers.insert(route.to_owned(), VecDeque::from([answer]));
        self
    }

    /// Adds a JSON answer with status 200.
    pub(crate) fn ok(&self, route: &str, value: Value) -> &Self {
        self.on(route, Answer::Json(200, value))
    }

    /// The routes that were asked, with query.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.iter().map(|(route, _)| route.clone()).collect()
    }

    /// The routes that were asked, without queries, leases and records.
    pub(crate) fn done(&self) -> Vec<String> {
        let plain = |route: String| route.split('?').next().unwrap_or_default().to_owned();
        let books = |route: &String| route.ends_with("/lease") || route.ends_with("/rollout");
        self.asked().into_iter().map(plain).filter(|route| !books(route)).collect()
    }

    /// The leases that calls of a route were made under.
    pub(crate) fn leases(&self, route: &str) -> Vec<Option<String>> {
        let script = self.script.lock().unwrap();
        let calls = script.asked.iter().zip(&script.leases).filter(|((r, _), _)| r == route);
        calls.map(|(_, lease)| lease.clone()).collect()
    }

    /// The bodies that a route got.
    pub(crate) fn bodies(&self, route: &str) -> Vec<Vec<u8>> {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|(r, _)| r == route).map(|(_, body)| body.clone()).collect()
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().unwrap().as_str().strip_prefix("/v1").unwrap_or("?").to_owned();
    let route = format!("{} {path}", parts.method);
    let body = body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
    let found = {
        let mut script = script.lock().unwrap();
        script.asked.push((route.clone(), body));
        let lease = parts.headers.get("deployd-lease").and_then(|v| v.to_str().ok());
        script.leases.push(lease.map(str::to_owned));
        // A script without a query is for every query.
        let plain = route.split('?').next().unwrap_or_default().to_owned();
        let key = if script.answers.contains_key(&route) { route.clone() } else { plain.clone() };
        let queue = script.answers.get_mut(&key);
        let found = queue.and_then(|q| if q.len() > 1 { q.pop_front() } else { q.front().cloned() });
        found.or_else(|| by_itself(&plain))
    };
    let missing =
        json!({"code": "not_found", "message": format!("no script for {route}"), "hint": "write it"});
    match found.unwrap_or(Answer::Json(404, missing)) {
        Answer::Json(status, value) => {
            let status = StatusCode::from_u16(status).unwrap();
            Response::builder().status(status).body(Body::from(value.to_string())).unwrap()
        }
        Answer::Lines(lines) => Response::new(Body::from(ndjson(&lines))),
        Answer::Cut(lines) => stream(lines, Some(Err(std::io::Error::other("killed")))),
        Answer::Hang(lines) => stream(lines, None),
    }
}

/// What every agent answers that is not told otherwise: leases are free, and records are kept.
fn by_itself(route: &str) -> Option<Answer> {
    let value = match route {
        "POST /apps/shop/lease" => json!({
            "id": "00000000000000000000000000000001", "epoch": 7, "holder": "ops-1", "reason": "push",
            "since": 0, "renewed_ms_ago": 0, "expires_in_ms": 15000,
        }),
        "DELETE /apps/shop/lease" | "PUT /apps/shop/rollout" => json!({}),
        _ => return None,
    };
    Some(Answer::Json(200, value))
}

fn ndjson(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat()
}

/// Each line in a piece of its own, then the given end, else none.
fn stream(lines: Vec<Value>, end: Option<Result<String, std::io::Error>>) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut pieces: Vec<Result<String, std::io::Error>> =
            lines.iter().map(|line| Ok(format!("{line}\n"))).collect();
        let hangs = end.is_none();
        pieces.extend(end);
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
        if hangs {
            sender.closed().await;
        }
    });
    Response::new(Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)))
}
