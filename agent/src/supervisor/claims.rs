//! The ports that apps of this host have, or are about to get: two plans that are made at the same time must not
//! give one to both, and one that is free at the moment may be that of a program which just crashed.

use std::collections::{BTreeMap, BTreeSet};

use deployd_api::ids::AppName;
use deployd_core::action::Action;
use deployd_core::plan::{Plan, private_ports};
use deployd_core::state::AppState;
use deployd_core::units::Activation;

/// What belongs to other apps than the one that is planned for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Ports that clients use, and whose they are about to be.
    pub public: BTreeMap<u16, AppName>,
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
    pub(super) fn add_plan(&mut self, plan: &Plan) {
        for step in &plan.steps {
            match &step.action {
                Action::OpenListener { socket, .. } => {
                    self.public.extend(socket.address.port().map(|port| (port, plan.app.clone())));
                }
                Action::AwaitPort { port, .. } => drop(self.private.insert(*port)),
                _ => {}
            }
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.public.extend(other.public.clone());
        self.private.extend(&other.private);
    }
}
