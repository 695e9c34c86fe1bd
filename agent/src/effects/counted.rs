//! How many connections a release serves now, for people: the journal's notes and `status`.
//!
//! It judges nothing, and a count that fails is no failure of a deployment: then there is no number.

use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_api::ids::ProcessName;
use deployd_api::spec::Address;
use deployd_core::state::{Change, Tag};
use deployd_core::units::Activation;

use super::RealHost;
use super::failure::step_failed;
use super::sockets::bound;
use crate::driver::{Done, Run};
use crate::host::connections;
use crate::host::listener::{LocalAddress, Stack};

/// A number that takes longer than this is not worth the wait of a deployment.
const LIMIT: Duration = Duration::from_secs(2);

impl RealHost {
    /// Connections to the listeners of a process that it, or a proxy of it, holds; `None` without a listener.
    pub async fn connections(
        &self,
        of: Activation<'_>,
        process: &ProcessName,
    ) -> Result<Option<u64>, ErrorBody> {
        let listeners: Vec<_> = of.sockets_of(process).iter().filter_map(|s| local(&s.address)).collect();
        if listeners.is_empty() {
            return Ok(None);
        }
        let mut groups = Vec::new();
        for instance in of.instances_of(process).into_iter().chain(of.proxies_of(process)) {
            let unit = self.systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
            groups.extend(unit.map(|u| u.control_group));
        }
        let counted = connections::count(vec![groups], listeners).await.map_err(|e| step_failed(&e))?;
        Ok(counted.first().map(|c| c.established + c.half_closed))
    }

    /// What a person wants to know beside a change: how many connections the release that goes still has.
    pub(super) async fn note_change(&self, change: &Change, run: &Run) -> Done {
        let going = match change {
            Change::Live { .. } => run.state.lock().await.live,
            Change::Draining { tag } => Some(*tag),
            _ => None,
        };
        match going {
            Some(tag) => {
                let counted = tokio::time::timeout(LIMIT, self.all_connections(tag, run)).await;
                Done { note: counted.ok().flatten(), learned: None }
            }
            None => Done::default(),
        }
    }

    async fn all_connections(&self, tag: Tag, run: &Run) -> Option<String> {
        let release = run.state.lock().await.releases.get(&tag.label).cloned()?;
        let of = Activation { tag, release: &release };
        let mut total = None;
        for process in of.processes() {
            if let Some(n) = self.connections(of, &process).await.ok()? {
                *total.get_or_insert(0) += n;
            }
        }
        total.map(|n| if n == 1 { "1 conn".to_owned() } else { format!("{n} conns") })
    }
}

/// A listener as the kernel lists it.
fn local(address: &Address) -> Option<LocalAddress> {
    let stack = if matches!(address, Address::Any { .. }) { Stack::Dual } else { Stack::Single };
    match (address, bound(address)) {
        (Address::Unix { path }, _) => Some(LocalAddress::Unix(Some(path.into()))),
        (_, addr) => Some(LocalAddress::Tcp { addr: addr?, stack }),
    }
}
