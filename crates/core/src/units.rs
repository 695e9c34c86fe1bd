//! The text of every systemd unit, and the names of units, users and folders.
//!
//! Units are real files: `systemctl cat` shows the truth. Nothing in them needs the agent: PID 1 starts,
//! restarts and wakes an app from them alone.

mod epmd;
mod quote;
mod sandbox;
mod surroundings;
mod text;

use std::fmt::Write as _;

use deployd_api::ids::{AppName, ListenerName, ProcessName};
use deployd_api::spec::{Address, Drain, Handoff, Process, Spec};

use crate::action::{Instance, Socket, UnitFile};
use crate::state::{Release, Tag};

pub use epmd::{EPMD, epmd_file, epmd_program, epmd_wanted};
pub use sandbox::{Setting, Value, sandbox};
pub use surroundings::Surroundings;

/// Where units are written.
pub const UNIT_DIR: &str = "/etc/systemd/system";
/// Where the state of apps stands, kept over releases.
pub const STATE_DIR: &str = "/var/lib/deployd-apps";
/// What stands for the process in the name of a migration's unit, and in the app's logs.
pub const MIGRATE: &str = "migrate";

/// The user of an app.
pub fn user(app: &AppName) -> String {
    format!("dpl-{app}")
}

/// How the names of all of an app's sockets and services begin.
pub fn prefix(app: &AppName) -> String {
    format!("deployd-{}-", app.unit_part())
}

/// The slice of an app.
pub fn slice(app: &AppName) -> String {
    format!("deployd-{}.slice", app.unit_part())
}

/// The target that decides what boots.
pub fn target(app: &AppName) -> String {
    format!("deployd-{}.target", app.unit_part())
}

/// The template of a process of one activation.
pub fn template(app: &AppName, process: &ProcessName, tag: Tag) -> String {
    format!("deployd-{}-{}-{tag}@.service", app.unit_part(), process.unit_part())
}

/// One instance of a process of one activation.
pub fn instance(app: &AppName, process: &ProcessName, tag: Tag, number: u32) -> Instance {
    let unit = format!("deployd-{}-{}-{tag}@{number}.service", app.unit_part(), process.unit_part());
    Instance { unit, tag, process: process.clone(), number }
}

/// The template of the proxy in front of a listener with `handoff = "port"`. `_proxy_` cannot come from a
/// process name (a name never ends in `-`), so it cannot collide with a process's template.
pub fn proxy_template(app: &AppName, listener: &ListenerName, tag: Tag) -> String {
    format!("deployd-{}-{}_proxy_-{tag}@.service", app.unit_part(), listener.unit_part())
}

/// The transient unit of a migration. Without an `@` it is no instance of a process of that name.
pub fn migration(app: &AppName, tag: Tag) -> String {
    format!("deployd-{}-{MIGRATE}-{tag}.service", app.unit_part())
}

/// A listener of one activation.
pub fn socket(app: &AppName, name: &ListenerName, address: &Address, tag: Tag) -> Socket {
    let unit = match address {
        // A Unix socket has no group: one unit that every release shares, without a label.
        Address::Unix { .. } => format!("deployd-{}-{}.socket", app.unit_part(), name.unit_part()),
        Address::Any { .. } | Address::Ip { .. } => {
            format!("deployd-{}-{}-{tag}.socket", app.unit_part(), name.unit_part())
        }
    };
    Socket { unit, tag, listener: name.clone(), address: address.clone() }
}

/// One activation of a release: everything that is named after it.
#[derive(Debug, Clone, Copy)]
pub struct Activation<'a> {
    /// Which.
    pub tag: Tag,
    /// The release.
    pub release: &'a Release,
}

impl Activation<'_> {
    /// Its spec.
    pub fn spec(&self) -> &Spec {
        self.release.spec_of(self.tag)
    }

    /// Its sockets, in the order of their names.
    pub fn sockets(&self) -> Vec<Socket> {
        let spec = self.spec();
        spec.listen.iter().map(|(name, l)| socket(&spec.app, name, &l.address, self.tag)).collect()
    }

    /// The sockets that a process serves.
    pub fn sockets_of(&self, process: &ProcessName) -> Vec<Socket> {
        let spec = self.spec();
        spec.listeners_of(process).map(|(name, l)| socket(&spec.app, name, &l.address, self.tag)).collect()
    }

    /// The instances of a process; for `handoff = "port"` its proxies are not among them.
    pub fn instances_of(&self, process: &ProcessName) -> Vec<Instance> {
        let spec = self.spec();
        let count = spec.processes.get(process).map_or(0, |p| p.instances);
        (1..=count).map(|n| instance(&spec.app, process, self.tag, n)).collect()
    }

    /// Every instance.
    pub fn instances(&self) -> Vec<Instance> {
        self.processes().iter().flat_map(|p| self.instances_of(p)).collect()
    }

    /// The proxies in front of a process, one an instance for each of its `port` listeners.
    pub fn proxies_of(&self, process: &ProcessName) -> Vec<Instance> {
        let spec = self.spec();
        let count = spec.processes.get(process).map_or(0, |p| p.instances);
        let ported = spec.listeners_of(process).filter(|(_, l)| l.handoff == Handoff::Port);
        ported
            .flat_map(|(name, _)| {
                let template = proxy_template(&spec.app, name, self.tag);
                (1..=count).map(move |number| Instance {
                    unit: template.replace("@.", &format!("@{number}.")),
                    tag: self.tag,
                    process: process.clone(),
                    number,
                })
            })
            .collect()
    }

    /// The processes, so that what another one waits for comes first.
    pub fn processes(&self) -> Vec<ProcessName> {
        let spec = self.spec();
        let mut sorted: Vec<ProcessName> = Vec::new();
        let mut rest: Vec<&ProcessName> = spec.processes.keys().collect();
        while !rest.is_empty() {
            let ready = rest.iter().position(|name| {
                let p = &spec.processes[*name];
                p.after
                    .iter()
                    .chain(&p.requires)
                    .all(|dep| !rest.iter().any(|r| r.as_str() == dep) || dep == name.as_str())
            });
            // A circle cannot be served; the spec's check refuses it, and here the order just falls back.
            sorted.push(rest.remove(ready.unwrap_or(0)).clone());
        }
        sorted
    }

    /// Folders that a process may write, and where they are mounted in the tree.
    fn mounts(&self, process: &Process) -> Vec<(String, String)> {
        let tree = &self.release.tree;
        let private = tree.replace("/releases/", "/writable/");
        let kept = format!("{STATE_DIR}/{}/shared", self.spec().app);
        let inside = |path: &String| format!("{tree}/{path}");
        let writable = process.writable.iter().map(|p| (format!("{private}/{}", folder_name(p)), inside(p)));
        // What is kept stands under its own path, for people who look for it.
        let shared = process.shared.iter().map(|p| (format!("{kept}/{p}"), inside(p)));
        let mut mounts: Vec<(String, String)> = writable.chain(shared).collect();
        // The outer one first: what is mounted inside another mount comes after it.
        mounts.sort_by(|a, b| a.1.cmp(&b.1));
        mounts.dedup();
        mounts
    }

    /// The folders of the tree that are private to the release.
    pub fn writable(&self) -> Vec<String> {
        let mut paths: Vec<String> =
            self.spec().processes.values().flat_map(|p| p.writable.clone()).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The folders of the tree that are kept over releases.
    pub fn shared(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.spec().processes.values().flat_map(|p| p.shared.clone()).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// A command's words with its program resolved: relative with a `/` means the release's tree.
    pub fn command(&self, words: &[String]) -> Vec<String> {
        let mut words = words.to_vec();
        if let Some(program) = words.first_mut()
            && program.contains('/')
            && !program.starts_with('/')
        {
            *program = format!("{}/{}", self.release.tree, program.trim_start_matches("./"));
        }
        words
    }

    /// A command of its own beside the processes, behind the trampoline: that finds the program as it finds theirs.
    pub fn one_off(&self, words: &[String]) -> Vec<String> {
        let trampoline = format!("{}/deployd-exec", self.release.runtime);
        [trampoline, "run".to_owned(), "--".to_owned()].into_iter().chain(self.command(words)).collect()
    }

    /// The port before the private ports of a process: those of the processes before it come first.
    pub fn base_port(&self, process: &ProcessName) -> u16 {
        let spec = self.spec();
        let before = spec.processes.range(..process).filter(|(name, _)| spec.has_private_port(name));
        let taken: u32 = before.map(|(_, p)| p.instances).sum();
        self.release.base_port.saturating_add(u16::try_from(taken).unwrap_or(u16::MAX))
    }

    /// Whether a process with a listener may take for ever to end.
    pub fn drains_without_limit(&self) -> bool {
        self.spec().deploy.drain_timeout == Drain::Unlimited
    }

    /// The unit files of its sockets.
    pub fn socket_files(&self) -> Vec<UnitFile> {
        let named = self.spec().listen.keys().zip(self.sockets());
        named.map(|(n, s)| UnitFile { path: path(&s.unit), content: self.socket_text(n, &s) }).collect()
    }

    /// The paths of [`Self::files`].
    pub fn file_paths(&self) -> Vec<String> {
        let spec = self.spec();
        let mut units: Vec<String> = self.sockets().into_iter().map(|s| s.unit).collect();
        let ported = spec.listen.iter().filter(|(_, l)| l.handoff == Handoff::Port);
        units.extend(ported.map(|(name, _)| proxy_template(&spec.app, name, self.tag)));
        units.extend(spec.processes.keys().map(|name| template(&spec.app, name, self.tag)));
        units.iter().map(|unit| path(unit)).collect()
    }

    /// Every unit file of this activation.
    pub fn files(
        &self,
        host: &str,
        region: Option<&str>,
        nonblocking: &dyn Fn(&ProcessName) -> bool,
    ) -> Vec<UnitFile> {
        let spec = self.spec();
        let mut files = Vec::new();
        for (name, listener) in &spec.listen {
            let socket = socket(&spec.app, name, &listener.address, self.tag);
            files.push(UnitFile { path: path(&socket.unit), content: self.socket_text(name, &socket) });
            if listener.handoff == Handoff::Port {
                let unit = proxy_template(&spec.app, name, self.tag);
                files.push(UnitFile { path: path(&unit), content: self.proxy_text(name, &socket) });
            }
        }
        for process in self.processes() {
            let unit = template(&spec.app, &process, self.tag);
            let content = self.service_text(&process, host, region, nonblocking(&process));
            files.push(UnitFile { path: path(&unit), content });
        }
        files
    }

    /// The paths of all drop-ins that it may have.
    pub fn drop_ins(&self) -> Vec<String> {
        let app = &self.spec().app;
        let of = |p: &ProcessName| [nonblocking_drop_in(app, p, self.tag), after_drop_in(app, p, self.tag)];
        self.processes().iter().flat_map(of).collect()
    }

    /// Drop-ins that order its starts after the ends of another activation's processes with listeners:
    /// PID 1 runs a stop before a start that is ordered against it, whoever asked for either.
    pub fn after_files(&self, other: Activation<'_>) -> Vec<UnitFile> {
        let of = |p: &ProcessName| other.instances_of(p).into_iter().chain(other.proxies_of(p));
        let served = other.processes().into_iter().filter(|p| !other.sockets_of(p).is_empty());
        let units: Vec<String> = served.flat_map(|p| of(&p).collect::<Vec<_>>()).map(|i| i.unit).collect();
        if units.is_empty() {
            return vec![];
        }
        let app = &self.spec().app;
        let content = format!("# Not beside what it replaces.\n[Unit]\nAfter={}\n", units.join(" "));
        let with_listeners = self.processes().into_iter().filter(|p| !self.sockets_of(p).is_empty());
        with_listeners
            .map(|p| UnitFile { path: after_drop_in(app, &p, self.tag), content: content.clone() })
            .collect()
    }

    /// The app's target: what boots.
    pub fn target_file(&self) -> UnitFile {
        let app = &self.spec().app;
        let mut t = format!(
            "# What of {app} boots: written by deployd at commit, by one rename.\n[Unit]\nDescription={app} {}\n",
            self.tag.label
        );
        for s in self.sockets() {
            let _ = writeln!(t, "Wants={}", s.unit);
        }
        for p in self.processes() {
            for i in self.instances_of(&p).into_iter().chain(self.proxies_of(&p)) {
                let _ = writeln!(t, "Wants={}", i.unit);
            }
        }
        t.push_str("\n[Install]\nWantedBy=multi-user.target\n");
        UnitFile { path: path(&target(app)), content: t }
    }
}

/// A target that boots nothing: the app was stopped on purpose.
pub fn stopped_target(app: &AppName) -> UnitFile {
    let content = format!(
        "# {app} was stopped on purpose: deployd-ctl --local start -a {app}\n[Unit]\nDescription={app}, stopped\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    UnitFile { path: path(&target(app)), content }
}

/// The slice of an app.
pub fn slice_file(app: &AppName) -> UnitFile {
    let content = format!("# Every process of {app}: written by deployd.\n[Unit]\nDescription={app}\n");
    UnitFile { path: path(&slice(app)), content }
}

/// The link that makes the target part of the boot.
pub fn wanted_by(app: &AppName) -> String {
    format!("{UNIT_DIR}/multi-user.target.wants/{}", target(app))
}

/// The drop-in that says what was learned of a process.
pub fn nonblocking_drop_in(app: &AppName, process: &ProcessName, tag: Tag) -> String {
    format!("{UNIT_DIR}/{}.d/50-nonblocking.conf", template(app, process, tag))
}

/// The drop-in that orders a process's starts.
fn after_drop_in(app: &AppName, process: &ProcessName, tag: Tag) -> String {
    format!("{UNIT_DIR}/{}.d/60-after.conf", template(app, process, tag))
}

/// The path of a unit's file.
pub fn path(unit: &str) -> String {
    format!("{UNIT_DIR}/{unit}")
}

/// A folder name for a path: readable, unique, and without a character that systemd gives a meaning.
pub fn folder_name(path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let readable: String = path.chars().map(plain).take(40).collect();
    format!("{}-{}", readable.trim_start_matches('.'), deployd_api::ids::Digest::of(path.as_bytes()).short())
}
