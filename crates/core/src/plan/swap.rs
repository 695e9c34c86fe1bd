//! The building blocks of a swap: bring an activation up, send it the traffic, take another one down.
//! Push, rollback, start, stop and remove are made of these, so that there is one path for all of them.

mod immediate;

use std::collections::BTreeMap;

use deployd_api::ids::{CheckName, ListenerName, ProcessName};
use deployd_api::spec::{Check, CheckKind, Drain, Handoff, Millis};

use super::{FOR_EVER, Phase, Steps};
use crate::action::{Action, CommandSite, Instance, Socket, Trial, UnitFile};
use crate::facts::{Facts, Program};
use crate::state::{Change, Tag};
use crate::units::{self, Activation};

/// How long an accept queue must be empty: longer than a far client's handshake and the first repeat of
/// its SYN-ACK's acknowledgement (measured: 120 ms suffice for 40 ms of RTT).
const QUIET: Millis = Millis(250);
/// Longest wait for that: under steady load to a slow app some connections are relayed instead.
const QUIET_CAP: Millis = Millis(10_000);
/// A relay ends when nothing came for this long: one SYN-ACK repeat (1 s) and some.
const RELAY_QUIET: Millis = Millis(1_500);
/// A relay accepts no longer than this.
const RELAY_CAP: Millis = Millis(15_000);

/// A candidate whose process ended more often than this while it starts will not get better by waiting.
const START_RESTARTS: u32 = 2;

/// What the blocks need to know of both sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swap<'a> {
    /// The host.
    pub(super) facts: &'a Facts,
    /// Who comes.
    pub(super) new: Activation<'a>,
    /// Who goes, if something runs.
    pub(super) old: Option<Activation<'a>>,
    /// Whether the candidate may outlive its undo, because it drains without limit.
    pub(super) lingers: bool,
}

/// Whether what is taken down may have to come up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// It may: each step knows how.
    Possible,
    /// The deployment is committed.
    Never,
}

impl Swap<'_> {
    /// All sockets of a listener's group: those that the host knows, and the two that swap.
    fn group(&self, socket: &Socket) -> Vec<Socket> {
        let mut members = self.facts.state.groups.get(&socket.group()).cloned().unwrap_or_default();
        for member in self.counterpart(socket).into_iter().chain([socket.clone()]) {
            if !members.contains(&member) {
                members.push(member);
            }
        }
        members
    }

    /// The old release's socket on the same address, whatever its name; another address is another group.
    fn counterpart(&self, socket: &Socket) -> Option<Socket> {
        self.old?.sockets().into_iter().find(|s| s.address == socket.address)
    }

    pub(super) fn steer(&self, socket: &Socket, to: Tag) -> Action {
        Action::Steer { listener: socket.listener.clone(), sockets: self.group(socket), to }
    }

    fn relay(of: Activation<'_>, socket: &Socket) -> Action {
        let unit = format!("deployd-relay-{}.service", socket.unit.trim_end_matches(".socket"));
        let carry = match of.spec().deploy.drain_timeout {
            Drain::Limited(limit) => Some(limit),
            Drain::Unlimited => None,
        };
        Action::Relay { socket: socket.clone(), unit, quiet: RELAY_QUIET, cap: RELAY_CAP, carry }
    }

    fn await_empty(socket: &Socket) -> Action {
        Action::AwaitEmptyQueue { socket: socket.clone(), quiet: QUIET, cap: QUIET_CAP }
    }

    /// Nothing can be relayed beside a proxy, which takes what arrives until it ends: what still arrives is
    /// waited for as long as a relay would, while the app is there to answer it.
    fn await_quiet(socket: &Socket) -> Action {
        Action::AwaitEmptyQueue { socket: socket.clone(), quiet: RELAY_QUIET, cap: QUIET_CAP }
    }

    /// Opens the candidate's listeners, at 0 % where another release serves. The first connection to one
    /// of them starts its process, and that one's `Sockets=` opens the rest: so the right programs stand
    /// before the first socket does, and one undo takes all of it down.
    pub(super) fn open(&self, steps: &mut Steps) {
        let stays = self.stay();
        for stay in &stays {
            steps.add(Phase::Socket, stay.clone(), vec![]);
        }
        let first = steps.steps.len();
        self.open_those(self.new.sockets(), steps);
        if let Some(step) = steps.steps.get_mut(first) {
            step.undo = self.unopen(stays);
        }
    }

    fn open_those(&self, sockets: Vec<Socket>, steps: &mut Steps) {
        for socket in sockets {
            let process = &self.new.spec().listen[&socket.listener].process;
            let nonblocking = self.nonblocking(process).unwrap_or(true);
            steps.add(Phase::Socket, Action::OpenListener { socket, nonblocking }, vec![]);
        }
    }

    /// What keeps the traffic where it is.
    fn stay(&self) -> Vec<Action> {
        let sockets = self.new.sockets().into_iter().filter(Socket::is_grouped);
        sockets.filter_map(|s| Some(self.steer(&s, self.counterpart(&s)?.tag))).collect()
    }

    fn unopen(&self, stays: Vec<Action>) -> Vec<Action> {
        // A Unix socket that the release which serves has too was there before.
        let own = |s: &Socket| s.is_grouped() || self.counterpart(s).is_none();
        let sockets: Vec<Socket> = self.new.sockets().into_iter().filter(own).collect();
        let mut undo = stays.clone();
        undo.extend(sockets.iter().map(|s| Action::CloseListener { socket: s.clone() }));
        for process in self.new.processes() {
            let proxies = self.new.proxies_of(&process);
            if !self.new.sockets_of(&process).is_empty() {
                let instances = self.new.instances_of(&process);
                undo.extend(instances.iter().flat_map(|i| self.stop_undo(i, &proxies, &[])));
            }
        }
        for socket in sockets {
            if socket.is_grouped() && self.counterpart(&socket).is_some() {
                undo.push(Self::relay(self.new, &socket));
            }
            undo.push(Action::LeaveGroup { socket });
        }
        undo.extend(stays);
        undo
    }

    fn nonblocking(&self, process: &ProcessName) -> Option<bool> {
        self.facts.state.nonblocking.get(process).copied()
    }

    /// Starts every process of the candidate. The first instance shows what it makes of `O_NONBLOCK`
    /// before any other starts.
    pub(super) fn start(&self, steps: &mut Steps) {
        for process in self.new.processes() {
            self.start_process(&process, steps);
        }
    }

    pub(super) fn start_process(&self, process: &ProcessName, steps: &mut Steps) {
        let sockets = self.new.sockets_of(process);
        let spec = self.new.spec();
        let learnable =
            sockets.iter().find(|s| spec.listen[&s.listener].handoff != Handoff::Port && s.is_grouped());
        let instances = self.new.instances_of(process);
        let proxies = self.new.proxies_of(process);
        for instance in &instances {
            let undo = self.stop_undo(instance, &proxies, &sockets);
            steps.add(Phase::Start, self.start_action(instance), undo);
            if let (1, Some(socket)) = (instance.number, learnable) {
                steps.add(Phase::Start, self.learn(instance, socket, instances.len() > 1), vec![]);
            }
        }
        for proxy in &proxies {
            // It ends after what it leads to: that one's undo stops both.
            steps.add(Phase::Start, self.start_action(proxy), self.close_own(&sockets));
        }
        for accepts in await_ports(self.new, process) {
            steps.add(Phase::Start, accepts, vec![]);
        }
    }

    fn start_action(&self, instance: &Instance) -> Action {
        Action::StartInstance { instance: instance.clone(), timeout: self.new.spec().deploy.wait_timeout }
    }

    /// The sockets first: a connection that arrives between would start the instance again. A candidate
    /// that may drain without limit is only told to end: its verdict does not wait for its last client.
    fn stop_undo(&self, instance: &Instance, proxies: &[Instance], sockets: &[Socket]) -> Vec<Action> {
        let serves = !self.new.sockets_of(&instance.process).is_empty();
        let wait = !serves || !self.lingers;
        let mut undo = self.close_own(sockets);
        undo.push(Action::StopInstance { instance: instance.clone(), wait });
        for proxy in proxies.iter().filter(|p| wait && p.number == instance.number) {
            undo.extend(end_proxy(self.new, proxy));
        }
        undo
    }

    fn close_own(&self, sockets: &[Socket]) -> Vec<Action> {
        let own = sockets.iter().filter(|s| s.is_grouped() || self.counterpart(s).is_none());
        own.map(|s| Action::CloseListener { socket: s.clone() }).collect()
    }

    fn learn(&self, first: &Instance, socket: &Socket, several: bool) -> Action {
        let unit_says = self.nonblocking(&first.process).unwrap_or(false);
        let spec = self.new.spec();
        Action::LearnNonblocking {
            first: first.clone(),
            socket: socket.clone(),
            drop_in: units::nonblocking_drop_in(&spec.app, &first.process, self.new.tag),
            unit_says,
            reload: several,
            timeout: spec.deploy.wait_timeout,
            restarts: START_RESTARTS,
        }
    }

    /// Reloads units that were loaded with an older text: never between push and switch.
    pub(super) fn reload(&self, steps: &mut Steps) {
        let sockets = self.new.sockets().into_iter().map(|s| s.unit);
        let units = self.new.instances().into_iter().map(|i| i.unit).chain(sockets).collect();
        steps.add(Phase::Live, Action::ReloadIfNeeded { units }, vec![]);
    }

    /// What judges an activation.
    pub(super) fn trial(&self, of: Activation<'_>, keep: impl Fn(deployd_api::spec::Gate) -> bool) -> Trial {
        let spec = of.spec();
        let kept = || spec.checks.iter().filter(|(_, c)| keep(c.gate) && !is_notify(&c.kind));
        let site = |(name, check): (&CheckName, &Check)| {
            let CheckKind::Exec { process, .. } = &check.kind else { return None };
            Some((name.clone(), self.command_site(of, process)))
        };
        Trial {
            tag: of.tag,
            instances: of.instances(),
            sockets: of.sockets(),
            ports: private_ports(of),
            advice: self.advice(of),
            commands: kept().filter_map(site).collect(),
            checks: kept().map(|(n, c)| (n.clone(), resolved(of, c))).collect(),
        }
    }

    /// A command of a process runs where that one does, and is led to its listener; a process without one to
    /// the release's first.
    fn command_site(&self, of: Activation<'_>, process: &ProcessName) -> CommandSite {
        let (host, region) = (&self.facts.host, self.facts.region.as_deref());
        let spec = of.spec();
        let own = spec.listeners_of(process).next().map(|(name, _)| name);
        CommandSite {
            surroundings: of.command_surroundings(process, host, region),
            listener: own.or_else(|| spec.listen.keys().next()).cloned(),
        }
    }

    /// Whether the shim can reach a static program nobody can tell before it ran: it may read `LISTEN_FDS`.
    fn advice(&self, of: Activation<'_>) -> Option<String> {
        let artifact = self.facts.artifact.as_ref().filter(|_| of.tag == self.new.tag)?;
        let spec = of.spec();
        artifact.programs.iter().find_map(|(process, program)| {
            let Program::Static { path } = program else { return None };
            let (listener, _) = spec.listeners_of(process).find(|(_, l)| l.handoff == Handoff::Auto)?;
            Some(format!(
                "{path} is statically linked: it gets its listener only if it reads LISTEN_FDS; if it binds \
                 its port itself, write handoff = \"port\" in [listen.{listener}]"
            ))
        })
    }

    /// Waits until the candidate is good.
    pub(super) fn check(&self, steps: &mut Steps) {
        let trial = self.trial(self.new, deployd_api::spec::Gate::before_traffic);
        let timeout = self.new.spec().deploy.wait_timeout;
        steps.add(Phase::Check, Action::Check { trial, timeout, restarts: START_RESTARTS }, vec![]);
    }

    /// Judges the old release's processes with listeners; its workers come back later.
    fn check_old(&self, old: Activation<'_>) -> Action {
        let mut trial = self.trial(old, deployd_api::spec::Gate::before_traffic);
        trial.instances.retain(|i| !old.sockets_of(&i.process).is_empty());
        Action::Check { trial, timeout: old.spec().deploy.wait_timeout, restarts: START_RESTARTS }
    }

    /// Sends the candidate the traffic of every listener.
    pub(super) fn switch(&self, steps: &mut Steps) {
        for socket in self.new.sockets().into_iter().filter(Socket::is_grouped) {
            let undo = match self.counterpart(&socket) {
                Some(old) => vec![self.steer(&socket, old.tag), Self::await_empty(&socket)],
                None => vec![],
            };
            steps.add(Phase::Weights, self.steer(&socket, self.new.tag), undo);
        }
    }

    /// Takes the old release's processes with listeners down: no connection is lost on the way.
    pub(super) fn retire(&self, old: Activation<'_>, phase: Phase, back: Return, steps: &mut Steps) {
        let first = steps.steps.len();
        for process in old.processes().iter().rev() {
            if old.sockets_of(process).is_empty() {
                continue;
            }
            self.retire_process(old, process, phase, back, steps);
        }
        if let (Return::Possible, Some(step)) = (back, steps.steps.get_mut(first)) {
            step.undo = self.revive(old);
        }
    }

    /// The old release's own sockets: a Unix socket is shared with the new one and stays, unless that one
    /// has none there.
    fn own_sockets(&self, old: Activation<'_>, process: &ProcessName) -> Vec<Socket> {
        let new = self.new.sockets();
        let own = |s: &Socket| s.is_grouped() || !new.iter().any(|n| n.unit == s.unit);
        old.sockets_of(process).into_iter().filter(own).collect()
    }

    fn retire_process(
        &self,
        old: Activation<'_>,
        process: &ProcessName,
        phase: Phase,
        back: Return,
        steps: &mut Steps,
    ) {
        let spec = old.spec();
        let ported = |s: &Socket| spec.listen[&s.listener].handoff == Handoff::Port;
        let sockets = self.own_sockets(old, process);
        for socket in &sockets {
            if socket.is_grouped() {
                if self.is_served_by_new(socket) {
                    // Again, because a restart of the host in between took the program away.
                    steps.add(phase, self.steer(socket, self.new.tag), vec![]);
                }
                let quiet =
                    if ported(socket) { Self::await_quiet(socket) } else { Self::await_empty(socket) };
                steps.add(phase, quiet, vec![]);
            }
            steps.add(phase, Action::CloseListener { socket: socket.clone() }, vec![]);
        }
        // What may have to come back must have ended: a unit that still stops cannot be started.
        let wait = back == Return::Possible;
        for instance in old.instances_of(process) {
            steps.add(phase, Action::StopInstance { instance, wait }, vec![]);
        }
        // A proxy ends after what it leads to; without waiting, that is left to `plan_drained`.
        for proxy in old.proxies_of(process).iter().filter(|_| wait) {
            for action in end_proxy(old, proxy) {
                steps.add(phase, action, vec![]);
            }
        }
        for socket in &sockets {
            let proxied = ported(socket);
            // A proxy ends at once, with what it carries, when its listener is taken from it: it leaves the
            // group in `plan_drained`, after the proxy.
            if proxied && !wait {
                continue;
            }
            if !proxied && socket.is_grouped() && self.is_served_by_new(socket) {
                steps.add(phase, Self::relay(old, socket), vec![]);
            }
            self.leave(socket, phase, steps);
        }
    }

    /// Brings the old release back from wherever its retirement stands. Its processes may hold sockets
    /// that PID 1 gave up, so they end, and begin anew with new ones; the traffic is not theirs meanwhile.
    fn revive(&self, old: Activation<'_>) -> Vec<Action> {
        let processes = old.processes();
        let served: Vec<&ProcessName> = processes.iter().filter(|p| !old.sockets_of(p).is_empty()).collect();
        let sockets = |p: &&ProcessName| self.own_sockets(old, p);
        let own: Vec<Socket> = served.iter().flat_map(sockets).collect();
        let instances = |p: &&ProcessName| old.instances_of(p).into_iter().chain(old.proxies_of(p));
        let instances: Vec<Instance> = served.iter().flat_map(instances).collect();
        let mut undo: Vec<Action> = Vec::new();
        undo.extend(own.iter().map(|s| Action::CloseListener { socket: s.clone() }));
        undo.extend(instances.iter().map(|i| Action::StopInstance { instance: i.clone(), wait: true }));
        undo.extend(own.iter().map(|s| Action::LeaveGroup { socket: s.clone() }));
        let grouped = || own.iter().filter(|s| s.is_grouped() && self.is_served_by_new(s));
        undo.extend(grouped().map(|s| self.steer(s, self.new.tag)));
        for socket in own.iter().cloned() {
            let process = &old.spec().listen[&socket.listener].process;
            let nonblocking = self.nonblocking(process).unwrap_or(true);
            undo.push(Action::OpenListener { socket, nonblocking });
        }
        let timeout = old.spec().deploy.wait_timeout;
        undo.extend(instances.into_iter().map(|instance| Action::StartInstance { instance, timeout }));
        undo.extend(served.iter().flat_map(|p| await_ports(old, p)));
        undo.push(self.check_old(old));
        undo
    }

    fn is_served_by_new(&self, socket: &Socket) -> bool {
        self.new.sockets().iter().any(|s| s.address == socket.address)
    }

    /// Out of the group; then the program that fits the group as it is now.
    fn leave(&self, socket: &Socket, phase: Phase, steps: &mut Steps) {
        steps.add(phase, Action::LeaveGroup { socket: socket.clone() }, vec![]);
        if socket.is_grouped() && self.is_served_by_new(socket) {
            steps.add(phase, self.steer(socket, self.new.tag), vec![]);
        }
    }

    /// What serves from now on is known to.
    pub(super) fn mark_live(&self, warm: bool, steps: &mut Steps) {
        let state = &self.facts.state;
        let live = Change::Live { tag: self.new.tag, warm: self.old.filter(|_| warm).map(|o| o.tag) };
        let undo = Change::Unlive {
            tag: self.new.tag,
            back_to: state.live,
            previous: state.previous,
            since: state.live_since,
        };
        steps.add(Phase::Live, Action::Record { change: live }, vec![Action::Record { change: undo }]);
    }

    /// One rename decides what boots.
    pub(super) fn commit(&self, steps: &mut Steps) {
        let target = self.new.target_file();
        let wanted_by = units::wanted_by(&self.new.spec().app);
        steps.add_no_return(Phase::Commit, Action::Commit { target, wanted_by });
    }
}

/// The private port of an instance behind a proxy.
fn private_port(of: Activation<'_>, instance: &Instance) -> u16 {
    of.base_port(&instance.process).saturating_add(u16::try_from(instance.number).unwrap_or(u16::MAX))
}

/// The private ports behind each listener that has them.
pub fn private_ports(of: Activation<'_>) -> BTreeMap<ListenerName, Vec<u16>> {
    let ported = of.spec().listen.iter().filter(|(_, l)| l.handoff == Handoff::Port);
    let ports = |process| of.instances_of(process).iter().map(|i| private_port(of, i)).collect();
    ported.map(|(name, l)| (name.clone(), ports(&l.process))).collect()
}

/// Waits for the private port of each instance of a process that has them.
pub(super) fn await_ports(of: Activation<'_>, process: &ProcessName) -> Vec<Action> {
    if of.proxies_of(process).is_empty() {
        return vec![];
    }
    let timeout = of.spec().deploy.wait_timeout;
    let wait = |instance: Instance| {
        let port = private_port(of, &instance);
        Action::AwaitPort { instance, port, timeout, restarts: START_RESTARTS }
    };
    of.instances_of(process).into_iter().map(wait).collect()
}

/// Ends a proxy whose app has ended, when it carries nothing any more.
pub(super) fn end_proxy(of: Activation<'_>, proxy: &Instance) -> [Action; 2] {
    let cap = match of.spec().deploy.drain_timeout {
        Drain::Limited(limit) => limit,
        Drain::Unlimited => FOR_EVER,
    };
    [
        Action::AwaitCarried { proxy: proxy.clone(), cap },
        Action::StopInstance { instance: proxy.clone(), wait: true },
    ]
}

fn is_notify(kind: &CheckKind) -> bool {
    matches!(kind, CheckKind::Notify { .. })
}

/// A check with its command's program resolved.
fn resolved(of: Activation<'_>, check: &deployd_api::spec::Check) -> deployd_api::spec::Check {
    let mut check = check.clone();
    if let CheckKind::Exec { command, .. } = &mut check.kind {
        *command = of.command(command);
    }
    check
}

impl Swap<'_> {
    /// Takes down something that neither serves nor comes.
    pub(super) fn put_down(&self, of: Activation<'_>, steps: &mut Steps) {
        let keeps = |s: &Socket| {
            s.is_grouped() || !self.old.is_some_and(|o| o.sockets().iter().any(|l| l.unit == s.unit))
        };
        let sockets: Vec<Socket> = of.sockets().into_iter().filter(keeps).collect();
        let phase = Phase::Preflight;
        let steer = |s: &Socket| {
            let live = self.old.filter(|o| o.sockets().iter().any(|l| l.address == s.address))?;
            Some(self.steer(s, live.tag)).filter(|_| s.is_grouped())
        };
        for socket in &sockets {
            if let Some(steer) = steer(socket) {
                steps.add(phase, steer, vec![]);
            }
            steps.add(phase, Action::CloseListener { socket: socket.clone() }, vec![]);
        }
        let wait = !of.drains_without_limit();
        for process in of.processes().iter().rev() {
            for instance in of.instances_of(process) {
                steps.add(phase, Action::StopInstance { instance, wait }, vec![]);
            }
            for proxy in of.proxies_of(process) {
                let ends = if wait {
                    end_proxy(of, &proxy).to_vec()
                } else {
                    // Nobody may stay in the group beside the two that swap: what it carries is lost.
                    vec![Action::StopInstance { instance: proxy, wait }]
                };
                for action in ends {
                    steps.add(phase, action, vec![]);
                }
            }
        }
        for socket in sockets {
            let steer = steer(&socket);
            steps.add(phase, Action::LeaveGroup { socket }, vec![]);
            if let Some(steer) = steer {
                steps.add(phase, steer, vec![]);
            }
        }
    }

    /// The units of Unix sockets that both releases name, with the text of either.
    fn shared_files(&self) -> (Vec<UnitFile>, Vec<UnitFile>) {
        let Some(old) = self.old else { return (vec![], vec![]) };
        let (old, new) = (old.socket_files(), self.new.socket_files());
        let both = |of: &[UnitFile], with: &[UnitFile]| {
            of.iter().filter(|f| with.iter().any(|w| w.path == f.path)).cloned().collect()
        };
        (both(&old, &new), both(&new, &old))
    }

    /// A shared Unix socket wakes the new release from now on. This stands right before the old one
    /// ends: until then PID 1 would start the old one again for the next connection, and after a restart
    /// of the host it is the old one that boots.
    pub(super) fn take_over_shared(&self, phase: Phase, back: Return, steps: &mut Steps) {
        let (old, new) = self.shared_files();
        if new.is_empty() {
            return;
        }
        let units = || new.iter().filter_map(|f| f.path.rsplit('/').next()).map(str::to_owned).collect();
        let reload = Action::ReloadIfNeeded { units: units() };
        let undo = match back {
            Return::Possible => vec![Action::WriteFiles { files: old }, reload.clone()],
            Return::Never => vec![],
        };
        steps.add(phase, Action::WriteFiles { files: new }, undo);
        steps.add(phase, reload, vec![]);
    }
}

/// Stops the old release's processes that have no listener: two of them would work on the same jobs.
/// Either of them may forbid it.
pub(super) fn stop_workers(swap: &Swap<'_>, overlap: bool, phase: Phase, steps: &mut Steps) {
    let Some(old) = swap.old else { return };
    let new = &swap.new.spec().processes;
    for process in old.processes().iter().rev() {
        let both = old.spec().processes[process].overlap && new.get(process).is_none_or(|p| p.overlap);
        if !old.sockets_of(process).is_empty() || both != overlap {
            continue;
        }
        for instance in old.instances_of(process) {
            let timeout = old.spec().deploy.wait_timeout;
            let undo = vec![Action::StartInstance { instance: instance.clone(), timeout }];
            steps.add(phase, Action::StopInstance { instance, wait: !overlap }, undo);
        }
    }
}
