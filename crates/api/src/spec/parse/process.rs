//! `[processes.NAME]`: a command and how it runs.

use std::collections::BTreeMap;

use super::fields::{Field, Keys, Section};
use crate::ids::ProcessName;
use crate::spec::check::{
    FOLDER_HINT, INSTANCES_MAX, KILL_TIMEOUT_MIN, MEMORY_MIN, SIGNALS, is_folder, is_unit_name,
};
use crate::spec::{Millis, Process, split_words};

pub(super) const PROCESS: Keys = Keys {
    known: &[
        "exec",
        "instances",
        "memory",
        "overlap",
        "kill_signal",
        "kill_timeout",
        "hosts",
        "after",
        "requires",
        "writable",
        "shared",
    ],
    later: &["cpus", "user", "schedule", "run_on", "auto_stop", "min_running"],
};

/// Words that only a shell understands.
const SHELL_WORDS: [&str; 7] = ["&&", "||", "|", ">", ">>", "<", "2>&1"];

/// Every process that could be read.
pub(super) fn read(section: &Section<'_>) -> BTreeMap<ProcessName, Process> {
    if section.fields().next().is_none() {
        section.fail("at least one process is needed", Some("add [processes.web]".to_owned()));
    }
    let mut processes = BTreeMap::new();
    for field in section.fields() {
        let name: Option<ProcessName> = field.named();
        let process = field.section(PROCESS).map(|s| read_one(&s));
        processes.extend(name.zip(process.flatten()));
    }
    processes
}

/// One process; `None` without a readable command. Other wrong values take their defaults, since the
/// spec is refused as a whole anyway.
fn read_one(section: &Section<'_>) -> Option<Process> {
    let exec = section.required("exec", "exec = \"bin/shop start\"").and_then(|f| read_command(&f));
    let get = |name| section.get(name);
    let process = Process {
        exec: exec.clone().unwrap_or_default(),
        instances: get("instances").and_then(|f| f.integer(1, INSTANCES_MAX)).unwrap_or(1),
        overlap: get("overlap").and_then(|f| f.boolean()).unwrap_or(true),
        kill_signal: get("kill_signal").and_then(|f| read_signal(&f)).unwrap_or_else(|| "SIGTERM".to_owned()),
        kill_timeout: get("kill_timeout")
            .and_then(|f| f.duration(KILL_TIMEOUT_MIN))
            .unwrap_or(Millis::from_secs(5)),
        memory: get("memory").and_then(|f| read_memory(&f)),
        writable: get("writable").map(|f| read_folders(&f)).unwrap_or_default(),
        shared: get("shared").map(|f| read_folders(&f)).unwrap_or_default(),
        after: get("after").map(|f| read_units(&f)).unwrap_or_default(),
        requires: get("requires").map(|f| read_units(&f)).unwrap_or_default(),
        hosts: get("hosts").map(|f| super::project::read_hosts(&f)).unwrap_or_default(),
    };
    exec.map(|_| process)
}

/// A command: one text that is split as systemd does, or a list of words.
pub(super) fn read_command(field: &Field<'_>) -> Option<Vec<String>> {
    let words = if field.value().is_array() {
        field.texts()?.iter().filter_map(|w| w.text().map(str::to_owned)).collect()
    } else {
        let words = field.checked(split_words(field.text()?))?;
        if let Some(word) = words.iter().find(|w| SHELL_WORDS.contains(&w.as_str())) {
            let hint = "there is no shell; put it into a script, or write exec = [\"sh\", \"-c\", \"…\"]";
            field.fail(format!("`{word}` needs a shell"), Some(hint.to_owned()));
            return None;
        }
        words
    };
    if words.first().is_none_or(String::is_empty) {
        field.fail("the command is empty", None);
        return None;
    }
    Some(words)
}

fn read_signal(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
    if SIGNALS.contains(&name.as_str()) {
        return Some(name);
    }
    let hint = "write for example \"SIGTERM\", \"SIGINT\" or \"SIGQUIT\"".to_owned();
    field.fail(format!("`{text}` is not a signal that asks a program to end"), Some(hint));
    None
}

fn read_memory(field: &Field<'_>) -> Option<u64> {
    let size = field.size()?;
    if size < MEMORY_MIN {
        field.fail("is less than 1 MiB", Some("write for example \"512mb\"".to_owned()));
        return None;
    }
    Some(size)
}

/// Folders below the release root, without `./` and a `/` at the end.
fn read_folders(field: &Field<'_>) -> Vec<String> {
    let read = |item: Field<'_>| {
        let text = item.text()?;
        let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
        let folder = parts.join("/");
        if text.starts_with('/') || !is_folder(&folder) {
            item.fail(format!("{text:?} is not a folder inside the release"), Some(FOLDER_HINT.to_owned()));
            return None;
        }
        Some(folder)
    };
    field.texts().unwrap_or_default().into_iter().filter_map(read).collect()
}

/// Names of processes or of whole units; that the processes exist is checked between sections.
fn read_units(field: &Field<'_>) -> Vec<String> {
    let read = |item: Field<'_>| {
        let text = item.text()?;
        if is_unit_name(text) || text.parse::<ProcessName>().is_ok() {
            return Some(text.to_owned());
        }
        let hint =
            "write a process of this app, or a unit with its suffix: \"postgresql.service\"".to_owned();
        item.fail(format!("`{text}` is neither a process nor a unit"), Some(hint));
        None
    };
    field.texts().unwrap_or_default().into_iter().filter_map(read).collect()
}
