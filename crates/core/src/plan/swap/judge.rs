//! Judging an activation: what is asked of it, where its commands run, which private ports must accept.

use std::collections::BTreeMap;

use deployd_api::ids::{CheckName, ListenerName, ProcessName};
use deployd_api::spec::{Check, CheckKind, Handoff};

use super::{START_RESTARTS, Swap};
use crate::action::{Action, CommandSite, Instance, Trial};
use crate::facts::Program;
use crate::plan::{Phase, Steps};
use crate::units::Activation;

impl Swap<'_> {
    /// What judges an activation.
    pub(in crate::plan) fn trial(
        &self,
        of: Activation<'_>,
        keep: impl Fn(deployd_api::spec::Gate) -> bool,
    ) -> Trial {
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
    pub(super) fn command_site(&self, of: Activation<'_>, process: &ProcessName) -> CommandSite {
        let (host, region) = (&self.facts.host, self.facts.region.as_deref());
        let spec = of.spec();
        let own = spec.listeners_of(process).next().map(|(name, _)| name);
        CommandSite {
            surroundings: of.command_surroundings(process, host, region),
            listener: own.or_else(|| spec.listen.keys().next()).cloned(),
        }
    }

    /// Whether the shim can reach a static program nobody can tell before it ran: it may read `LISTEN_FDS`.
    pub(super) fn advice(&self, of: Activation<'_>) -> Option<String> {
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
    pub(in crate::plan) fn check(&self, steps: &mut Steps) {
        let trial = self.trial(self.new, deployd_api::spec::Gate::before_traffic);
        let timeout = self.new.spec().deploy.wait_timeout;
        steps.add(Phase::Check, Action::Check { trial, timeout, restarts: START_RESTARTS }, vec![]);
    }

    /// Judges the old release's processes with listeners; its workers come back later.
    pub(super) fn check_old(&self, old: Activation<'_>) -> Action {
        let mut trial = self.trial(old, deployd_api::spec::Gate::before_traffic);
        trial.instances.retain(|i| !old.sockets_of(&i.process).is_empty());
        Action::Check { trial, timeout: old.spec().deploy.wait_timeout, restarts: START_RESTARTS }
    }
}

/// The private port of an instance behind a proxy.
pub(super) fn private_port(of: Activation<'_>, instance: &Instance) -> u16 {
    of.base_port(&instance.process).saturating_add(u16::try_from(instance.number).unwrap_or(u16::MAX))
}

/// The private ports behind each listener that has them.
pub fn private_ports(of: Activation<'_>) -> BTreeMap<ListenerName, Vec<u16>> {
    let ported = of.spec().listen.iter().filter(|(_, l)| l.handoff == Handoff::Port);
    let ports = |process| of.instances_of(process).iter().map(|i| private_port(of, i)).collect();
    ported.map(|(name, l)| (name.clone(), ports(&l.process))).collect()
}

/// Waits for the private port of each instance of a process that has them.
pub(in crate::plan) fn await_ports(of: Activation<'_>, process: &ProcessName) -> Vec<Action> {
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

pub(super) fn is_notify(kind: &CheckKind) -> bool {
    matches!(kind, CheckKind::Notify { .. })
}

/// A check with its command's program resolved.
pub(super) fn resolved(of: Activation<'_>, check: &deployd_api::spec::Check) -> deployd_api::spec::Check {
    let mut check = check.clone();
    if let CheckKind::Exec { command, .. } = &mut check.kind {
        // Without secrets PID 1 starts it as it is.
        *command = if of.release.secrets.is_some() { of.beside(command) } else { of.command(command) };
    }
    check
}
