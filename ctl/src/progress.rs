//! Deployments as they go: a table that is drawn again on a terminal, one line a finished step elsewhere.
//!
//! A [`Board`] has a row for each host; a [`View`] is one of them, fed with events by `follow` and with bytes
//! by the upload. They write through the printer only.

mod row;
mod words;

use std::cell::{RefCell, RefMut};
use std::time::{Duration, Instant};

use deployd_api::error::ErrorCode;
use deployd_api::event::{Event, StepInfo, What};
use deployd_api::ids::Label;

use self::row::{Phase, Row};
use crate::cli::Progress;
use crate::human;
use crate::printer::{Printer, Volume};
use crate::table::{Table, Tone, cut};

/// How often the running picture is drawn again.
const TICK: Duration = Duration::from_millis(200);
/// With more hosts only those are shown that do something or differ.
const ROWS_SHOWN: usize = 20;

/// What a deployment moves, for the words of the view.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) host: String,
    /// The release it moves to, as far as it is known.
    pub(crate) label: Option<Label>,
    /// The release that serves until then.
    pub(crate) replaces: Option<Label>,
}

/// All hosts of a command.
#[derive(Debug)]
pub(crate) struct Board<'a> {
    printer: &'a Printer,
    began: Instant,
    rows: RefCell<Vec<Row>>,
    live: RefCell<Option<Live>>,
}

/// The state of what is drawn again.
#[derive(Debug)]
struct Live {
    lines: usize,
    drawn: Instant,
}

impl<'a> Board<'a> {
    pub(crate) fn new(printer: &'a Printer, subjects: Vec<Subject>) -> Self {
        let began = Instant::now();
        let is_live = printer.progress == Progress::Live && printer.volume != Volume::Quiet;
        let live = is_live.then_some(Live { lines: 0, drawn: began });
        let many = subjects.len() > 1;
        let mut rows: Vec<Row> = subjects.into_iter().map(Row::new).collect();
        rows.iter_mut().filter(|_| many).for_each(|row| "queued".clone_into(&mut row.now));
        Self { printer, began, rows: RefCell::new(rows), live: RefCell::new(live) }
    }

    /// The row of a host, by its place.
    pub(crate) fn view(&self, index: usize) -> View<'_> {
        View { board: self, index }
    }

    /// Milliseconds since the command began.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Draws the last picture and leaves it. Hosts whose turn never came are as they were.
    pub(crate) fn close(&self) {
        for row in self.rows.borrow_mut().iter_mut().filter(|row| row.phase == Phase::Queued) {
            row.old = Some("untouched".to_owned());
            row.now = row.subject.replaces.map_or("-".to_owned(), |label| label.to_string());
        }
        self.redraw();
        *self.live.borrow_mut() = None;
    }

    /// A line that stays, above what is drawn again.
    fn above(&self, text: &str) {
        if let Some(live) = self.live.borrow_mut().as_mut() {
            let up = if live.lines > 0 { format!("\x1b[{}A\r\x1b[J", live.lines) } else { String::new() };
            live.lines = 0;
            self.printer.draw(&format!("{up}{text}\n"));
        }
        self.redraw();
    }

    fn redraw(&self) {
        let mut live = self.live.borrow_mut();
        let Some(live) = live.as_mut() else { return };
        let lines = self.picture();
        // Without automatic wrapping a narrow terminal cuts, and the count of lines stays right.
        let mut text = String::from("\x1b[?7l");
        if live.lines > 0 {
            text += &format!("\x1b[{}A", live.lines);
        }
        for line in &lines {
            text += &format!("\r{line}\x1b[K\n");
        }
        // It may have become shorter.
        if lines.len() < live.lines {
            text += "\x1b[J";
        }
        text += "\x1b[?7h";
        self.printer.draw(&text);
        (live.lines, live.drawn) = (lines.len(), Instant::now());
    }

    fn picture(&self) -> Vec<String> {
        let rows = self.rows.borrow();
        let mut old: Vec<Label> = rows.iter().filter_map(|row| row.subject.replaces).collect();
        old.dedup();
        let header = match old.as_slice() {
            [label] => format!("OLD {label}"),
            _ => "OLD".to_owned(),
        };
        let header = ["HOST", "SENT", ">STAGED", ">START", "CHECKS", ">SWITCH", header.as_str(), "NOW"];
        let mut table = Table::new(&header);
        let all = rows.len() <= ROWS_SHOWN;
        let shown = |row: &&Row| all || matches!(row.phase, Phase::Busy | Phase::Other);
        for row in rows.iter().filter(shown).take(ROWS_SHOWN) {
            table.row(row.cells(old.len() > 1));
        }
        let mut lines = table.render(self.printer.colour_err());
        if !all {
            let count = |phase| rows.iter().filter(|row| row.phase == phase).count();
            let (good, queued) = (count(Phase::Good), count(Phase::Queued));
            lines.push(format!("{good} of {} hosts done, {queued} to come", rows.len()));
        }
        lines
    }
}

/// The row of one host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'b> {
    board: &'b Board<'b>,
    index: usize,
}

impl View<'_> {
    /// Places come from the list that the rows were made of.
    fn row(&self) -> RefMut<'_, Row> {
        RefMut::map(self.board.rows.borrow_mut(), |rows| &mut rows[self.index])
    }

    pub(crate) fn subject(&self) -> Subject {
        self.row().subject.clone()
    }

    /// What became known of the move.
    pub(crate) fn moves(&self, label: Option<Label>, replaces: Option<Label>) {
        let mut row = self.row();
        row.subject.label = label.or(row.subject.label);
        row.subject.replaces = replaces.or(row.subject.replaces);
    }

    /// What the undo took back, in words, and whether clients met the candidate; empty when there was none.
    pub(crate) fn undone(&self) -> String {
        let row = self.row();
        let mut words = row.undone_words().join(", ");
        if !words.is_empty() && !row.had_traffic() && row.subject.replaces.is_some() {
            words += "; it had no public traffic";
        }
        words
    }

    /// Something goes on there, in words.
    pub(crate) fn says(&self, now: &str) {
        {
            let mut row = self.row();
            row.phase = Phase::Busy;
            row.tone = None;
            now.clone_into(&mut row.now);
        }
        self.board.redraw();
    }

    /// Bytes on their way.
    pub(crate) fn sending(&self, sent: u64, total: u64) {
        let part = sent.saturating_mul(100).checked_div(total).unwrap_or(100);
        let rate = sent.saturating_mul(1000) / self.board.elapsed_ms().max(1);
        self.says(&format!("sending {part} % {}/s", human::size(rate)));
    }

    /// All bytes have arrived.
    pub(crate) fn sent(&self, bytes: u64, took_ms: u64) {
        {
            let many = self.board.rows.borrow().len() > 1;
            let mut row = self.row();
            row.sent = Some(human::size(bytes));
            // Nothing of it is used before its turn comes.
            row.phase = Phase::Queued;
            if many { "queued" } else { "sent" }.clone_into(&mut row.now);
        }
        self.line(&format!("sent {} {}", tight(&human::size(bytes)), tight(&human::took(took_ms))));
    }

    /// The connection broke; said once until it is back.
    pub(crate) fn agent_lost(&self) {
        if !std::mem::replace(&mut self.row().away, true) {
            "agent away, waiting".clone_into(&mut self.row().now);
            self.line("agent away, the deployment goes on; waiting for it");
        }
    }

    pub(crate) fn agent_back(&self) {
        if std::mem::replace(&mut self.row().away, false) {
            self.line("agent back");
        }
    }

    /// A line that a migration wrote.
    pub(crate) fn output(&self, text: &str) {
        let host = self.row().subject.host.clone();
        if self.board.live.borrow().is_some() {
            self.board.above(&cut(&format!("migrate   {host}  {text}"), crate::table::WIDTH));
        } else {
            self.line(&format!("migrate: {text}"));
        }
    }

    /// Shows one event.
    pub(crate) fn event(&self, event: &Event) {
        self.row().phase = Phase::Busy;
        match &event.what {
            What::Accepted { label, .. } => self.moves(*label, None),
            What::StepStarted { info } => self.step_started(info),
            What::StepDone { info, took_ms, note } => self.step_done(info, *took_ms, note.as_deref()),
            // Nothing is undone any more: the rest goes on.
            What::StepFailed { failure, .. } if self.row().committed => {
                self.line(&format!("not done: {}", failure.message));
            }
            What::StepFailed { failure, .. } => {
                let mut row = self.row();
                row.failed = true;
                row.tone = Some(Tone::Bad);
                if let (ErrorCode::CheckFailed, Some(check)) = (failure.code, &failure.subject) {
                    row.fail_check(check);
                }
                "rolling back".clone_into(&mut row.now);
                drop(row);
                self.line(&format!("failed: {}", failure.message));
            }
            What::StepUndone { info } => self.step_undone(info),
            What::Live { label, old, .. } => {
                let mut row = self.row();
                row.now = label.to_string();
                (row.tone, row.phase) = (Some(Tone::Good), Phase::Good);
                let before = row.subject.replaces.zip(old.as_ref());
                let told = before.map(|(label, old)| format!(", {label} {old}")).unwrap_or_default();
                row.old = old.clone().or(row.old.take());
                drop(row);
                self.line(&format!("live{told}"));
            }
            What::Note { text } => self.line(text),
            What::Finished { .. } => {}
        }
        self.board.redraw();
    }

    fn step_started(&self, info: &StepInfo) {
        let mut row = self.row();
        if row.tone.is_none() {
            row.now = words::present(info, row.subject.label);
        }
        row.step_began = Some(Instant::now());
    }

    fn step_undone(&self, info: &StepInfo) {
        let before = self.row().undone_words();
        self.row().undone.push(info.clone());
        if self.board.printer.is_verbose() {
            self.line(&format!("undone: {}", info.text));
        } else {
            let after = self.row().undone_words();
            after
                .iter()
                .filter(|w| !before.contains(w))
                .for_each(|word| self.line(&format!("undone: {word}")));
        }
    }

    fn step_done(&self, info: &StepInfo, took_ms: u64, note: Option<&str>) {
        self.row().fill(info, took_ms, note);
        if words::is_quiet(&info.kind) && !self.board.printer.is_verbose() {
            return;
        }
        let (subject, committed) = (self.subject(), self.row().committed);
        let note = match (info.kind.as_str(), note, subject.replaces) {
            // It only says again that they passed.
            ("check", ..) | (_, None, _) => String::new(),
            ("shift", Some(note), Some(old)) => format!(", {old} {note}"),
            (_, Some(note), _) => format!(", {note}"),
        };
        let told = info.kind == "stop-instance" && committed && self.row().is_old(info);
        let done = if told {
            let of = info.release.map_or_else(String::new, |l| l.to_string());
            format!("told {} of {of} to end", info.object)
        } else {
            words::past(info, subject.label)
        };
        self.line(&format!("{done} {}{note}", tight(&human::took(took_ms))));
    }

    /// One line of a log; on a redrawn table only what the table cannot show.
    pub(crate) fn line(&self, text: &str) {
        if self.board.live.borrow().is_some() {
            self.board.redraw();
            return;
        }
        let s = self.board.began.elapsed().as_secs();
        let host = self.row().subject.host.clone();
        self.board.printer.talk(&format!("+{:02}:{:02} {host} {text}", s / 60, s % 60));
    }

    /// Waits one beat, then draws, unless another host has just drawn.
    pub(crate) async fn tick(&self) {
        tokio::time::sleep(TICK).await;
        let due = self.board.live.borrow().as_ref().is_some_and(|live| live.drawn.elapsed() >= TICK);
        if due {
            self.board.redraw();
        }
    }

    /// How it ended.
    pub(crate) fn finish(&self, now: &str, tone: Tone) {
        let mut row = self.row();
        now.clone_into(&mut row.now);
        row.tone = Some(tone);
        row.phase = if tone == Tone::Good { Phase::Good } else { Phase::Other };
        if row.failed {
            let old = if row.had_traffic() { "serves again" } else { "served throughout" };
            row.old = Some(old.to_owned());
        }
        drop(row);
        self.board.redraw();
    }

    /// It was live and went back.
    pub(crate) fn taken_back(&self, old: &str) {
        self.row().old = Some(old.to_owned());
    }
}

/// `0.3 s` as one word.
fn tight(text: &str) -> String {
    text.replace(' ', "")
}
