//! Taking an activation down without losing a connection, and bringing it back from wherever that stands.

use deployd_api::ids::ProcessName;
use deployd_api::spec::{Drain, Handoff};

use super::{Return, Swap, await_ports};
use crate::action::{Action, Instance, Socket, UnitFile};
use crate::plan::{FOR_EVER, Phase, Steps};
use crate::units::Activation;

impl Swap<'_> {
    /// Takes the old release's processes with listeners down: no connection is lost on the way.
    pub(in crate::plan) fn retire(&self, old: Activation<'_>, phase: Phase, back: Return, steps: &mut Steps) {
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
    pub(super) fn own_sockets(&self, old: Activation<'_>, process: &ProcessName) -> Vec<Socket> {
        let new = self.new.sockets();
        let own = |s: &Socket| s.is_grouped() || !new.iter().any(|n| n.unit == s.unit);
        old.sockets_of(process).into_iter().filter(own).collect()
    }

    pub(super) fn retire_process(
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
    pub(super) fn revive(&self, old: Activation<'_>) -> Vec<Action> {
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

    pub(super) fn is_served_by_new(&self, socket: &Socket) -> bool {
        self.new.sockets().iter().any(|s| s.address == socket.address)
    }

    /// Out of the group; then the program that fits the group as it is now.
    pub(super) fn leave(&self, socket: &Socket, phase: Phase, steps: &mut Steps) {
        steps.add(phase, Action::LeaveGroup { socket: socket.clone() }, vec![]);
        if socket.is_grouped() && self.is_served_by_new(socket) {
            steps.add(phase, self.steer(socket, self.new.tag), vec![]);
        }
    }

    /// Takes down something that neither serves nor comes.
    pub(in crate::plan) fn put_down(&self, of: Activation<'_>, steps: &mut Steps) {
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
    pub(super) fn shared_files(&self) -> (Vec<UnitFile>, Vec<UnitFile>) {
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
    pub(in crate::plan) fn take_over_shared(&self, phase: Phase, back: Return, steps: &mut Steps) {
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
pub(in crate::plan) fn stop_workers(swap: &Swap<'_>, overlap: bool, phase: Phase, steps: &mut Steps) {
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

/// Nothing comes after it: listeners, then processes to their end, then the sockets themselves.
pub(in crate::plan) fn take_down(of: Activation<'_>, sockets: Vec<Socket>, phase: Phase, steps: &mut Steps) {
    for socket in sockets.iter().cloned() {
        steps.add(phase, Action::CloseListener { socket }, vec![]);
    }
    for process in of.processes().iter().rev() {
        for instance in of.instances_of(process) {
            steps.add(phase, Action::StopInstance { instance, wait: true }, vec![]);
        }
        for action in of.proxies_of(process).iter().flat_map(|proxy| end_proxy(of, proxy)) {
            steps.add(phase, action, vec![]);
        }
    }
    for socket in sockets {
        steps.add(phase, Action::LeaveGroup { socket }, vec![]);
    }
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
