//! A deployment as it goes: a table that is drawn again on a terminal, one line a finished step elsewhere.
//!
//! Fed with events by `follow` and with bytes by push; writes through the printer only.

mod words;

use std::time::{Duration, Instant};

use deployd_api::error::ErrorCode;
use deployd_api::event::{Event, StepInfo, What};
use deployd_api::ids::Label;

use crate::cli::Progress;
use crate::human;
use crate::printer::{Printer, Volume};
use crate::table::{Cell, Table, Tone};

/// How often the running picture is drawn again.
const TICK: Duration = Duration::from_millis(200);

/// What a deployment moves, for the words of the view.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) host: String,
    /// The release it moves to, as far as it is known.
    pub(crate) label: Option<Label>,
    /// The release that serves until then.
    pub(crate) replaces: Option<Label>,
}

/// The columns of the one row, filled from the left.
#[derive(Debug, Default)]
struct Row {
    sent: Option<String>,
    staged: Option<u64>,
    started: Option<u64>,
    checks: Vec<String>,
    check_failed: bool,
    switched: Option<u64>,
    old: Option<String>,
    now: String,
    tone: Option<Tone>,
}

/// The view of one deployment.
#[derive(Debug)]
pub(crate) struct View<'a> {
    printer: &'a Printer,
    subject: Subject,
    began: Instant,
    row: Row,
    undone: Vec<StepInfo>,
    away: bool,
    failed: bool,
    committed: bool,
    live: Option<Live>,
}

/// The state of what is drawn again.
#[derive(Debug, Default)]
struct Live {
    lines: usize,
    step_began: Option<Instant>,
}

impl<'a> View<'a> {
    pub(crate) fn new(printer: &'a Printer, subject: Subject) -> Self {
        let live = printer.progress == Progress::Live && printer.volume != Volume::Quiet;
        let live = live.then(Live::default);
        Self {
            printer,
            subject,
            began: Instant::now(),
            row: Row::default(),
            undone: Vec::new(),
            away: false,
            failed: false,
            committed: false,
            live,
        }
    }

    /// Milliseconds since the command began.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }

    /// What the undo took back, in words, and whether clients met the candidate; empty when there was none.
    pub(crate) fn undone(&self) -> String {
        let mut words = self.undone_words().join(", ");
        if !words.is_empty() && self.row.switched.is_none() && self.subject.replaces.is_some() {
            words += "; it had no public traffic";
        }
        words
    }

    fn undone_words(&self) -> Vec<String> {
        words::undone(&self.undone, self.subject.label, self.subject.replaces)
    }

    /// Bytes on their way.
    pub(crate) fn sending(&mut self, sent: u64, total: u64) {
        let part = sent.saturating_mul(100).checked_div(total).unwrap_or(100);
        let rate = sent.saturating_mul(1000) / self.elapsed_ms().max(1);
        self.row.now = format!("sending {part} % {}/s", human::size(rate));
        self.redraw();
    }

    /// All bytes have arrived.
    pub(crate) fn sent(&mut self, bytes: u64, took_ms: u64) {
        self.row.sent = Some(human::size(bytes));
        self.line(&format!("sent {} {}", tight(&human::size(bytes)), tight(&human::took(took_ms))));
    }

    /// The connection broke; said once until it is back.
    pub(crate) fn agent_lost(&mut self) {
        if !std::mem::replace(&mut self.away, true) {
            "agent away, waiting".clone_into(&mut self.row.now);
            self.line("agent away, the deployment goes on; waiting for it");
        }
    }

    pub(crate) fn agent_back(&mut self) {
        if std::mem::replace(&mut self.away, false) {
            self.line("agent back");
        }
    }

    /// Shows one event.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.what {
            What::Accepted { label, .. } => self.subject.label = label.or(self.subject.label),
            What::StepStarted { info } => self.step_started(info),
            What::StepDone { info, took_ms, note } => self.step_done(info, *took_ms, note.as_deref()),
            // Nothing is undone any more: the rest goes on.
            What::StepFailed { failure, .. } if self.committed => {
                self.line(&format!("not done: {}", failure.message));
            }
            What::StepFailed { failure, .. } => {
                self.failed = true;
                self.row.tone = Some(Tone::Bad);
                if let (ErrorCode::CheckFailed, Some(check)) = (failure.code, &failure.subject) {
                    self.row.checks = vec![format!("{check} failed")];
                    self.row.check_failed = true;
                }
                "rolling back".clone_into(&mut self.row.now);
                self.line(&format!("failed: {}", failure.message));
            }
            What::StepUndone { info } => {
                let before = self.undone_words();
                self.undone.push(info.clone());
                if self.printer.is_verbose() {
                    self.line(&format!("undone: {}", info.text));
                } else {
                    let new = self.undone_words().into_iter().filter(|w| !before.contains(w));
                    new.for_each(|word| self.line(&format!("undone: {word}")));
                }
            }
            What::Live { label, old, .. } => {
                self.row.now = label.to_string();
                self.row.tone = Some(Tone::Good);
                let before = self.subject.replaces.zip(old.as_ref());
                let told = before.map(|(label, old)| format!(", {label} {old}")).unwrap_or_default();
                self.row.old = old.clone().or(self.row.old.take());
                self.line(&format!("live{told}"));
            }
            What::Note { text } => self.line(text),
            What::Finished { .. } => {}
        }
        self.redraw();
    }

    fn step_started(&mut self, info: &StepInfo) {
        if self.row.tone.is_none() {
            self.row.now = words::present(info, self.subject.label);
        }
        if let Some(live) = &mut self.live {
            live.step_began = Some(Instant::now());
        }
    }

    fn step_done(&mut self, info: &StepInfo, took_ms: u64, note: Option<&str>) {
        self.fill(info, took_ms, note);
        if words::is_quiet(&info.kind) && !self.printer.is_verbose() {
            return;
        }
        let note = match (info.kind.as_str(), note, self.subject.replaces) {
            // It only says again that they passed.
            ("check", ..) | (_, None, _) => String::new(),
            ("shift", Some(note), Some(old)) => format!(", {old} {note}"),
            (_, Some(note), _) => format!(", {note}"),
        };
        let told = info.kind == "stop-instance" && self.committed && self.is_old(info);
        let done = if told {
            format!(
                "told {} of {} to end",
                info.object,
                info.release.map_or_else(String::new, |l| l.to_string())
            )
        } else {
            words::past(info, self.subject.label)
        };
        self.line(&format!("{done} {}{note}", tight(&human::took(took_ms))));
    }

    /// Whether a step is about the release that is replaced.
    fn is_old(&self, info: &StepInfo) -> bool {
        self.subject.replaces.is_some() && info.release == self.subject.replaces
    }

    /// Puts a finished step into its column.
    fn fill(&mut self, info: &StepInfo, took_ms: u64, note: Option<&str>) {
        let is_old = self.is_old(info);
        let row = &mut self.row;
        match info.kind.as_str() {
            "seal" => *row.staged.get_or_insert(0) += took_ms,
            "start-instance" if !is_old => *row.started.get_or_insert(0) += took_ms,
            "check" if !is_old => {
                for name in info.object.split_whitespace() {
                    if !row.checks.iter().any(|known| known == name) {
                        row.checks.push(name.to_owned());
                    }
                }
            }
            "shift" => {
                *row.switched.get_or_insert(0) += took_ms;
                row.old = note.map(str::to_owned);
            }
            "commit" => self.committed = true,
            "drain" if is_old => {
                row.old = Some(note.map_or("draining".to_owned(), |n| format!("draining, {n}")));
            }
            // After the commit it is only told to end, and does so with its last connection.
            "stop-instance" if is_old && !self.failed => {
                row.old = Some(if self.committed { "draining" } else { "stopped" }.to_owned());
            }
            _ => {}
        }
    }

    /// One line of a log; on a redrawn table only what the table cannot show.
    fn line(&mut self, text: &str) {
        if self.live.is_some() {
            self.redraw();
            return;
        }
        let s = self.began.elapsed().as_secs();
        self.printer.talk(&format!("+{:02}:{:02} {} {text}", s / 60, s % 60, self.subject.host));
    }

    /// Waits one beat, then draws.
    pub(crate) async fn tick(&mut self) {
        tokio::time::sleep(TICK).await;
        self.redraw();
    }

    /// Draws the last picture and leaves it.
    pub(crate) fn finish(&mut self, now: &str, tone: Tone) {
        now.clone_into(&mut self.row.now);
        self.row.tone = Some(tone);
        if self.failed {
            let switched = self.row.switched.is_some();
            let old = if switched { "serves again" } else { "served throughout" };
            self.row.old = Some(old.to_owned());
        }
        self.redraw();
        self.live = None;
    }

    fn redraw(&mut self) {
        let Some(live) = &self.live else { return };
        let lines = self.table(live).render(self.printer.colour_err());
        // Without automatic wrapping a narrow terminal cuts, and the count of lines stays right.
        let mut text = String::from("\x1b[?7l");
        if live.lines > 0 {
            text += &format!("\x1b[{}A", live.lines);
        }
        for line in &lines {
            text += &format!("\r{line}\x1b[K\n");
        }
        text += "\x1b[?7h";
        self.printer.draw(&text);
        if let Some(live) = &mut self.live {
            live.lines = lines.len();
        }
    }

    fn table(&self, live: &Live) -> Table {
        let old = self.subject.replaces.map_or("OLD".to_owned(), |label| format!("OLD {label}"));
        let mut table =
            Table::new(&["HOST", "SENT", ">STAGED", ">START", "CHECKS", ">SWITCH", old.as_str(), "NOW"]);
        let row = &self.row;
        let dash = || "-".to_owned();
        let time = |ms: Option<u64>| ms.map_or_else(dash, human::took);
        let mut now = row.now.clone();
        let waited = live.step_began.map_or(0, |at| at.elapsed().as_secs());
        if row.tone.is_none() && waited > 0 {
            now += &format!(" {waited} s");
        }
        let checks = if row.checks.is_empty() { dash() } else { row.checks.join(" ") };
        let checks_tone = if row.check_failed { Tone::Bad } else { Tone::Plain };
        let serves = if self.subject.replaces.is_some() { "serves" } else { "-" };
        table.row(vec![
            self.subject.host.as_str().into(),
            row.sent.clone().unwrap_or_else(dash).into(),
            time(row.staged).into(),
            time(row.started).into(),
            Cell(checks, checks_tone),
            time(row.switched).into(),
            row.old.clone().filter(|_| self.subject.replaces.is_some()).unwrap_or(serves.to_owned()).into(),
            Cell(now, row.tone.unwrap_or(Tone::Plain)),
        ]);
        table
    }
}

/// `0.3 s` as one word.
fn tight(text: &str) -> String {
    text.replace(' ', "")
}
