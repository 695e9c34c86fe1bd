//! What a project says to other tools: `Procfile` (its processes), `Dockerfile` (port and command of the last stage).

use super::draft::{Check, Draft, Migrate};
use super::names;
use super::sources::Sources;

pub(super) fn add(sources: &Sources, draft: &mut Draft) {
    if let Some(text) = sources.text("Dockerfile") {
        add_dockerfile(&text, draft);
    }
    if let Some(text) = sources.text("Procfile") {
        add_procfile(&text, draft);
    }
}

/// Its lines win over what was guessed, but for those that run a project from its sources.
fn add_procfile(text: &str, draft: &mut Draft) {
    let mut taken = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((name, command)) = line.split_once(':') else { continue };
        let (name, command) = (name.trim(), command.trim());
        let (Some(process), false) = (names::word(name), command.is_empty()) else { continue };
        if command.starts_with("mix ") || command.starts_with("cargo ") {
            continue;
        }
        let port = draft.port().to_string();
        let command = command.replace("${PORT}", &port).replace("$PORT", &port);
        if name == "release" {
            draft.migrate = Some(Migrate::Command(command));
        } else {
            draft.run(&process, command);
            if process == "web" {
                draft.check.get_or_insert(Check::Root);
            }
        }
        taken.push(name.to_owned());
    }
    if !taken.is_empty() {
        known_by(draft, "a project with a Procfile");
        draft.notes.push(format!("from Procfile: {}", taken.join(", ")));
    }
}

fn add_dockerfile(text: &str, draft: &mut Draft) {
    let joined = text.replace("\\\n", " ");
    let (mut port, mut command, mut folder) = (None, None, "/app".to_owned());
    for line in joined.lines().map(str::trim) {
        let Some((word, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim();
        match word.to_ascii_uppercase().as_str() {
            "FROM" => (port, command) = (None, None),
            "EXPOSE" => {
                port = rest.split(['/', ' ']).next().and_then(|n| n.parse::<u16>().ok()).filter(|n| *n > 0);
            }
            "WORKDIR" if rest.starts_with('/') => rest.trim_end_matches('/').clone_into(&mut folder),
            "CMD" => command = Some(rest.to_owned()),
            _ => {}
        }
    }
    if let Some(port) = port {
        draft.port = Some(port);
        draft.notes.push(format!("from Dockerfile: port {port}"));
    }
    if let (true, Some(command)) = (draft.processes.is_empty(), command) {
        let words: Option<Vec<String>> = serde_json::from_str(&command).ok();
        let command = words.map_or(command, |words| words.join(" "));
        draft.notes.push("from Dockerfile: exec; what its image installs has to be on the hosts".to_owned());
        draft.run("web", relative(&command, &folder));
        known_by(draft, "a project with a Dockerfile");
    }
}

/// A command without the folder of the image in front of its program.
pub(super) fn relative(command: &str, folder: &str) -> String {
    command.strip_prefix(&format!("{folder}/")).unwrap_or(command).to_owned()
}

fn known_by(draft: &mut Draft, words: &str) {
    if draft.is_unknown() {
        words.clone_into(&mut draft.project);
        draft.check.get_or_insert(Check::Root);
    }
}
