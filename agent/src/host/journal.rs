//! The lines that an app wrote, read from the host's journal by `journalctl`.
//!
//! It only reads. What a line belongs to is told by its unit's name, which is never used twice, so no state
//! of ours is needed. `logs` of the API and the reports of failed instances call this.

use std::collections::HashSet;
use std::time::Duration;

use deployd_api::ids::{AppName, Label, ProcessName, Timestamp};
use deployd_api::status::LogLine;
use deployd_core::units::MIGRATE;
use futures_util::{Stream, StreamExt, stream};

use super::command::{Command, CommandError, Lines};

mod entry;

use entry::Entry;

const JOURNALCTL: &str = "journalctl";
/// Lines that a query gives at most, the newest; nobody reads more at once, and memory has an end.
pub const LINES_MAX: u32 = 10_000;
/// How long a query may take: a journal of gigabytes on a slow disk is read in this time.
const QUERY_LIMIT: Duration = Duration::from_mins(1);
/// How long we wait for journald to write what it holds; then the lines that are there must do.
const SYNC_LIMIT: Duration = Duration::from_secs(5);
/// What we read of an entry, besides its address fields, which always come.
const FIELDS: &str = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT,_PID";
/// What journalctl says when no unit matches a pattern: nothing was written yet.
const NO_UNIT: &str = "No data available";

/// What failed about the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// journalctl.
    #[error("failed to read the journal")]
    Read(#[from] CommandError),
}

/// Which lines of an app.
#[derive(Debug, Clone)]
pub struct LogFilter {
    /// The app.
    pub app: AppName,
    /// Of one release only, in all its activations.
    pub label: Option<Label>,
    /// Of one process only.
    pub process: Option<ProcessName>,
    /// Of the instances with this number only.
    pub instance: Option<u32>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not less urgent than this syslog level, 0 to 7.
    pub max_level: Option<u8>,
    /// The newest so many; `None` stands for [`LINES_MAX`], and for none before [`follow`].
    pub lines: Option<u32>,
}

impl LogFilter {
    /// Every line of an app.
    pub fn of(app: AppName) -> Self {
        Self { app, label: None, process: None, instance: None, since: None, max_level: None, lines: None }
    }

    /// Patterns of the names of its units. `-` separates the parts and stands in none of them.
    fn patterns(&self) -> Vec<String> {
        let app = self.app.unit_part();
        let process = self.process.as_ref().map_or("*".to_owned(), ProcessName::unit_part);
        let number = self.instance.map_or("*".to_owned(), |n| n.to_string());
        // `v42.2` is the second activation of v42.
        let tags = self.label.map_or(vec!["*".to_owned()], |l| vec![l.to_string(), format!("{l}.*")]);
        let instances = tags.iter().map(|tag| format!("deployd-{app}-{process}-{tag}@{number}.service"));
        let migrates = self.instance.is_none() && ["*", MIGRATE].contains(&process.as_str());
        let migrations = tags.iter().map(|tag| format!("deployd-{app}-{MIGRATE}-{tag}.service"));
        instances.chain(migrations.filter(|_| migrates)).collect()
    }

    fn admits(&self, entry: &Entry) -> bool {
        let unit = &entry.unit;
        unit.app == self.app.unit_part()
            && self.label.is_none_or(|l| unit.label == l)
            && self.process.as_ref().is_none_or(|p| unit.process == p.unit_part())
            && self.instance.is_none_or(|n| unit.number == n)
            && self.since.is_none_or(|t| entry.at >= t)
            && self.max_level.is_none_or(|l| entry.level <= l)
    }

    fn query_command(&self) -> Command {
        let mut command = base().arg("-n").arg(self.lines.unwrap_or(LINES_MAX).min(LINES_MAX).to_string());
        if let Some(since) = self.since {
            command = command.arg(format!("--since=@{}", since.0 / 1000));
        }
        for pattern in self.patterns() {
            command = command.arg("-u").arg(pattern);
        }
        self.with_level(command)
    }

    /// journalctl looks patterns up only once, so they would miss a release that comes later. The slice does
    /// not; lines of a process that died before journald could look at it lack the slice, but still have the
    /// name of our trampoline; PID 1 tells how instances end.
    fn follow_command(&self, cursor: Option<&str>) -> Command {
        let mut command = base().args(["--follow", "--no-tail"]);
        if let Some(cursor) = cursor {
            command = command.arg(format!("--after-cursor={cursor}"));
        }
        let slice = format!("_SYSTEMD_SLICE=deployd-{}.slice", self.app.unit_part());
        self.with_level(command).args([&slice, "+", "SYSLOG_IDENTIFIER=deployd-exec", "+", "_PID=1"])
    }

    fn with_level(&self, command: Command) -> Command {
        match self.max_level {
            Some(level) => command.arg(format!("--priority=0..{}", level.min(7))),
            None => command,
        }
    }
}

fn base() -> Command {
    // Without --all, fields of more than 4 KiB come as null.
    Command::new(JOURNALCTL)
        .args(["--quiet", "--no-pager", "--all", "--output=json"])
        .arg(format!("--output-fields={FIELDS}"))
}

/// The lines that are in the journal now, the oldest first.
pub async fn query(filter: &LogFilter) -> Result<Vec<LogLine>, JournalError> {
    Ok(entries(filter).await?.into_iter().map(LogLine::from).collect())
}

async fn entries(filter: &LogFilter) -> Result<Vec<Entry>, JournalError> {
    let text = read(&filter.query_command()).await?;
    Ok(text.split(|b| *b == b'\n').filter_map(Entry::parse).filter(|e| filter.admits(e)).collect())
}

async fn read(command: &Command) -> Result<Vec<u8>, JournalError> {
    match command.output(QUERY_LIMIT).await {
        Err(CommandError::Failed { stderr, .. }) if stderr.contains(NO_UNIT) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// The lines that a query with this filter gives (none when it has neither `lines` nor `since`), then every
/// new one as it is written, none missing or twice in between. Dropping the stream ends it.
pub async fn follow(
    filter: LogFilter,
) -> Result<impl Stream<Item = Result<LogLine, JournalError>> + Send, JournalError> {
    // The end of the journal is taken first: what is written while the query runs is followed, too, and left
    // out if the query gave it already.
    let end = read(&base().args(["-n", "1"])).await?;
    let cursor = entry::cursor(&end);
    let wanted = filter.lines.is_some() || filter.since.is_some();
    let before = if wanted { entries(&filter).await? } else { Vec::new() };
    let seen: HashSet<String> = before.iter().map(|e| e.cursor.clone()).collect();
    let lines = filter.follow_command(cursor.as_deref()).lines()?;
    let new = stream::unfold(Some((lines, filter, seen)), async |state| {
        let (mut lines, filter, seen) = state?;
        match next(&mut lines, &filter, &seen).await {
            Ok(Some(line)) => Some((Ok(line), Some((lines, filter, seen)))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(stream::iter(before.into_iter().map(|e| Ok(e.into()))).chain(new))
}

async fn next(
    lines: &mut Lines,
    filter: &LogFilter,
    seen: &HashSet<String>,
) -> Result<Option<LogLine>, JournalError> {
    while let Some(line) = lines.next().await? {
        if let Some(entry) = Entry::parse(&line)
            && filter.admits(&entry)
            && !seen.contains(&entry.cursor)
        {
            return Ok(Some(entry.into()));
        }
    }
    Ok(None)
}

/// The last `n` lines that the processes of a unit wrote themselves, for the report of its failure.
pub async fn last_lines(unit: &str, n: u32) -> Result<Vec<LogLine>, JournalError> {
    // The last words of a process that died are on their way still; without them the report says nothing.
    if let Err(error) = Command::new(JOURNALCTL).arg("--sync").output(SYNC_LIMIT).await {
        tracing::debug!(%error, "the journal was not synchronised; reading what is there");
    }
    let command = base().arg("-n").arg(n.min(LINES_MAX).to_string()).arg(format!("_SYSTEMD_UNIT={unit}"));
    let text = read(&command).await?;
    Ok(text.split(|b| *b == b'\n').filter_map(Entry::parse).map(LogLine::from).collect())
}

/// A line of a unit, with its place in the journal.
#[derive(Debug, Clone)]
pub struct UnitLine {
    /// What was written.
    pub message: String,
    /// Its place.
    pub cursor: String,
}

/// The lines of a unit as they come. Dropping it ends it.
#[derive(Debug)]
pub struct UnitLines {
    lines: Lines,
}

/// Follows what the processes of a unit write, from its begin.
pub fn follow_unit(unit: &str) -> Result<UnitLines, JournalError> {
    let command = base().args(["--follow", "--no-tail"]).arg(format!("_SYSTEMD_UNIT={unit}"));
    Ok(UnitLines { lines: command.lines()? })
}

impl UnitLines {
    /// The next line.
    pub async fn next(&mut self) -> Result<Option<UnitLine>, JournalError> {
        while let Some(line) = self.lines.next().await? {
            if let Some(entry) = Entry::parse(&line) {
                return Ok(Some(UnitLine { message: entry.message, cursor: entry.cursor }));
            }
        }
        Ok(None)
    }
}

/// What the processes of a unit that has ended wrote after this place.
pub async fn rest_of_unit(unit: &str, after: Option<&str>) -> Result<Vec<String>, JournalError> {
    if let Err(error) = Command::new(JOURNALCTL).arg("--sync").output(SYNC_LIMIT).await {
        tracing::debug!(%error, "the journal was not synchronised; reading what is there");
    }
    let mut command = base();
    if let Some(cursor) = after {
        command = command.arg(format!("--after-cursor={cursor}"));
    }
    let text = read(&command.arg(format!("_SYSTEMD_UNIT={unit}"))).await?;
    Ok(text.split(|b| *b == b'\n').filter_map(Entry::parse).map(|entry| entry.message).collect())
}

#[cfg(test)]
mod tests;
