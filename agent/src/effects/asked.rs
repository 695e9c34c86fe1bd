//! Asks a release's checks once, for `status`: what is printed as ok was ok when it was asked.
//!
//! As in a trial, each try is steered to the release that is asked. It decides nothing, changes nothing
//! (not even which descriptors are borrowed), and runs no commands.

use std::time::Duration;

use deployd_api::ids::ProcessName;
use deployd_api::spec::{Check, CheckKind, Millis};
use deployd_core::action::Socket;
use deployd_core::plan::private_ports;
use deployd_core::units::Activation;
use futures_util::future::join_all;

use super::RealHost;
use super::sockets::bound;
use super::trial::{describe, probe_once};
use crate::driver::SharedState;
use crate::host::facts;
use crate::host::probe::Target;

/// Longest time that one check may take here: whoever asks for the status waits for it.
const LIMIT: Millis = Millis::from_secs(2);
/// How often it is asked again when a deployment changed the group meanwhile.
const TRIES: u32 = 3;

impl RealHost {
    /// What the HTTP and TCP checks of a process find now, by name: `ok`, or what is wrong.
    pub async fn ask_checks(
        &self,
        of: Activation<'_>,
        process: &ProcessName,
        state: &SharedState,
    ) -> Vec<(String, String)> {
        let sockets = of.sockets_of(process);
        let ported = private_ports(of);
        let mut asked = Vec::new();
        for (name, check) in &of.spec().checks {
            let listener = match &check.kind {
                CheckKind::Http { listener, .. } | CheckKind::Tcp { listener } => listener,
                CheckKind::Exec { .. } | CheckKind::Notify { .. } => continue,
            };
            if let Some(socket) = sockets.iter().find(|s| s.listener == *listener) {
                let ports = ported.get(listener).map(Vec::as_slice);
                asked.push(async move {
                    let found = self.ask(check, socket, ports, state).await;
                    (name.to_string(), found.err().unwrap_or_else(|| "ok".to_owned()))
                });
            }
        }
        join_all(asked).await
    }

    async fn ask(
        &self,
        check: &Check,
        socket: &Socket,
        ports: Option<&[u16]>,
        state: &SharedState,
    ) -> Result<(), String> {
        let limit = Duration::from(check.timeout.min(LIMIT));
        let mut target = self.steered(socket, state).await?;
        for _ in 0..TRIES {
            let Some(probed) = probe_once(check, &target, ports, limit).await else { return Ok(()) };
            let after = self.steered(socket, state).await?;
            if after == target {
                let failure = probed.failure.as_ref();
                return failure.map_or(Ok(()), |f| Err(describe(check, &probed, f, "")));
            }
            // The indexes moved while it was asked: another release may have answered.
            target = after;
        }
        Err("not asked: a deployment is changing who listens".to_owned())
    }

    /// Where this release alone answers, by what is recorded and what the kernel has.
    async fn steered(&self, socket: &Socket, state: &SharedState) -> Result<Target, String> {
        let (Some(addr), Some(on)) = (socket.address.loopback(), bound(&socket.address)) else {
            return Ok(Target::Unix(socket.address.listen_stream().into()));
        };
        let mut members = state.lock().await.groups.get(&socket.group()).cloned().unwrap_or_default();
        let in_kernel = facts::listening(on).map_err(|e| e.to_string())?;
        if in_kernel < members.len() {
            members.retain(|s| self.held.get(&s.unit).is_some());
        }
        let index = members.iter().position(|s| s.tag == socket.tag).and_then(|i| u8::try_from(i).ok());
        let index = index.ok_or_else(|| format!("it does not listen on {}", socket.address))?;
        Ok(Target::Tcp { addr, mark: Some(self.settings.mark_prefix.mark(index)) })
    }
}
