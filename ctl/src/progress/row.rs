//! What is known of one host's deployment, and its cells in the table.

use std::time::Instant;

use deployd_api::event::StepInfo;

use super::{Subject, words};
use crate::human;
use crate::table::{Cell, Tone};

/// How far a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been done there.
    Queued,
    /// Something goes on.
    Busy,
    /// It has what was asked for.
    Good,
    /// It ended otherwise.
    Other,
}

/// The columns of a row, filled from the left.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) subject: Subject,
    pub(super) phase: Phase,
    pub(super) sent: Option<String>,
    staged: Option<u64>,
    started: Option<u64>,
    checks: Vec<String>,
    check_failed: bool,
    switched: Option<u64>,
    pub(super) old: Option<String>,
    pub(super) now: String,
    pub(super) tone: Option<Tone>,
    pub(super) undone: Vec<StepInfo>,
    pub(super) away: bool,
    pub(super) failed: bool,
    pub(super) committed: bool,
    pub(super) step_began: Option<Instant>,
}

impl Row {
    pub(super) fn new(subject: Subject) -> Self {
        Self {
            subject,
            phase: Phase::Queued,
            sent: None,
            staged: None,
            started: None,
            checks: Vec::new(),
            check_failed: false,
            switched: None,
            old: None,
            now: String::new(),
            tone: None,
            undone: Vec::new(),
            away: false,
            failed: false,
            committed: false,
            step_began: None,
        }
    }

    /// What the undo took back, in words.
    pub(super) fn undone_words(&self) -> Vec<String> {
        words::undone(&self.undone, self.subject.label, self.subject.replaces)
    }

    /// Whether clients met the candidate.
    pub(super) fn had_traffic(&self) -> bool {
        self.switched.is_some()
    }

    /// Whether a step is about the release that is replaced.
    pub(super) fn is_old(&self, info: &StepInfo) -> bool {
        self.subject.replaces.is_some() && info.release == self.subject.replaces
    }

    pub(super) fn fail_check(&mut self, check: &str) {
        self.checks = vec![format!("{check} failed")];
        self.check_failed = true;
    }

    /// Puts a finished step into its column.
    pub(super) fn fill(&mut self, info: &StepInfo, took_ms: u64, note: Option<&str>) {
        let is_old = self.is_old(info);
        match info.kind.as_str() {
            "seal" => *self.staged.get_or_insert(0) += took_ms,
            "start-instance" if !is_old => *self.started.get_or_insert(0) += took_ms,
            "check" if !is_old => {
                for name in info.object.split_whitespace() {
                    if !self.checks.iter().any(|known| known == name) {
                        self.checks.push(name.to_owned());
                    }
                }
            }
            "shift" => {
                *self.switched.get_or_insert(0) += took_ms;
                self.old = note.map(str::to_owned);
            }
            "commit" => self.committed = true,
            "drain" if is_old => {
                self.old = Some(note.map_or("draining".to_owned(), |n| format!("draining, {n}")));
            }
            // After the commit it is only told to end, and does so with its last connection.
            "stop-instance" if is_old && !self.failed => {
                self.old = Some(if self.committed { "draining" } else { "stopped" }.to_owned());
            }
            _ => {}
        }
    }

    /// The cells; `names_old` when the header does not say which release the old one is.
    pub(super) fn cells(&self, names_old: bool) -> Vec<Cell> {
        let dash = || "-".to_owned();
        let time = |ms: Option<u64>| ms.map_or_else(dash, human::took);
        let mut now = self.now.clone();
        let waited = self.step_began.map_or(0, |at| at.elapsed().as_secs());
        if self.tone.is_none() && waited > 0 {
            now += &format!(" {waited} s");
        }
        let checks = if self.checks.is_empty() { dash() } else { self.checks.join(" ") };
        let checks_tone = if self.check_failed { Tone::Bad } else { Tone::Plain };
        let old = match self.subject.replaces {
            None => dash(),
            Some(label) => {
                let does = self.old.as_deref().unwrap_or("serves");
                if names_old { format!("{label} {does}") } else { does.to_owned() }
            }
        };
        vec![
            self.subject.host.as_str().into(),
            self.sent.clone().unwrap_or_else(dash).into(),
            time(self.staged).into(),
            time(self.started).into(),
            Cell(checks, checks_tone),
            time(self.switched).into(),
            old.into(),
            Cell(now, self.tone.unwrap_or(Tone::Plain)),
        ]
    }
}
