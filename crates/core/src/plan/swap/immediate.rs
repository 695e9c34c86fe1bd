//! `immediate`: stop, then start. Clients wait in the new release's listeners meanwhile.

use super::{Return, Swap, end_proxy};
use crate::action::{Action, Socket};
use crate::plan::{Phase, Steps};
use crate::units::Activation;

impl Swap<'_> {
    /// The old release is told to end, and then its traffic goes to listeners that nobody serves yet: the
    /// start that the first connection causes waits for the old one's end ([`Activation::after_files`]).
    /// A listener where the old one has none would wake the new one at once: it opens when the other is
    /// ending. One where it has is opened before, so that there is always a queue to wait in.
    pub(in crate::plan) fn hand_over(&self, old: Activation<'_>, steps: &mut Steps) {
        let (same, other): (Vec<_>, Vec<_>) =
            self.new.sockets().into_iter().partition(|s| self.counterpart(s).is_some());
        let (phase, stays) = (Phase::Socket, self.stay());
        for stay in &stays {
            steps.add(phase, stay.clone(), vec![]);
        }
        let opened = steps.steps.len();
        let any_same = !same.is_empty();
        self.open_those(same, steps);
        if let Some(step) = steps.steps.get_mut(opened) {
            step.undo = self.unopen(stays.clone());
        }
        let first = steps.steps.len();
        let processes = old.processes();
        let served = || processes.iter().rev().filter(|p| !old.sockets_of(p).is_empty());
        for process in served() {
            for socket in self.own_sockets(old, process) {
                steps.add(phase, Action::CloseListener { socket }, vec![]);
            }
            for instance in old.instances_of(process) {
                steps.add(phase, Action::StopInstance { instance, wait: false }, vec![]);
            }
        }
        let undo = self.put_to_sleep().into_iter().chain(self.revive(old)).chain(stays.clone()).collect();
        if let Some(step) = steps.steps.get_mut(first) {
            step.undo = undo;
        }
        let late = steps.steps.len();
        self.open_those(other, steps);
        if let Some(step) = steps.steps.get_mut(late).filter(|_| !any_same) {
            step.undo = self.unopen(stays);
        }
        for socket in self.new.sockets().into_iter().filter(Socket::is_grouped) {
            if self.counterpart(&socket).is_some() {
                steps.add(phase, self.steer(&socket, self.new.tag), vec![]);
            }
        }
        self.take_over_shared(phase, Return::Possible, steps);
        for process in served() {
            for instance in old.instances_of(process) {
                steps.add(phase, Action::StopInstance { instance, wait: true }, vec![]);
            }
            for action in old.proxies_of(process).iter().flat_map(|proxy| end_proxy(old, proxy)) {
                steps.add(phase, action, vec![]);
            }
        }
    }

    /// Whatever a connection may have woken ends before the old release comes back. Its queue waits.
    fn put_to_sleep(&self) -> Vec<Action> {
        let own = |s: &Socket| s.is_grouped() || self.counterpart(s).is_none();
        let sockets = self.new.sockets().into_iter().filter(own);
        let mut undo: Vec<Action> = sockets.map(|socket| Action::CloseListener { socket }).collect();
        for process in self.new.processes() {
            if !self.new.sockets_of(&process).is_empty() {
                let instances = self.new.instances_of(&process).into_iter();
                undo.extend(instances.map(|instance| Action::StopInstance { instance, wait: true }));
            }
        }
        undo
    }

    /// What came to the old release after it was told to end waits in its listeners: it is served now.
    pub(in crate::plan) fn hand_on(&self, old: Activation<'_>, steps: &mut Steps) {
        let sockets = old.processes().iter().rev().flat_map(|p| self.own_sockets(old, p)).collect::<Vec<_>>();
        for socket in sockets {
            if socket.is_grouped() && self.is_served_by_new(&socket) {
                steps.add(Phase::Weights, Self::relay(old, &socket), vec![]);
            }
            self.leave(&socket, Phase::Weights, steps);
        }
    }
}
