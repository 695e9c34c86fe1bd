//! Releases of several hosts as one list. Pure.

use deployd_api::release::{ReleaseRow, ReleaseState};

use crate::human;
use crate::table::Tone;

/// A release, and the hosts that have it.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    /// As the first host has it.
    pub(super) row: &'a ReleaseRow,
    pub(super) on: Vec<(&'a str, ReleaseState)>,
}

/// The list, newest first. A label that is two releases is two rows.
pub(super) fn merge<'a>(hosts: &[(&'a str, &'a [ReleaseRow])]) -> Vec<Merged<'a>> {
    let mut merged: Vec<Merged<'a>> = Vec::new();
    for (host, rows) in hosts {
        for row in *rows {
            match merged.iter_mut().find(|m| (m.row.label, m.row.digest) == (row.label, row.digest)) {
                Some(known) => {
                    known.on.push((host, row.state));
                    // Why it went wrong is known only where it did.
                    if known.row.reason.is_none() && row.reason.is_some() {
                        known.row = row;
                    }
                }
                None => merged.push(Merged { row, on: vec![(host, row.state)] }),
            }
        }
    }
    merged.sort_by_key(|m| std::cmp::Reverse(m.row.label));
    merged
}

impl Merged<'_> {
    /// The state on every host that has it, if it is one.
    fn one_state(&self) -> Option<ReleaseState> {
        let (_, first) = self.on.first()?;
        self.on.iter().all(|(_, state)| state == first).then_some(*first)
    }

    /// Whether hosts differ about it.
    pub(super) fn differs(&self, hosts: usize) -> bool {
        self.on.len() != hosts || self.one_state().is_none()
    }

    /// Whether a host can go back to it.
    pub(super) fn is_kept(&self) -> bool {
        self.on.iter().any(|(_, state)| *state == ReleaseState::Kept)
    }

    pub(super) fn state(&self) -> (String, Tone) {
        let Some(state) = self.one_state() else { return ("mixed".to_owned(), Tone::Warn) };
        let tone = match state {
            ReleaseState::Live => Tone::Good,
            ReleaseState::RolledBack => Tone::Bad,
            ReleaseState::Candidate => Tone::Warn,
            ReleaseState::Kept => Tone::Plain,
        };
        (state.to_string(), tone)
    }

    /// What changed, why it was rolled back, and which hosts have it in which state.
    pub(super) fn changed(&self) -> String {
        let mut parts = vec![self.row.changed.join(", ")];
        parts.extend(self.row.reason.clone());
        if self.one_state().is_none() {
            let order =
                [ReleaseState::Candidate, ReleaseState::Live, ReleaseState::RolledBack, ReleaseState::Kept];
            let places = order.iter().filter_map(|state| {
                let hosts: Vec<&str> = self.on.iter().filter(|(_, s)| s == state).map(|(h, _)| *h).collect();
                (!hosts.is_empty()).then(|| format!("{state} on {}", human::names(&hosts)))
            });
            parts.push(places.collect::<Vec<_>>().join(", "));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("; ")
    }
}
