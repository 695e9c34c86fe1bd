//! Lines of several hosts in the order of time: what came at about the same time waits a moment for the others.

use std::time::Duration;

use deployd_api::ids::Timestamp;
use deployd_api::status::LogLine;
use tokio::time::Instant;

/// How long a line waits for older ones of other hosts: more than hosts are apart, less than a person notices.
const WINDOW: Duration = Duration::from_millis(200);
/// Most lines that wait.
const LINES_MAX: usize = 10_000;

/// Lines that wait.
#[derive(Debug)]
pub(super) struct Merge {
    waiting: Vec<(Timestamp, usize, LogLine)>,
    /// The newest moment of each host: its own lines keep the order that it told them in.
    newest: Vec<Timestamp>,
    since: Option<Instant>,
}

impl Merge {
    pub(super) fn new(hosts: usize) -> Self {
        Self { waiting: Vec::new(), newest: vec![Timestamp(0); hosts], since: None }
    }

    pub(super) fn add(&mut self, host: usize, line: LogLine) {
        let at = self.newest[host].max(line.at);
        self.newest[host] = at;
        self.since.get_or_insert_with(Instant::now);
        self.waiting.push((at, host, line));
    }

    /// When the lines that wait have waited enough; `None` when none waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + WINDOW)
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= LINES_MAX || self.due().is_some_and(|due| Instant::now() >= due)
    }

    /// The lines, oldest first.
    pub(super) fn take(&mut self) -> Vec<(usize, LogLine)> {
        self.since = None;
        let mut lines = std::mem::take(&mut self.waiting);
        lines.sort_by_key(|(at, host, _)| (*at, *host));
        lines.into_iter().map(|(_, host, line)| (host, line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_the_order_of_time_and_of_their_host() {
        let mut merge = Merge::new(2);
        assert!(merge.due().is_none());
        let line = |at: u64, text: &str| LogLine {
            at: Timestamp(at),
            label: None,
            instance: String::new(),
            level: 6,
            message: text.to_owned(),
        };
        // The clock of the first host went back between b and c.
        for (host, at, text) in
            [(0, 10, "a"), (0, 30, "b"), (0, 25, "c"), (1, 5, "A"), (1, 30, "B"), (1, 31, "C")]
        {
            merge.add(host, line(at, text));
        }
        assert!(merge.due().is_some());
        let texts: Vec<String> = merge.take().into_iter().map(|(_, line)| line.message).collect();
        assert_eq!(texts, ["A", "a", "b", "c", "B", "C"]);
        assert!(merge.take().is_empty() && merge.due().is_none());
    }
}
