//! The words of steps: what runs, and what is done. Kinds that this version does not know are shown as
//! they are.

/// Kind, while it runs, when it is done.
const STEPS: &[(&str, &str, &str)] = &[
    ("ensure-user", "preparing user", "prepared user"),
    ("stage", "staging", "staged"),
    ("seal", "staging", "staged"),
    ("write-units", "writing units", "wrote units"),
    ("ensure-epmd", "preparing epmd", "prepared epmd"),
    ("remove-epmd", "removing epmd", "removed epmd"),
    ("steer", "steering", "steered"),
    ("open-listener", "opening", "opened"),
    ("start-instance", "starting", "started"),
    ("learn-nonblocking", "learning", "learned"),
    ("await-port", "waiting", "waited"),
    ("await-carried", "waiting", "waited"),
    ("check", "checking", "checked"),
    ("shift", "switching", "switched"),
    ("watch", "watching", "watched"),
    ("mark-live", "marking live", "marked live"),
    ("monitor", "monitoring", "monitored"),
    ("commit", "committing", "committed"),
    ("close-listener", "closing", "closed"),
    ("stop-instance", "stopping", "stopped"),
    ("await-empty-queue", "emptying queue of", "emptied queue of"),
    ("relay", "relaying", "relayed"),
    ("leave-group", "leaving", "left"),
    ("drain", "draining", "drained"),
    ("remove-units", "removing units", "removed units"),
    ("remove-tree", "removing files", "removed files"),
    ("prune", "pruning", "pruned"),
];

/// Kinds whose words already say all; the object would repeat them.
const WHOLE: &[&str] = &[
    "ensure-user",
    "stage",
    "seal",
    "write-units",
    "ensure-epmd",
    "remove-epmd",
    "mark-live",
    "remove-units",
    "remove-tree",
];

/// Kinds that only keep books: shown with `-v`.
const QUIET: &[&str] = &["record", "prepare-dirs", "reload", "steer", "leave-group"];

/// Whether people need not see a step.
pub(crate) fn is_quiet(kind: &str) -> bool {
    QUIET.contains(&kind)
}

/// What the step acts on: `start web@1` → `web@1`.
pub(crate) fn object(text: &str) -> &str {
    text.split_once(' ').map_or(text, |(_, rest)| rest)
}

fn sentence(kind: &str, text: &str, word: Option<&str>) -> String {
    match word {
        Some(word) if WHOLE.contains(&kind) || !text.contains(' ') => word.to_owned(),
        Some(word) => format!("{word} {}", object(text)),
        None => text.to_owned(),
    }
}

/// `starting web@1`.
pub(crate) fn present(kind: &str, text: &str) -> String {
    sentence(kind, text, STEPS.iter().find(|(k, ..)| *k == kind).map(|(_, word, _)| *word))
}

/// `started web@1`.
pub(crate) fn past(kind: &str, text: &str) -> String {
    let word = STEPS.iter().find(|(k, ..)| *k == kind).map(|(.., word)| *word);
    if word.is_none() {
        return format!("done {text}");
    }
    sentence(kind, text, word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_and_unknown_kinds_have_words() {
        assert_eq!(past("start-instance", "start web@1"), "started web@1");
        assert_eq!(past("seal", "seal the tree"), "staged");
        assert_eq!(past("prune", "prune"), "pruned");
        assert_eq!(past("dance", "dance on web1"), "done dance on web1");
        assert_eq!(present("check", "check health"), "checking health");
        assert_eq!(present("dance", "dance on web1"), "dance on web1");
    }
}
