//! `fly.toml`: what of it means the same here, and the names of what was not taken over.

use toml::{Table, Value};

use super::draft::{Check, Draft, Migrate, quoted};
use super::names;
use super::others::relative;
use super::sources::Sources;

/// Keys that mean nothing here, or are said otherwise, and that nobody misses.
const SILENT: [&str; 4] = ["primary_region", "console_command", "swap_size_mb", "metrics"];
/// Signals that ask a program to end.
const SIGNALS: [&str; 6] = ["SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGHUP"];

pub(super) fn add(sources: &Sources, draft: &mut Draft) {
    let Some(text) = sources.text("fly.toml") else { return };
    let Ok(fly) = toml::from_str::<Table>(&text) else {
        draft.notes.push("fly.toml cannot be read and was left out".to_owned());
        return;
    };
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for (key, value) in &fly {
        let rest = take(key, value, draft);
        match rest {
            Rest::Nothing => taken.push(key.clone()),
            Rest::All if !SILENT.contains(&key.as_str()) => left.push(key.clone()),
            Rest::All => {}
            Rest::Some(keys) => {
                taken.push(key.clone());
                left.extend(keys.into_iter().map(|inner| format!("{key}.{inner}")));
            }
        }
    }
    if draft.is_unknown() {
        "a project with a fly.toml".clone_into(&mut draft.project);
    }
    add_kill(&fly, draft);
    if !taken.is_empty() {
        draft.notes.push(format!("from fly.toml: {}", taken.join(", ")));
    }
    if !left.is_empty() {
        draft.notes.push(format!("not taken over from fly.toml: {}", left.join(", ")));
    }
}

/// What of a key was not taken over.
enum Rest {
    Nothing,
    Some(Vec<String>),
    All,
}

fn take(key: &str, value: &Value, draft: &mut Draft) -> Rest {
    match (key, value) {
        ("app", Value::String(app)) => draft.app = Some(app.clone()),
        ("env", Value::Table(env)) => return take_env(env, draft),
        ("kill_signal", Value::String(signal)) if SIGNALS.contains(&signal.as_str()) => {}
        ("kill_timeout", _) if seconds(value).is_some() => {}
        ("processes", Value::Table(processes)) => {
            for (name, command) in processes {
                // `app` is what Fly calls the only one.
                let name = if name == "app" { Some("web".to_owned()) } else { names::word(name) };
                if let (Some(name), Some(command)) = (name, command.as_str().filter(|c| !c.trim().is_empty()))
                {
                    draft.run(&name, relative(command, "/app"));
                }
            }
        }
        ("http_service", Value::Table(service)) => return take_service(service, draft),
        ("services", Value::Array(services)) => {
            let Some(service) = services.first().and_then(Value::as_table) else { return Rest::All };
            return take_service(service, draft);
        }
        ("checks", Value::Table(checks)) => {
            let path = checks.values().find_map(|check| check.get("path")?.as_str());
            if !take_path(path, draft) {
                return Rest::All;
            }
        }
        ("deploy", Value::Table(deploy)) => return take_deploy(deploy, draft),
        _ => return Rest::All,
    }
    Rest::Nothing
}

fn take_env(env: &Table, draft: &mut Draft) -> Rest {
    let mut left = Vec::new();
    for (name, value) in env {
        let is_name = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match name.as_str() {
            "PORT" => draft.port = text.parse().ok().filter(|port| *port > 0).or(draft.port),
            _ if !is_name || name.starts_with("DEPLOYD_") || name.starts_with("LISTEN_") => {
                left.push(name.clone());
            }
            _ => draft.set_env(name, &text),
        }
    }
    if left.is_empty() { Rest::Nothing } else { Rest::Some(left) }
}

fn take_service(service: &Table, draft: &mut Draft) -> Rest {
    let mut left = Vec::new();
    for (key, value) in service {
        match key.as_str() {
            "internal_port" => {
                let port =
                    value.as_integer().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
                draft.port = port.or(draft.port);
            }
            "checks" | "http_checks" => {
                let checks = value.as_array().into_iter().flatten();
                if !take_path(checks.into_iter().find_map(|check| check.get("path")?.as_str()), draft) {
                    left.push(key.clone());
                }
            }
            "tcp_checks" | "protocol" | "processes" => {}
            _ => left.push(key.clone()),
        }
    }
    if left.is_empty() { Rest::Nothing } else { Rest::Some(left) }
}

fn take_path(path: Option<&str>, draft: &mut Draft) -> bool {
    let Some(path) = path else { return false };
    let path = format!("/{}", path.trim_start_matches('/'));
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return false;
    }
    draft.check = Some(Check::Path { path, from: "from fly.toml".to_owned() });
    true
}

fn take_deploy(deploy: &Table, draft: &mut Draft) -> Rest {
    let mut left = Vec::new();
    for (key, value) in deploy {
        match (key.as_str(), value.as_str()) {
            ("release_command", Some(command)) => {
                draft.migrate = Some(Migrate::Command(relative(command, "/app")));
            }
            ("strategy", Some(strategy @ ("rolling" | "immediate"))) => {
                draft.deploy.push(("strategy", quoted(strategy)));
            }
            _ => left.push(key.clone()),
        }
    }
    if left.is_empty() { Rest::Nothing } else { Rest::Some(left) }
}

/// They are the app's there and a process's here. How long a process with a listener may take is another key.
fn add_kill(fly: &Table, draft: &mut Draft) {
    let signal = fly.get("kill_signal").and_then(Value::as_str).filter(|signal| SIGNALS.contains(signal));
    let timeout = fly.get("kill_timeout").and_then(seconds);
    for process in &mut draft.processes {
        process.keys.extend(signal.map(|signal| ("kill_signal", quoted(signal))));
        if let Some(timeout) = timeout.filter(|_| process.name != "web") {
            process.keys.push(("kill_timeout", format!("\"{timeout}s\"")));
        }
    }
    if let Some(timeout) = timeout {
        draft.deploy.push(("drain_timeout", format!("\"{timeout}s\"")));
    }
}

/// `5`, `"5s"`, `"5"` or `"2m"`.
fn seconds(value: &Value) -> Option<u64> {
    let seconds = match value {
        Value::Integer(seconds) => u64::try_from(*seconds).ok()?,
        Value::String(text) => match text.strip_suffix('m') {
            Some(minutes) => minutes.parse::<u64>().ok()?.checked_mul(60)?,
            None => text.trim_end_matches('s').parse().ok()?,
        },
        _ => return None,
    };
    (1..=86_400).contains(&seconds).then_some(seconds)
}
