//! A host that carries out every action on a model: PID 1's units, the kernel's reuseport groups with
//! their real index rules (`research`: index = order of listen, the last member moves into a hole, a
//! program's index out of range reaches any member), files, users, trees. It reads the unit files that
//! the plan wrote, as systemd does; it never looks at the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use deployd_api::ids::AppName;
use deployd_core::action::{Action, Socket, Trial};
use deployd_core::facts::Epmd;
use deployd_core::state::{AppState, Change};
use deployd_core::units::{self, EPMD};

/// Where the plans keep the program of epmd.
pub(crate) const EPMD_PROGRAM: &str = "/var/lib/deployd/runtime/epmd/epmd";

/// Whether a process serves, or was told to end and still holds what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Active,
    Ending,
}

#[derive(Debug, Clone)]
struct Process {
    life: Life,
    holds: BTreeSet<u32>,
    /// Whether it was started with `Wants=` on epmd.
    named: bool,
}

/// The model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    files: BTreeMap<String, Arc<str>>,
    users: BTreeSet<String>,
    trees: BTreeSet<String>,
    dirs: BTreeSet<String>,
    next: u32,
    /// Which group each kernel socket is in; none for Unix sockets.
    sockets: BTreeMap<u32, Option<String>>,
    groups: BTreeMap<String, Vec<u32>>,
    program: BTreeMap<String, usize>,
    pid1: BTreeMap<String, u32>,
    /// The `Service=` with which a socket unit was loaded.
    wakes: BTreeMap<String, String>,
    processes: BTreeMap<String, Process>,
    agent: BTreeMap<String, u32>,
    /// Units of migrations that ran in this boot and were not cleared.
    migrations: BTreeSet<String>,
    /// How often each migration ran.
    applied: BTreeMap<String, u32>,
}

/// What can be compared between two hosts that went different ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) files: BTreeMap<String, Arc<str>>,
    pub(crate) users: BTreeSet<String>,
    pub(crate) trees: BTreeSet<String>,
    pub(crate) dirs: BTreeSet<String>,
    pub(crate) processes: Vec<String>,
    pub(crate) listening: Vec<String>,
    pub(crate) groups: BTreeMap<String, Vec<String>>,
    pub(crate) migrations: BTreeSet<String>,
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
}

fn template(unit: &str) -> String {
    match (unit.find('@'), unit.rfind('.')) {
        (Some(at), Some(dot)) if at < dot => format!("{}@{}", &unit[..at], &unit[dot..]),
        _ => unit.to_owned(),
    }
}

impl Host {
    fn text(&self, unit: &str) -> Result<&Arc<str>, String> {
        self.files.get(&units::path(&template(unit))).ok_or_else(|| format!("no unit {unit}"))
    }

    fn open(&mut self, unit: &str) -> Result<u32, String> {
        if let Some(id) = self.pid1.get(unit) {
            return Ok(*id);
        }
        let text = self.text(unit)?.clone();
        let address = value(&text, "ListenStream").ok_or("no address")?.to_owned();
        let group = (value(&text, "ReusePort") == Some("yes")).then_some(address);
        self.next += 1;
        let id = self.next;
        if let Some(group) = &group {
            self.groups.entry(group.clone()).or_default().push(id);
        }
        self.sockets.insert(id, group);
        self.pid1.insert(unit.to_owned(), id);
        let wakes = value(&text, "Service").ok_or("no service")?;
        self.wakes.insert(unit.to_owned(), wakes.to_owned());
        Ok(id)
    }

    fn start(&mut self, unit: &str) -> Result<(), String> {
        if self.processes.get(unit).is_some_and(|p| p.life == Life::Active) {
            return Ok(());
        }
        // A start waits for the end of the one that stops, and of those it is ordered after.
        self.end(unit);
        for other in self.waits_for(unit) {
            self.end(&other);
        }
        let text = self.text(unit)?.clone();
        let mut holds = BTreeSet::new();
        for socket in value(&text, "Sockets").unwrap_or_default().split_whitespace() {
            // `Sockets=` implies `Wants=`.
            holds.insert(self.open(socket)?);
        }
        let named = text.lines().any(|l| l == units::epmd_wanted());
        if named {
            self.start_epmd();
        }
        self.processes.insert(unit.to_owned(), Process { life: Life::Active, holds, named });
        Ok(())
    }

    /// What ends and must have ended before this unit starts.
    fn waits_for(&self, unit: &str) -> Vec<String> {
        let drop_in = format!("{}.d/60-after.conf", units::path(&template(unit)));
        let after = self.files.get(&drop_in).and_then(|t| value(t, "After")).unwrap_or_default();
        let ends = |u: &&str| self.processes.get(*u).is_some_and(|p| p.life == Life::Ending);
        after.split_whitespace().filter(ends).map(str::to_owned).collect()
    }

    /// What is only wanted and not there is no failure.
    fn start_epmd(&mut self) {
        if self.files.contains_key(&units::path(EPMD)) && !self.processes.contains_key(EPMD) {
            let epmd = Process { life: Life::Active, holds: BTreeSet::new(), named: false };
            self.processes.insert(EPMD.to_owned(), epmd);
        }
    }

    /// Whether another app has a template that asks for epmd.
    fn others_want_epmd(&self, app: &AppName) -> bool {
        let own = units::path(&format!("deployd-{}-", app.unit_part()));
        let wants = |text: &Arc<str>| text.lines().any(|l| l == units::epmd_wanted());
        self.files.iter().any(|(path, text)| !path.starts_with(&own) && wants(text))
    }

    /// What the agent tells a plan of it.
    pub(crate) fn epmd(&self, app: &AppName) -> Epmd {
        match self.files.contains_key(&units::path(EPMD)) {
            false => Epmd::Missing,
            true if self.others_want_epmd(app) => Epmd::Shared,
            true => Epmd::Unshared,
        }
    }

    /// Another app with a BEAM release, which runs.
    pub(crate) fn add_neighbour(&mut self) {
        let unit = "deployd-other-web-v1@1.service";
        self.files.insert(units::path(&template(unit)), units::epmd_wanted().into());
        self.files.insert(units::path(EPMD), "epmd".into());
        self.files.insert(EPMD_PROGRAM.to_owned(), "program".into());
        self.start(unit).unwrap();
    }

    /// A node that was started with epmd has it as long as it runs.
    pub(crate) fn nameless_node(&self) -> Option<&String> {
        let named = self.processes.iter().find(|(_, p)| p.named).map(|(unit, _)| unit);
        named.filter(|_| !self.processes.contains_key(EPMD))
    }

    fn end(&mut self, unit: &str) {
        self.processes.remove(unit);
        self.reap();
    }

    /// A socket is in its group as long as somebody holds it.
    fn reap(&mut self) {
        let mut held: BTreeSet<u32> = self.pid1.values().chain(self.agent.values()).copied().collect();
        held.extend(self.processes.values().flat_map(|p| p.holds.iter()));
        let gone: Vec<u32> = self.sockets.keys().filter(|id| !held.contains(id)).copied().collect();
        for id in gone {
            self.leave(id);
            self.sockets.remove(&id);
        }
    }

    fn leave(&mut self, id: u32) {
        let Some(Some(group)) = self.sockets.get(&id) else { return };
        let group = group.clone();
        let Some(members) = self.groups.get_mut(&group) else { return };
        if let Some(at) = members.iter().position(|m| *m == id) {
            members.swap_remove(at);
        }
        if members.is_empty() {
            self.groups.remove(&group);
            self.program.remove(&group);
        }
    }

    /// Members that new connections may reach.
    fn targets(&self, group: &str) -> Vec<u32> {
        let members = self.groups.get(group).cloned().unwrap_or_default();
        match self.program.get(group).and_then(|i| members.get(*i)) {
            Some(one) => vec![*one],
            None => members,
        }
    }

    /// A connection arrives everywhere: PID 1 starts what its sockets wake.
    pub(crate) fn connect_everywhere(&mut self) {
        let targets: BTreeSet<u32> = self.groups.keys().flat_map(|g| self.targets(g)).collect();
        let reached = |id: &u32| targets.contains(id) || self.sockets.get(id) == Some(&None);
        let units: Vec<String> =
            self.pid1.iter().filter(|(_, id)| reached(id)).map(|(u, _)| u.clone()).collect();
        for unit in units {
            let service = self.wakes[&unit].clone();
            // The old one takes its time: the start that a connection causes waits.
            if !self.processes.contains_key(&service) && self.waits_for(&service).is_empty() {
                // A unit that is not there is a failure that `serves` sees.
                let _ = self.start(&service);
            }
        }
    }

    fn is_served(&self, id: u32) -> bool {
        self.processes.values().any(|p| p.life == Life::Active && p.holds.contains(&id))
    }

    /// What is wrong for the clients of this socket's address, if anything.
    pub(crate) fn complaint(&self, socket: &Socket, must_answer: bool) -> Option<String> {
        if !socket.is_grouped() {
            let Some(id) = self.pid1.get(&socket.unit) else {
                return Some(format!("{} does not listen", socket.unit));
            };
            return (must_answer && !self.is_served(*id)).then(|| format!("{} is not served", socket.unit));
        }
        let targets = self.targets(&socket.group());
        if targets.is_empty() {
            return Some(format!("nothing listens on {}", socket.group()));
        }
        let bad = targets.iter().find(|id| must_answer && !self.is_served(**id))?;
        Some(format!("{}: traffic reaches member {bad} that nobody serves: {self:#?}", socket.group()))
    }

    /// Which activations of a process have a running instance.
    pub(crate) fn runs(&self, prefix: &str) -> BTreeSet<String> {
        let tag = |u: &String| u.strip_prefix(prefix)?.split('@').next().map(str::to_owned);
        self.processes.keys().filter_map(tag).collect()
    }

    pub(crate) fn is_active(&self, unit: &str) -> bool {
        self.processes.get(unit).is_some_and(|p| p.life == Life::Active)
    }

    /// What was told to end ends.
    pub(crate) fn let_end(&mut self) {
        self.processes.retain(|_, p| p.life == Life::Active);
        self.reap();
    }

    /// The agent died. What it borrowed is in its FDSTORE, or lost; it borrows again what PID 1 has.
    pub(crate) fn restart_agent(&mut self, lost: bool) {
        if lost {
            self.agent.clear();
            self.reap();
        }
        for (unit, id) in &self.pid1 {
            self.agent.entry(unit.clone()).or_insert(*id);
        }
    }

    /// Nothing outlives a restart of the host but files; the target decides what boots.
    pub(crate) fn reboot(&mut self, target: &str) {
        self.processes.clear();
        self.pid1.clear();
        self.agent.clear();
        self.program.clear();
        self.migrations.clear();
        self.reap();
        let Some(text) = self.files.get(&units::path(target)).cloned() else { return };
        for unit in text.lines().filter_map(|l| l.strip_prefix("Wants=")) {
            let started =
                if unit.ends_with(".socket") { self.open(unit).map(drop) } else { self.start(unit) };
            started.unwrap_or_else(|e| panic!("boot: {e}"));
        }
        self.restart_agent(true);
    }

    pub(crate) fn file(&self, path: &str) -> Option<&Arc<str>> {
        self.files.get(path)
    }

    pub(crate) fn summary(&self) -> Summary {
        let owner = |id: &u32| self.pid1.iter().find(|(_, i)| *i == id).map(|(u, _)| u.clone());
        let name = |id: &u32| owner(id).unwrap_or_else(|| format!("stale member {id}"));
        // While nobody asks for it, epmd runs or not: a restart of the host ends it. Without its unit it must not.
        let asked = self.processes.values().any(|p| p.named);
        let there = asked || !self.files.contains_key(&units::path(EPMD));
        let processes = self.processes.iter().filter(|(unit, _)| there || *unit != EPMD);
        Summary {
            files: self.files.clone(),
            users: self.users.clone(),
            trees: self.trees.clone(),
            dirs: self.dirs.clone(),
            processes: processes.map(|(u, p)| format!("{u} {:?}", p.life)).collect(),
            listening: self.pid1.keys().cloned().collect(),
            groups: self.groups.iter().map(|(g, m)| (g.clone(), m.iter().map(name).collect())).collect(),
            migrations: self.migrations.clone(),
        }
    }

    fn judge(&self, trial: &Trial) -> Result<Vec<Change>, String> {
        match trial.instances.iter().find(|i| !self.is_active(&i.unit)) {
            Some(i) => Err(format!("{} is not up", i.unit)),
            None => Ok(vec![]),
        }
    }

    /// Carries out an action, and tells what it learned.
    pub(crate) fn execute(&mut self, action: &Action, state: &AppState) -> Result<Vec<Change>, String> {
        match action {
            Action::EnsureUser { user, .. } => drop(self.users.insert(user.clone())),
            Action::RemoveUser { user, .. } => drop(self.users.remove(user)),
            Action::Seal { tree, .. } => drop(self.trees.insert(tree.clone())),
            Action::RemoveTree { tree, .. } => drop(self.trees.remove(tree)),
            Action::PrepareDirs { app, .. } => drop(self.dirs.insert(format!("{}/{app}", units::STATE_DIR))),
            Action::RemoveDirs { dirs } => {
                let below = |d: &String| dirs.iter().any(|r| d == r || d.starts_with(&format!("{r}/")));
                self.dirs.retain(|d| !below(d));
            }
            Action::WriteFiles { files } => {
                self.files.extend(files.iter().map(|f| (f.path.clone(), f.content.as_str().into())));
            }
            Action::RemoveFiles { paths } => self.files.retain(|p, _| !paths.contains(p)),
            Action::EnsureEpmd { program, unit, .. } => {
                self.files.entry(program.clone()).or_insert_with(|| "program".into());
                self.files.entry(unit.path.clone()).or_insert_with(|| unit.content.as_str().into());
            }
            Action::RemoveEpmd { app, program } => {
                if !self.others_want_epmd(app) {
                    self.end(EPMD);
                    self.files.remove(&units::path(EPMD));
                    self.files.remove(program);
                }
            }
            Action::Migrate { unit, words, surroundings, .. } => {
                self.migrate(unit, words, &surroundings.tree)?;
            }
            Action::ClearMigration { unit } => drop(self.migrations.remove(unit)),
            Action::Steer { sockets, to, .. } => return self.steer(sockets, *to, state),
            Action::OpenListener { socket, .. } => {
                let id = self.open(&socket.unit)?;
                self.agent.insert(socket.unit.clone(), id);
                self.reap();
            }
            Action::CloseListener { socket } => {
                if let Some(id) = self.pid1.remove(&socket.unit) {
                    self.agent.entry(socket.unit.clone()).or_insert(id);
                }
                self.reap();
            }
            Action::LeaveGroup { socket } => return Ok(self.leave_group(socket)),
            Action::StartInstance { instance, .. } => self.start(&instance.unit)?,
            Action::StopInstance { instance, wait: true } => self.end(&instance.unit),
            Action::StopInstance { instance, wait: false } => {
                if let Some(p) = self.processes.get_mut(&instance.unit) {
                    p.life = Life::Ending;
                }
            }
            Action::RestartInstance { instance, .. } => {
                self.end(&instance.unit);
                self.start(&instance.unit)?;
            }
            Action::LearnNonblocking { first, drop_in, unit_says, .. } => {
                if !unit_says {
                    self.files.insert(drop_in.clone(), "[Service]\nNonBlocking=yes\n".into());
                }
                return Ok(vec![Change::Nonblocking { process: first.process.clone(), value: true }]);
            }
            Action::ReloadIfNeeded { units } => {
                for unit in units.iter().filter(|u| self.pid1.contains_key(*u)) {
                    let service = self.text(unit).ok().and_then(|t| value(t, "Service")).map(str::to_owned);
                    self.wakes.extend(service.map(|s| (unit.clone(), s)));
                }
            }
            Action::Check { trial, .. } | Action::Watch { trial, .. } => return self.judge(trial),
            Action::Commit { target, wanted_by } => {
                self.files.insert(wanted_by.clone(), "link".into());
                self.files.insert(target.path.clone(), target.content.as_str().into());
            }
            Action::Sweep { trees, .. } => self.trees.retain(|t| !trees.contains(t)),
            Action::ForgetApp { .. } => {
                // An app of the same name begins anew, at v1.
                self.applied.clear();
                self.agent.clear();
                self.reap();
            }
            Action::AwaitPort { instance, .. } if !self.is_active(&instance.unit) => {
                return Err(format!("{} is not up", instance.unit));
            }
            Action::Record { .. }
            | Action::AwaitPort { .. }
            | Action::AwaitCarried { .. }
            | Action::AwaitEmptyQueue { .. }
            | Action::Relay { .. } => {}
        }
        Ok(vec![])
    }

    /// One that is there is waited for.
    fn migrate(&mut self, unit: &str, words: &[String], tree: &str) -> Result<(), String> {
        if !self.trees.contains(tree) || self.users.is_empty() {
            return Err(format!("{words:?} has no files or no user"));
        }
        if self.migrations.insert(unit.to_owned()) {
            *self.applied.entry(unit.to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// How often each migration ran, whatever became of it.
    pub(crate) fn applied(&self) -> &BTreeMap<String, u32> {
        &self.applied
    }

    /// The rule of the agent: the position among those recorded members that listen.
    fn steer(
        &mut self,
        sockets: &[Socket],
        to: deployd_core::state::Tag,
        state: &AppState,
    ) -> Result<Vec<Change>, String> {
        let Some(group) = sockets.first().map(Socket::group) else { return Err("no socket".to_owned()) };
        if sockets.iter().any(|s| s.group() != group) {
            return Err("sockets of several groups".to_owned());
        }
        let in_kernel = |s: &&Socket| {
            let of_pid1 = self.pid1.get(&s.unit).copied();
            let of_agent = self.agent.get(&s.unit).copied();
            let member = |id: Option<u32>| id.is_some_and(|id| self.groups[&group].contains(&id));
            let service = |p: &Process| p.holds.iter().any(|id| self.groups[&group].contains(id));
            let prefix = s.unit.trim_end_matches(".socket");
            let tag = prefix.rsplit('-').next().unwrap_or_default();
            let held = self.processes.iter().any(|(u, p)| u.contains(&format!("-{tag}@")) && service(p));
            member(of_pid1) || member(of_agent) || held
        };
        if !self.groups.contains_key(&group) {
            return Ok(vec![]);
        }
        let recorded = state.groups.get(&group).cloned().unwrap_or_default();
        let index = recorded.iter().filter(in_kernel).position(|s| s.tag == to);
        if let Some(index) = index {
            self.program.insert(group, index);
        }
        Ok(vec![])
    }

    fn leave_group(&mut self, socket: &Socket) -> Vec<Change> {
        if self.pid1.contains_key(&socket.unit) {
            return vec![];
        }
        if let Some(id) = self.agent.remove(&socket.unit) {
            self.leave(id);
            self.sockets.insert(id, None);
            self.reap();
        } else {
            let tag = format!("-{}@", socket.tag);
            let held = self.processes.iter().any(|(u, p)| u.contains(&tag) && !p.holds.is_empty());
            if held {
                return vec![];
            }
        }
        if socket.is_grouped() { vec![Change::Left { socket: socket.clone() }] } else { vec![] }
    }
}
