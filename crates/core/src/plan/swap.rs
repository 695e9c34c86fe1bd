//! The building blocks of a swap: bring an activation up, send it the traffic, take another one down.
//! Push, rollback, start, stop and remove are made of these, so that there is one path for all of them.

use deployd_api::ids::ProcessName;
use deployd_api::spec::{CheckKind, Handoff, Millis};

use super::{Phase, Steps};
use crate::action::{Action, Instance, Socket, Trial};
use crate::facts::Facts;
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

/// What the blocks need to know of both sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swap<'a> {
    /// The host.
    pub(super) facts: &'a Facts,
    /// Who comes.
    pub(super) new: Activation<'a>,
    /// Who goes, if something runs.
    pub(super) old: Option<Activation<'a>>,
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
    fn is_grouped(socket: &Socket) -> bool {
        socket.address.port().is_some()
    }

    /// All sockets of a listener's group: those that the host knows, and the two that swap.
    fn group(&self, socket: &Socket) -> Vec<Socket> {
        let app = &self.new.spec().app;
        let mut tags: Vec<Tag> = self.facts.state.groups.get(&socket.listener).cloned().unwrap_or_default();
        for tag in self.old.map(|o| o.tag).into_iter().chain([self.new.tag]) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        tags.into_iter().map(|t| units::socket(app, &socket.listener, &socket.address, t)).collect()
    }

    /// The old release's socket for the same listener and address; another address is another group.
    fn counterpart(&self, socket: &Socket) -> Option<Socket> {
        let old = self.old?;
        old.sockets().into_iter().find(|s| s.listener == socket.listener && s.address == socket.address)
    }

    pub(super) fn steer(&self, socket: &Socket, to: Tag) -> Action {
        Action::Steer { listener: socket.listener.clone(), sockets: self.group(socket), to }
    }

    fn relay(socket: &Socket) -> Action {
        let unit = format!("{}-relay.service", socket.unit.trim_end_matches(".socket"));
        Action::Relay { socket: socket.clone(), unit, quiet: RELAY_QUIET, cap: RELAY_CAP }
    }

    fn await_empty(socket: &Socket) -> Action {
        Action::AwaitEmptyQueue { socket: socket.clone(), quiet: QUIET, cap: QUIET_CAP }
    }

    /// Opens the candidate's listeners, at 0 % where another release serves.
    pub(super) fn open(&self, steps: &mut Steps) {
        for socket in self.new.sockets() {
            let process = &self.new.spec().listen[&socket.listener].process;
            let nonblocking = self.nonblocking(process).unwrap_or(true);
            let close = Action::CloseListener { socket: socket.clone() };
            let leave = Action::LeaveGroup { socket: socket.clone() };
            let undo = if !Self::is_grouped(&socket) {
                // Shared with the release that serves: closed only when it was not there before.
                if self.counterpart(&socket).is_some() { vec![] } else { vec![close, leave] }
            } else if let Some(old) = self.counterpart(&socket) {
                // The right program stands before the candidate's socket does.
                let stay = self.steer(&socket, old.tag);
                steps.add(Phase::Socket, stay.clone(), vec![]);
                vec![stay.clone(), close, Self::relay(&socket), leave, stay]
            } else {
                vec![close, leave]
            };
            steps.add(Phase::Socket, Action::OpenListener { socket, nonblocking }, undo);
        }
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
            sockets.iter().find(|s| spec.listen[&s.listener].handoff != Handoff::Port && Self::is_grouped(s));
        let instances = self.new.instances_of(process);
        for instance in &instances {
            steps.add(Phase::Start, self.start_action(instance), self.stop_undo(instance, &sockets));
            if let (1, Some(socket)) = (instance.number, learnable) {
                steps.add(Phase::Start, self.learn(process, socket, instances.len() > 1), vec![]);
            }
        }
        for proxy in self.new.proxies_of(process) {
            let undo = self.stop_undo(&proxy, &sockets);
            steps.add(Phase::Start, self.start_action(&proxy), undo);
        }
    }

    fn start_action(&self, instance: &Instance) -> Action {
        Action::StartInstance { instance: instance.clone(), timeout: self.new.spec().deploy.wait_timeout }
    }

    /// The sockets first: a connection that arrives between would start the instance again.
    fn stop_undo(&self, instance: &Instance, sockets: &[Socket]) -> Vec<Action> {
        let own = sockets.iter().filter(|s| Self::is_grouped(s) || self.counterpart(s).is_none());
        let close = own.map(|s| Action::CloseListener { socket: s.clone() });
        close.chain([Action::StopInstance { instance: instance.clone(), wait: true }]).collect()
    }

    fn learn(&self, process: &ProcessName, socket: &Socket, several: bool) -> Action {
        let unit_says = self.nonblocking(process).unwrap_or(false);
        Action::LearnNonblocking {
            process: process.clone(),
            socket: socket.clone(),
            drop_in: units::nonblocking_drop_in(&self.new.spec().app, process, self.new.tag),
            unit_says,
            reload: several,
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
        let checks = spec.checks.iter().filter(|(_, c)| keep(c.gate) && !is_notify(&c.kind));
        let process = spec.processes.keys().next();
        let env =
            process.map(|p| of.env(p, &self.facts.host, self.facts.region.as_deref())).unwrap_or_default();
        Trial {
            tag: of.tag,
            instances: of.instances(),
            sockets: of.sockets(),
            checks: checks.map(|(n, c)| (n.clone(), resolved(of, c))).collect(),
            tree: of.release.tree.clone(),
            user: units::user(&spec.app),
            env: env.into_iter().collect(),
        }
    }

    /// Waits until the candidate is good.
    pub(super) fn check(&self, steps: &mut Steps) {
        let trial = self.trial(self.new, deployd_api::spec::Gate::before_traffic);
        steps.add(
            Phase::Check,
            Action::Check { trial, timeout: self.new.spec().deploy.wait_timeout },
            vec![],
        );
    }

    fn check_old(&self, old: Activation<'_>) -> Action {
        let trial = self.trial(old, deployd_api::spec::Gate::before_traffic);
        Action::Check { trial, timeout: old.spec().deploy.wait_timeout }
    }

    /// Sends the candidate the traffic of every listener.
    pub(super) fn switch(&self, steps: &mut Steps) {
        for socket in self.new.sockets().into_iter().filter(Self::is_grouped) {
            let undo = match self.counterpart(&socket) {
                Some(old) => vec![self.steer(&socket, old.tag), Self::await_empty(&socket)],
                None => vec![],
            };
            steps.add(Phase::Weights, self.steer(&socket, self.new.tag), undo);
        }
    }

    /// Takes the old release's processes with listeners down: no connection is lost on the way.
    pub(super) fn retire(&self, old: Activation<'_>, phase: Phase, back: Return, steps: &mut Steps) {
        for process in old.processes().iter().rev() {
            if old.sockets_of(process).is_empty() {
                continue;
            }
            self.retire_process(old, process, phase, back, steps);
        }
    }

    fn retire_process(
        &self,
        old: Activation<'_>,
        process: &ProcessName,
        phase: Phase,
        back: Return,
        steps: &mut Steps,
    ) {
        let undo = |actions: Vec<Action>| if back == Return::Possible { actions } else { vec![] };
        let spec = old.spec();
        let sockets = old.sockets_of(process);
        // A Unix socket is shared with the new release: it stays, unless that one has none there.
        let own = |s: &&Socket| Self::is_grouped(s) || !self.new.sockets().iter().any(|n| n.unit == s.unit);
        for socket in sockets.iter().filter(own) {
            if Self::is_grouped(socket) {
                steps.add(phase, Self::await_empty(socket), vec![]);
            }
            let nonblocking = self.nonblocking(process).unwrap_or(true);
            let open = Action::OpenListener { socket: socket.clone(), nonblocking };
            let undo = undo(vec![open, self.check_old(old)]);
            steps.add(phase, Action::CloseListener { socket: socket.clone() }, undo);
        }
        let ported = |s: &&Socket| spec.listen[&s.listener].handoff == Handoff::Port;
        for socket in sockets.iter().filter(own).filter(ported) {
            self.leave(socket, phase, steps);
        }
        for instance in old.instances_of(process) {
            let timeout = spec.deploy.wait_timeout;
            let start = undo(vec![Action::StartInstance { instance: instance.clone(), timeout }]);
            steps.add(phase, Action::StopInstance { instance, wait: false }, start);
        }
        for socket in sockets.iter().filter(own).filter(|s| !ported(s)) {
            if Self::is_grouped(socket) && self.is_served_by_new(socket) {
                steps.add(phase, Self::relay(socket), vec![]);
            }
            self.leave(socket, phase, steps);
        }
    }

    fn is_served_by_new(&self, socket: &Socket) -> bool {
        self.new.sockets().iter().any(|s| s.listener == socket.listener && s.address == socket.address)
    }

    /// Out of the group; then the program that fits the group as it is now.
    fn leave(&self, socket: &Socket, phase: Phase, steps: &mut Steps) {
        steps.add(phase, Action::LeaveGroup { socket: socket.clone() }, vec![]);
        if Self::is_grouped(socket) && self.is_served_by_new(socket) {
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
    /// For `immediate`: the traffic goes to a listener that nobody serves yet, and waits there.
    pub(super) fn switch_early(&self, steps: &mut Steps) {
        for socket in self.new.sockets().into_iter().filter(Self::is_grouped) {
            let Some(old) = self.counterpart(&socket) else { continue };
            steps.add(Phase::Socket, self.steer(&socket, self.new.tag), vec![self.steer(&socket, old.tag)]);
        }
    }

    /// For `immediate`: as [`Self::retire`], and the old processes have ended before the new ones start.
    pub(super) fn retire_and_wait(&self, old: Activation<'_>, phase: Phase, steps: &mut Steps) {
        let from = steps.steps.len();
        self.retire(old, phase, Return::Possible, steps);
        for step in &mut steps.steps[from..] {
            if let Action::StopInstance { instance, .. } = step.action.clone() {
                step.action = Action::StopInstance { instance, wait: true };
                step.deadline = super::own_wait(&step.action);
            }
        }
        // Nobody accepts for the new release yet: what is left goes to its queue by the kernel's
        // migration at the end, not through a relay that would wait for an answer.
        steps.steps.retain(|s| s.phase != phase || !matches!(s.action, Action::Relay { .. }));
    }
}

/// Stops the old release's processes that have no listener: two of them would work on the same jobs.
pub(super) fn stop_workers(old: Activation<'_>, overlap: bool, phase: Phase, steps: &mut Steps) {
    for process in old.processes().iter().rev() {
        if !old.sockets_of(process).is_empty() || old.spec().processes[process].overlap != overlap {
            continue;
        }
        for instance in old.instances_of(process) {
            let timeout = old.spec().deploy.wait_timeout;
            let undo = vec![Action::StartInstance { instance: instance.clone(), timeout }];
            steps.add(phase, Action::StopInstance { instance, wait: !overlap }, undo);
        }
    }
}
