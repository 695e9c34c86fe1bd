//! `deployd journal show`: a deployment told as a story, a line a record.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use deployd_api::error::ErrorBody;
use deployd_core::journal::Record;

use super::Story;
use crate::store::journal::{DeploymentRow, RecordRow};

/// The whole story.
pub fn tell(row: &DeploymentRow, rows: &[RecordRow]) -> Result<String, ErrorBody> {
    let story = Story::read(row, rows)?;
    let (plan, begin) = (&story.plan, row.new.started.0);
    let began = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(begin));
    let to = plan.to.map(|t| format!(" {t}")).unwrap_or_default();
    let from = plan.from.map(|t| format!(", replaces {t}")).unwrap_or_default();
    let mut out = format!(
        "{} {}{to}{from}   deployment {}\nbegan {}, {} steps\n\n",
        plan.kind,
        plan.app,
        row.new.id,
        began,
        plan.steps.len()
    );
    let text = |step: usize| plan.steps[step].action.text();
    for (seq, entry) in &story.entries {
        let after = entry.at.0.saturating_sub(begin) as f64 / 1000.0;
        let line = match &entry.record {
            Record::Started { step } => format!("begin   {}", text(*step)),
            Record::Done { step, note: None } => format!("done    {}", text(*step)),
            Record::Done { step, note: Some(note) } => format!("done    {} ({note})", text(*step)),
            Record::Failed { step, failure } => format!("FAILED  {}: {}", text(*step), failure.message),
            Record::Abort { failure } => format!("ABORT   {}", failure.message),
            Record::Rebooted { failure } => format!("REBOOT  {}", failure.message),
            Record::Learned { change } => format!("learned {}", deployd_core::told::change_text(change)),
            Record::Superseded => "over    a newer deployment ended the watch".to_owned(),
            Record::UndoStarted { step } => format!("undo    {}", text(*step)),
            Record::Undone { step } => format!("undone  {}", text(*step)),
            Record::UndoFailed { step, failure } => format!("STUCK   {}: {}", text(*step), failure.message),
            Record::Finished { verdict } => format!("END     {verdict}"),
            Record::Note { text } => format!("note    {text}"),
        };
        let _ = writeln!(out, "{seq:>4} {after:>+9.3} s  {line}");
    }
    if story.progress.verdict().is_none() {
        let next = story.progress.current().map_or_else(|| "its end".to_owned(), text);
        let _ = writeln!(out, "\nnot ended; next: {next}");
    }
    Ok(out)
}
