//! Log lines of units, from the system journal by `journalctl -o json`.
//!
//! Read-only; it must never pass a line on that belongs to no unit asked for. Called for `logs`, and by the
//! driver for the last words of a failing instance.

mod parse;

use deployd_api::ids::Timestamp;
use deployd_api::status::LogLine;

use super::command::{CommandError, LineChild, spawn_lines};

pub use parse::{InstanceUnit, parse_instance_unit};

/// The program that reads journals of every version.
const JOURNALCTL: &str = "/usr/bin/journalctl";

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Units, as glob patterns: `deployd-shop-web-v42@*.service`. At least one.
    pub units: Vec<String>,
    /// Only since this moment.
    pub since: Option<Timestamp>,
    /// Only this syslog level and more severe ones (lower numbers).
    pub level: Option<u8>,
    /// Only the last so many; `None` is all.
    pub last: Option<u32>,
    /// Only this run of the unit.
    pub invocation: Option<String>,
}

impl Query {
    fn args(&self, follow: Follow) -> Vec<String> {
        let mut args: Vec<String> =
            ["--output=json", "--all", "--no-pager", "--quiet"].map(str::to_owned).into();
        // One run is selected by fields: lines of its processes, and PID 1's lines about it.
        if let Some(id) = &self.invocation {
            args.extend([
                format!("_SYSTEMD_INVOCATION_ID={id}"),
                "+".to_owned(),
                format!("INVOCATION_ID={id}"),
            ]);
        } else {
            args.extend(self.units.iter().map(|unit| format!("--unit={unit}")));
        }
        if let Some(since) = self.since {
            args.push(format!("--since=@{}.{:03}", since.0 / 1000, since.0 % 1000));
        }
        args.extend(self.level.map(|level| format!("--priority={level}")));
        match (follow, self.last) {
            (_, Some(lines)) => args.push(format!("--lines={lines}")),
            // Following shows ten old lines unless told otherwise.
            (Follow::Yes, None) => args.push("--lines=all".to_owned()),
            (Follow::No, None) => {}
        }
        if follow == Follow::Yes {
            args.push("--follow".to_owned());
        }
        args
    }
}

/// Whether to go on when the journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Wait for more.
    Yes,
    /// End.
    No,
}

/// Lines as they come. Dropping it ends the child.
#[derive(Debug)]
pub struct LogStream {
    child: Option<LineChild>,
}

impl LogStream {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<LogLine>, CommandError> {
        let Some(child) = &mut self.child else {
            return Ok(None);
        };
        while let Some(line) = child.next().await? {
            match parse::log_line(&line) {
                Some(line) => return Ok(Some(line)),
                None => tracing::debug!(line, "a journal entry without a message was skipped"),
            }
        }
        Ok(None)
    }
}

/// Opens a stream of lines, oldest first. A query for nothing gives nothing.
pub fn open(query: &Query, follow: Follow) -> Result<LogStream, CommandError> {
    if query.units.is_empty() && query.invocation.is_none() {
        return Ok(LogStream { child: None });
    }
    Ok(LogStream { child: Some(spawn_lines(JOURNALCTL, &query.args(follow))?) })
}

/// All lines of a query that ends.
pub async fn read(query: &Query) -> Result<Vec<LogLine>, CommandError> {
    let mut stream = open(query, Follow::No)?;
    let mut lines = Vec::new();
    while let Some(line) = stream.next().await? {
        lines.push(line);
    }
    Ok(lines)
}

/// The last lines of one run of a unit, oldest first.
pub async fn last_lines(invocation: &str, lines: u32) -> Result<Vec<LogLine>, CommandError> {
    read(&Query { invocation: Some(invocation.to_owned()), last: Some(lines), ..Query::default() }).await
}
