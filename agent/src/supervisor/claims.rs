//! The ports that apps of this host have, or are about to get: two plans that are made at the same time must not
//! give one to both, and one that is free at the moment may be that of a program which just crashed.

use std::collections::BTreeSet;

use deployd_api::ids::AppName;
use deployd_api::spec::Address;
use deployd_core::action::Action;
use deployd_core::plan::{Plan, private_ports};
use deployd_core::state::AppState;
use deployd_core::units::Activation;

/// What a new plan must keep away from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Where clients come, and whose that is about to be.
    pub public: Vec<(Address, AppName)>,
    /// Loopback ports behind proxies.
    pub private: BTreeSet<u16>,
}

impl Claims {
    /// What an app has. Its public ports are not in it: the kernel tells those.
    pub(super) fn add_state(&mut self, state: &AppState) {
        let named = [state.live, state.candidate, state.warm].into_iter().flatten();
        for tag in named.chain(state.draining.iter().copied()) {
            let Some(release) = state.releases.get(&tag.label) else { continue };
            self.private.extend(private_ports(Activation { tag, release }).into_values().flatten());
        }
    }

    /// What a plan that is being carried out will have.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut claims = Self::default();
        // An undo opens again what was closed.
        for action in plan.steps.iter().flat_map(|step| std::iter::once(&step.action).chain(&step.undo)) {
            match action {
                Action::OpenListener { socket, .. } => {
                    claims.public.push((socket.address.clone(), plan.app.clone()));
                }
                Action::AwaitPort { port, .. } => drop(claims.private.insert(*port)),
                _ => {}
            }
        }
        claims
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.public.extend_from_slice(&other.public);
        self.private.extend(&other.private);
    }
}
