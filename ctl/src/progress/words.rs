//! The words of steps: what runs, and what is done, from the kind and object that events carry. Kinds
//! that this version does not know are shown by the text that came with them.

use deployd_api::event::StepInfo;
use deployd_api::ids::Label;

/// Whether a step's object follows its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    /// `started web@1`.
    Object,
    /// `staged`: the word says all.
    Alone,
}
use Say::{Alone, Object};

/// Kind, while it runs, when it is done.
const STEPS: &[(&str, &str, &str, Say)] = &[
    ("ensure-user", "making user", "made user", Object),
    ("remove-user", "removing user", "removed user", Object),
    ("seal", "staging", "staged", Alone),
    ("migrate", "migrating", "migrated", Alone),
    ("remove-tree", "removing files", "removed files", Alone),
    ("prepare-dirs", "making folders", "made folders", Alone),
    ("remove-dirs", "removing its state", "removed its state", Alone),
    ("write-units", "writing units", "wrote units", Alone),
    ("remove-units", "removing units", "removed units", Alone),
    ("steer", "steering", "steered", Object),
    ("shift", "switching", "switched", Object),
    ("open-listener", "opening", "opened", Object),
    ("close-listener", "closing", "closed", Object),
    ("await-empty-queue", "emptying the queue of", "emptied the queue of", Object),
    ("relay", "handing on what is queued in", "handed on what was queued in", Object),
    ("leave-group", "giving up", "gave up", Object),
    ("start-instance", "starting", "started", Object),
    ("stop-instance", "stopping", "stopped", Object),
    ("restart-instance", "restarting", "restarted", Object),
    ("ensure-epmd", "preparing epmd", "prepared epmd", Alone),
    ("remove-epmd", "removing epmd", "removed epmd", Alone),
    ("await-port", "waiting for", "waited for", Object),
    ("await-carried", "waiting for the proxy of", "waited for the proxy of", Object),
    ("learn-nonblocking", "learning from", "learned from", Object),
    ("reload", "reloading units", "reloaded units", Alone),
    ("check", "checking", "checked", Object),
    ("watch", "watching", "watched", Alone),
    ("monitor", "watching", "watched", Alone),
    ("mark-live", "making it live", "live", Alone),
    ("commit", "committing", "committed", Alone),
    ("drain", "leaving it to drain", "drains", Alone),
    ("prune", "pruning", "pruned", Object),
    ("forget-app", "forgetting", "forgot", Object),
];

/// Kinds that only keep books: shown with `-v`.
const QUIET: &[&str] = &[
    "record",
    "ensure-user",
    "prepare-dirs",
    "reload",
    "steer",
    "leave-group",
    "learn-nonblocking",
    "await-empty-queue",
    "relay",
];

/// Whether people need not see a step.
pub(crate) fn is_quiet(kind: &str) -> bool {
    QUIET.contains(&kind)
}

/// `web@1`, or `web@1 of v1` when it is not the release that the deployment is about.
fn object(info: &StepInfo, of: Option<Label>) -> String {
    match info.release.filter(|release| Some(*release) != of) {
        Some(release) => format!("{} of {release}", info.object),
        None => info.object.clone(),
    }
}

fn sentence(info: &StepInfo, of: Option<Label>, word: &str, say: Say) -> String {
    if say == Alone || info.object.is_empty() {
        return word.to_owned();
    }
    format!("{word} {}", object(info, of))
}

fn find(kind: &str) -> Option<&'static (&'static str, &'static str, &'static str, Say)> {
    STEPS.iter().find(|(k, ..)| *k == kind)
}

/// `starting web@1`; `of` is the release that the deployment moves to.
pub(crate) fn present(info: &StepInfo, of: Option<Label>) -> String {
    match (find(&info.kind), info.kind.as_str()) {
        (_, "check") if info.object.is_empty() => "waiting until it is up".to_owned(),
        (Some((_, word, _, say)), _) => sentence(info, of, word, *say),
        (None, _) => told(info),
    }
}

/// `started web@1`.
pub(crate) fn past(info: &StepInfo, of: Option<Label>) -> String {
    match (find(&info.kind), info.kind.as_str()) {
        (_, "check") if info.object.is_empty() => "up".to_owned(),
        (_, "check") if info.object.contains(' ') => format!("checks {} ok", info.object),
        (_, "check") => format!("check {} ok", info.object),
        (_, "drain") => info.release.map_or("drains".to_owned(), |release| format!("{release} drains")),
        (Some((_, _, word, say)), _) => sentence(info, of, word, *say),
        (None, _) => format!("done: {}", told(info)),
    }
}

fn told(info: &StepInfo) -> String {
    if info.text.is_empty() { info.kind.clone() } else { info.text.clone() }
}

/// What the undo took back, in the words of what a person knew of.
pub(crate) fn undone(steps: &[StepInfo], candidate: Option<Label>, old: Option<Label>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for step in steps {
        let own = step.release.is_none() || step.release == candidate;
        let word = match (step.kind.as_str(), own, old) {
            ("start-instance", true, _) => "candidate stopped".to_owned(),
            ("open-listener", true, _) => "its listeners closed".to_owned(),
            ("write-units", ..) => "its units removed".to_owned(),
            ("seal", ..) => "its files removed".to_owned(),
            ("ensure-user", ..) => "its user removed".to_owned(),
            ("shift", _, Some(old)) => format!("new connections go to {old} again"),
            ("await-empty-queue" | "close-listener" | "stop-instance", false, Some(old)) => {
                format!("{old} started again")
            }
            // What only keeps books or comes with the others.
            (kind, ..) if find(kind).is_some() || kind == "record" => continue,
            _ => told(step),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: &str, object: &str, release: &str) -> StepInfo {
        let release = release.parse().ok();
        StepInfo { step: 0, kind: kind.into(), object: object.into(), release, text: format!("{kind} it") }
    }

    #[test]
    fn known_and_unknown_kinds_have_words() {
        let v2 = "v2".parse().ok();
        for (info, now, then) in [
            (info("start-instance", "web@1", "v2"), "starting web@1", "started web@1"),
            (info("seal", "", ""), "staging", "staged"),
            (
                info("await-empty-queue", "http", "v1"),
                "emptying the queue of http of v1",
                "emptied the queue of http of v1",
            ),
            (info("check", "health deep", "v2"), "checking health deep", "checks health deep ok"),
            (info("check", "", "v2"), "waiting until it is up", "up"),
            (info("drain", "", "v1"), "leaving it to drain", "v1 drains"),
            (info("remove-user", "dpl-shop", ""), "removing user dpl-shop", "removed user dpl-shop"),
            (info("dance", "", ""), "dance it", "done: dance it"),
        ] {
            assert_eq!((present(&info, v2).as_str(), past(&info, v2).as_str()), (now, then));
        }
    }

    #[test]
    fn an_undo_is_told_in_the_words_of_what_was_done() {
        let steps = [
            info("start-instance", "web@2", "v2"),
            info("learn-nonblocking", "web", "v2"),
            info("start-instance", "web@1", "v2"),
            info("open-listener", "http", "v2"),
            info("write-units", "", ""),
            info("record", "", "v2"),
            info("dance", "", ""),
        ];
        let words = undone(&steps, "v2".parse().ok(), "v1".parse().ok());
        assert_eq!(words, ["candidate stopped", "its listeners closed", "its units removed", "dance it"]);
    }
}
