//! The route of logs: what an app's processes said, from the journal.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label, ProcessName, Timestamp};
use serde::Deserialize;

use super::Api;
use super::answer::{Refused, id, ndjson};
use crate::host::journal::{self, Follow};

/// How many lines there are without `lines=` and `since_ms=`.
const LINES: u32 = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// Go on as lines come.
    #[serde(default)]
    follow: bool,
    /// Only from this moment on.
    since_ms: Option<u64>,
    /// Only this level and worse: `err`, `warning`, `info`, or 0 to 7.
    level: Option<String>,
    /// Only this instance: `web@1`, or a process: `web`.
    instance: Option<String>,
    /// Only this release.
    release: Option<String>,
    /// At most this many lines of the past.
    lines: Option<u32>,
}

pub(super) async fn stream(
    State(api): State<Api>,
    Path(app): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Refused> {
    let app: AppName = id(&app)?;
    api.supervisor.app(&app).await?;
    let (process, number) = match wanted.instance.as_deref().map(|i| i.split_once('@').unwrap_or((i, ""))) {
        None => (None, None),
        Some((process, "")) => (Some(id(process)?), None),
        Some((process, number)) => (Some(id(process)?), Some(parse_number(number)?)),
    };
    let lines = wanted.lines.or_else(|| wanted.since_ms.is_none().then_some(LINES));
    let label: Option<Label> = wanted.release.as_deref().map(id).transpose()?;
    let query = journal::Query {
        units: vec![unit_pattern(&app, process.as_ref(), label, number)],
        since: wanted.since_ms.map(Timestamp),
        level: wanted.level.as_deref().map(level).transpose()?,
        last: lines,
        invocation: None,
    };
    let follow = if wanted.follow { Follow::Yes } else { Follow::No };
    let stream = journal::open(&query, follow).map_err(|e| {
        let hint = "journalctl -u 'deployd-*' on the host shows the same";
        Refused::from(ErrorBody::new(ErrorCode::Internal, e.to_string(), hint))
    })?;
    // A journal that breaks off ends the stream; the reader sees what came before.
    let next = |mut s: journal::LogStream| async move { s.next().await.ok().flatten().map(|line| (line, s)) };
    Ok(ndjson(futures_util::stream::unfold(stream, next)))
}

/// The units whose lines are wanted, as journalctl's glob.
fn unit_pattern(
    app: &AppName,
    process: Option<&ProcessName>,
    label: Option<Label>,
    number: Option<u32>,
) -> String {
    let any = || "*".to_owned();
    let process = process.map_or_else(any, ProcessName::unit_part);
    // `v4*` would also be v42: either the label alone or with the number of its activation.
    let tag = label.map_or_else(any, |l| format!("{l}{{,.*}}"));
    let number = number.map_or_else(any, |n| n.to_string());
    format!("deployd-{}-{process}-{tag}@{number}.service", app.unit_part())
}

fn parse_number(text: &str) -> Result<u32, Refused> {
    text.parse().map_err(|_| {
        let message = format!("`{text}` is no instance number");
        ErrorBody::new(ErrorCode::BadRequest, message, "an instance is named like web@1").into()
    })
}

fn level(text: &str) -> Result<u8, Refused> {
    const NAMES: [&[&str]; 8] = [
        &["emerg"],
        &["alert"],
        &["crit", "critical"],
        &["err", "error"],
        &["warning", "warn"],
        &["notice"],
        &["info"],
        &["debug"],
    ];
    let named = NAMES.iter().position(|names| names.contains(&text));
    let number = named.or_else(|| text.parse().ok().filter(|n| *n < 8));
    number.and_then(|n| u8::try_from(n).ok()).ok_or_else(|| {
        let message = format!("`{text}` is no level");
        ErrorBody::new(ErrorCode::BadRequest, message, "levels: error, warning, notice, info, debug").into()
    })
}
