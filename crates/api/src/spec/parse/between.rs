//! Rules between sections: listeners against each other and against their processes, folders, ordering.
//!
//! Pure; the parser tells them with their lines, [`Spec::check`] for a document that no parser made here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::fields::did_you_mean;
use crate::ids::{ListenerName, ProcessName};
use crate::spec::check::{Fault, is_unit_name};
use crate::spec::{Address, Handoff, Listener, Spec};

/// The names that there are, also of sections with errors of their own.
#[derive(Debug)]
pub(in crate::spec) struct Known<'a> {
    /// Of processes.
    pub(in crate::spec) processes: BTreeSet<&'a str>,
    /// Of listeners.
    pub(in crate::spec) listeners: BTreeSet<&'a str>,
}

impl<'a> Known<'a> {
    /// Those of a spec.
    pub(in crate::spec) fn of(spec: &'a Spec) -> Self {
        Self {
            processes: spec.processes.keys().map(ProcessName::as_str).collect(),
            listeners: spec.listen.keys().map(ListenerName::as_str).collect(),
        }
    }
}

/// What breaks a rule between sections.
pub(in crate::spec) fn faults(spec: &Spec, known: &Known<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_addresses(spec, &mut faults);
    check_handoffs(spec, known, &mut faults);
    check_folders(spec, &mut faults);
    check_order(spec, known, &mut faults);
    faults
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

fn check_addresses(spec: &Spec, faults: &mut Vec<Fault>) {
    let all: Vec<(&ListenerName, &Listener)> = spec.listen.iter().collect();
    for (i, (name, listener)) in all.iter().enumerate() {
        let clash = all[..i].iter().find(|(_, other)| same_socket(&listener.address, &other.address));
        if let Some((other, _)) = clash {
            let what = format!("`{}` is the address of `{other}` too", listener.address);
            faults.push(Fault::new(
                &["listen", name.as_str(), "address"],
                what,
                "each listener needs its own",
            ));
        }
    }
}

fn check_handoffs(spec: &Spec, known: &Known<'_>, faults: &mut Vec<Fault>) {
    for (name, process) in &spec.processes {
        let own: BTreeMap<&ListenerName, &Listener> = spec.listeners_of(name).collect();
        if !process.overlap && !own.is_empty() {
            let what = "is false, and the process has a listener";
            let hint = "remove it and set strategy = \"immediate\" in [deploy]: clients wait in the listener";
            faults.push(Fault::new(&["processes", name.as_str(), "overlap"], what, hint));
        }
        check_exclusive(&own, faults);
        check_arguments(spec, name, known, faults);
    }
}

/// Descriptor 0 and `PORT` exist once in a process.
fn check_exclusive(own: &BTreeMap<&ListenerName, &Listener>, faults: &mut Vec<Fault>) {
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
            faults.push(Fault::new(&["listen", name.as_str(), "handoff"], what, "use another handoff"));
        }
    }
}

/// `{fd:NAME}` in `exec` and `handoff = "arg"` need one another.
fn check_arguments(spec: &Spec, name: &ProcessName, known: &Known<'_>, faults: &mut Vec<Fault>) {
    let Some(process) = spec.processes.get(name) else { return };
    let used: BTreeSet<&str> = process.exec.iter().flat_map(|word| placeholders(word)).collect();
    let own = || spec.listeners_of(name).filter(|(_, l)| l.handoff == Handoff::Arg).map(|(n, _)| n.as_str());
    for listener in own().filter(|n| !used.contains(n)) {
        let what = format!("`arg` needs {{fd:{listener}}} in exec of `{name}`");
        let hint = "add it where the number shall stand";
        faults.push(Fault::new(&["listen", listener, "handoff"], what, hint));
    }
    for wanted in used {
        let unreadable =
            known.listeners.contains(wanted) && !spec.listen.keys().any(|n| n.as_str() == wanted);
        if unreadable || own().any(|n| n == wanted) {
            continue;
        }
        let what = format!("{{fd:{wanted}}} needs a listener `{wanted}` of this process");
        let hint = "add it to [listen] with handoff = \"arg\"";
        faults.push(Fault::new(&["processes", name.as_str(), "exec"], what, hint));
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
fn check_folders(spec: &Spec, faults: &mut Vec<Fault>) {
    for (name, process) in &spec.processes {
        for shared in &process.shared {
            let mut private = spec.processes.values().flat_map(|p| &p.writable);
            if let Some(folder) = private.find(|w| overlaps(w, shared)) {
                let what = format!("`{shared}` and the writable folder `{folder}` overlap");
                let hint = "keep each folder in one of the two lists";
                faults.push(Fault::new(&["processes", name.as_str(), "shared"], what, hint));
            }
        }
    }
}

fn check_order(spec: &Spec, known: &Known<'_>, faults: &mut Vec<Fault>) {
    let names = &known.processes;
    for (name, process) in &spec.processes {
        for (key, list) in [("after", &process.after), ("requires", &process.requires)] {
            for wanted in list.iter().filter(|w| !is_unit_name(w) && !names.contains(w.as_str())) {
                let hint = did_you_mean(wanted, names.iter().copied())
                    .unwrap_or_else(|| format!("write `{wanted}.service` for a unit of the host"));
                let what = format!("there is no process `{wanted}`");
                faults.push(Fault::new(&["processes", name.as_str(), key], what, hint));
            }
        }
        if waits_for(spec, name, name) {
            let key = if process.after.is_empty() { "requires" } else { "after" };
            let what = "the process waits for itself";
            let hint = "break the circle of after and requires";
            faults.push(Fault::new(&["processes", name.as_str(), key], what, hint));
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
