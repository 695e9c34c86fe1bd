//! The route of logs: what an app's processes said, from the journal.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Timestamp};
use futures_util::future::ready;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::Api;
use super::answer::{Refused, id, ndjson};
use crate::host::journal::{self, LogFilter};

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

pub(super) async fn lines(
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
    let filter = LogFilter {
        app,
        label: wanted.release.as_deref().map(id).transpose()?,
        process,
        instance: number,
        since: wanted.since_ms.map(Timestamp),
        max_level: wanted.level.as_deref().map(level).transpose()?,
        lines,
    };
    let failed = |e: journal::JournalError| {
        let hint = "journalctl -u 'deployd-*' on the host shows the same";
        Refused::from(ErrorBody::new(ErrorCode::Internal, e.to_string(), hint))
    };
    if !wanted.follow {
        let lines = journal::query(&filter).await.map_err(failed)?;
        return Ok(ndjson(stream::iter(lines)));
    }
    // A journal that breaks off ends the stream; the reader sees what came before.
    let lines = journal::follow(filter).await.map_err(failed)?;
    Ok(ndjson(Box::pin(lines).take_while(|l| ready(l.is_ok())).filter_map(|l| ready(l.ok()))))
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
