//! The building blocks of a swap: bring an activation up, send it the traffic, take another one down.
//! Push, rollback, start, stop and remove are made of these, so that there is one path for all of them.

mod down;
mod immediate;
mod judge;

use down::end_proxy;
pub(super) use down::{stop_workers, take_down};
pub(super) use judge::await_ports;
pub use judge::private_ports;

use deployd_api::ids::ProcessName;
use deployd_api::spec::{Drain, Handoff, Millis};

use super::{Phase, Steps};
use crate::action::{Action, Instance, Socket};
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
            advice: self.advice(self.new),
        }
    }

    /// Reloads units that were loaded with an older text: never between push and switch.
    pub(super) fn reload(&self, steps: &mut Steps) {
        let sockets = self.new.sockets().into_iter().map(|s| s.unit);
        let units = self.new.instances().into_iter().map(|i| i.unit).chain(sockets).collect();
        steps.add(Phase::Live, Action::ReloadIfNeeded { units }, vec![]);
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
