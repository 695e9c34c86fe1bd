//! Rules between sections: listeners against each other and against their processes, folders, ordering.
//!
//! They run over what could be read, so a section with an error of its own is not blamed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fields::{Section, did_you_mean};
use super::process::is_unit_name;
use crate::ids::{ListenerName, ProcessName};
use crate::spec::{Address, Handoff, Listener, Spec};

/// Records what breaks a rule between sections.
pub(super) fn check(spec: &Spec, processes: Option<&Section<'_>>, listeners: Option<&Section<'_>>) {
    if let Some(section) = listeners {
        check_addresses(spec, section);
    }
    if let Some(section) = processes {
        check_handoffs(spec, section, listeners);
        check_folders(spec, section);
        check_order(spec, section);
    }
}

/// Reports on a key of `[section.name]`, or on the table when the key is not there.
fn report(section: &Section<'_>, name: &str, key: &str, what: String, hint: &str) {
    let Some(field) = section.get(name) else { return };
    let hint = Some(hint.to_owned());
    match field.free_section().and_then(|s| s.get(key)) {
        Some(inner) => inner.fail(what, hint),
        None => field.fail(what, hint),
    }
}

/// Whether the kernel would see two sockets where the spec means one address each.
fn same_socket(a: &Address, b: &Address) -> bool {
    let wildcard = |ip: &IpAddr| ip.is_unspecified();
    match (a, b) {
        (Address::Any { port: any }, Address::Ip { ip, port })
        | (Address::Ip { ip, port }, Address::Any { port: any }) => any == port && wildcard(ip),
        _ => a == b,
    }
}

fn check_addresses(spec: &Spec, section: &Section<'_>) {
    let all: Vec<(&ListenerName, &Listener)> = spec.listen.iter().collect();
    for (i, (name, listener)) in all.iter().enumerate() {
        let clash = all[..i].iter().find(|(_, other)| same_socket(&listener.address, &other.address));
        if let Some((other, _)) = clash {
            let what = format!("`{}` is the address of `{other}` too", listener.address);
            report(section, name.as_str(), "address", what, "each listener needs its own");
        }
    }
}

fn check_handoffs(spec: &Spec, section: &Section<'_>, listeners: Option<&Section<'_>>) {
    for (name, process) in &spec.processes {
        let own: BTreeMap<&ListenerName, &Listener> = spec.listeners_of(name).collect();
        if !process.overlap && !own.is_empty() {
            let what = "is false, and the process has a listener".to_owned();
            let hint = "remove it and set strategy = \"immediate\" in [deploy]: clients wait in the listener";
            report(section, name.as_str(), "overlap", what, hint);
        }
        if let Some(listeners) = listeners {
            check_exclusive(&own, listeners);
        }
        check_arguments(spec, name, section, listeners);
    }
}

/// Descriptor 0 and `PORT` exist once in a process.
fn check_exclusive(own: &BTreeMap<&ListenerName, &Listener>, section: &Section<'_>) {
    for (name, listener) in own {
        let (what, alone) = match listener.handoff {
            Handoff::Stdin => ("descriptor 0 is one listener, and the process has several", own.len() == 1),
            Handoff::Port => {
                let others = own.values().filter(|l| l.handoff == Handoff::Port).count();
                ("PORT is one port, and the process has several such listeners", others == 1)
            }
            Handoff::Auto | Handoff::Activation | Handoff::Bind | Handoff::Arg => continue,
        };
        if !alone {
            report(section, name.as_str(), "handoff", what.to_owned(), "use another handoff");
        }
    }
}

/// `{fd:NAME}` in `exec` and `handoff = "arg"` need one another.
fn check_arguments(
    spec: &Spec,
    name: &ProcessName,
    processes: &Section<'_>,
    listeners: Option<&Section<'_>>,
) {
    let Some(process) = spec.processes.get(name) else { return };
    let used: BTreeSet<&str> = process.exec.iter().flat_map(|word| placeholders(word)).collect();
    let own = || spec.listeners_of(name).filter(|(_, l)| l.handoff == Handoff::Arg).map(|(n, _)| n.as_str());
    if let Some(section) = listeners {
        for listener in own().filter(|n| !used.contains(n)) {
            let what = format!("`arg` needs {{fd:{listener}}} in exec of `{name}`");
            report(section, listener, "handoff", what, "add it where the number shall stand");
        }
    }
    for wanted in used {
        let unreadable = listeners.is_some_and(|s| s.get(wanted).is_some())
            && !spec.listen.keys().any(|n| n.as_str() == wanted);
        if unreadable || own().any(|n| n == wanted) {
            continue;
        }
        let what = format!("{{fd:{wanted}}} needs a listener `{wanted}` of this process");
        report(processes, name.as_str(), "exec", what, "add it to [listen] with handoff = \"arg\"");
    }
}

/// The names in `{fd:NAME}` of a word.
fn placeholders(word: &str) -> impl Iterator<Item = &str> {
    word.split("{fd:").skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

/// Whether one folder is the other or lies in it.
fn overlaps(a: &str, b: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    inside(a, b) || inside(b, a)
}

/// A folder belongs to one release or to all of them, whichever process names it.
fn check_folders(spec: &Spec, section: &Section<'_>) {
    for (name, process) in &spec.processes {
        for shared in &process.shared {
            let mut private = spec.processes.values().flat_map(|p| &p.writable);
            if let Some(folder) = private.find(|w| overlaps(w, shared)) {
                let what = format!("`{shared}` and the writable folder `{folder}` overlap");
                report(section, name.as_str(), "shared", what, "keep each folder in one of the two lists");
            }
        }
    }
}

fn check_order(spec: &Spec, section: &Section<'_>) {
    let names: BTreeSet<&str> = section.fields().map(|f| f.name).collect();
    for (name, process) in &spec.processes {
        for (key, list) in [("after", &process.after), ("requires", &process.requires)] {
            for wanted in list.iter().filter(|w| !is_unit_name(w) && !names.contains(w.as_str())) {
                let hint = did_you_mean(wanted, names.iter().copied())
                    .unwrap_or_else(|| format!("write `{wanted}.service` for a unit of the host"));
                report(section, name.as_str(), key, format!("there is no process `{wanted}`"), &hint);
            }
        }
        if waits_for(spec, name, name) {
            let key = if process.after.is_empty() { "requires" } else { "after" };
            let what = "the process waits for itself".to_owned();
            report(section, name.as_str(), key, what, "break the circle of after and requires");
        }
    }
}

/// Whether `from` comes after `target`, directly or through others.
fn waits_for(spec: &Spec, from: &ProcessName, target: &ProcessName) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.as_str()];
    while let Some(name) = open.pop() {
        let process = spec.processes.iter().find(|(n, _)| n.as_str() == name).map(|(_, p)| p);
        for next in process.iter().flat_map(|p| p.after.iter().chain(&p.requires)) {
            if next == target.as_str() {
                return true;
            }
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    false
}
