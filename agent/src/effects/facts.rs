//! Looks at the host once, for one plan.

use std::collections::BTreeMap;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::spec::{Handoff, Spec};
use deployd_core::facts::{ArtifactFacts, Facts};
use deployd_core::plan::Request;
use deployd_core::state::AppState;

use super::RealHost;
use super::failure::step_failed;
use super::files::blocking;
use crate::driver::clock;
use crate::host::{elf, facts, users};
use crate::supervisor::Observer;

/// Where programs that are named without a path are looked for, as PID 1 does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Observer for RealHost {
    async fn facts(&self, request: &Request, state: AppState) -> Result<Facts, ErrorBody> {
        let spec = match request {
            Request::Push { document, .. } => Some(&document.spec),
            _ => None,
        };
        let artifact = match request {
            Request::Push { document, .. } => {
                self.artifact(&state.app, document.artifact, &document.spec).await?
            }
            _ => None,
        };
        Ok(Facts {
            now: clock::now(),
            host: self.settings.name.clone(),
            region: self.settings.region.clone(),
            apps_dir: self.settings.apps_dir.clone(),
            runtime: self.settings.runtime.clone(),
            memory_available: facts::memory_available().map_err(|e| step_failed(&e))?,
            artifact,
            strangers: match spec {
                Some(spec) => self.strangers(spec, &state).await?,
                None => BTreeMap::new(),
            },
            user_taken: users::lookup(&state.app).err().map(|e| e.to_string()),
            base_port: base_port(spec, &state)?,
            keep: self.settings.keep,
            epmd: super::epmd::needed(&state.app)?,
            state,
        })
    }

    fn boot_id(&self) -> String {
        self.settings.boot_id.clone()
    }

    async fn allocate_uid(&self, app: &AppName) -> Result<u32, ErrorBody> {
        let given = self.store.allocate_uid(app, self.settings.uids.clone(), clock::now()).await;
        given.map_err(|e| crate::supervisor::store_failed(&e))
    }
}

impl RealHost {
    async fn artifact(
        &self,
        app: &AppName,
        artifact: Digest,
        spec: &Spec,
    ) -> Result<Option<ArtifactFacts>, ErrorBody> {
        let word = |p: &deployd_api::spec::Process| p.exec.first().cloned().unwrap_or_default();
        let inside = |w: &String| w.contains('/') && !w.starts_with('/');
        let clean = |w: String| w.trim_start_matches("./").to_owned();
        let paths: Vec<String> = spec.processes.values().map(word).filter(inside).map(clean).collect();
        let (releases, of) = (self.releases.clone(), app.clone());
        let staged = blocking(move || releases.peek(&of, artifact, &paths)).await?;
        let Some(staged) = staged.map_err(|e| step_failed(&e))? else { return Ok(None) };
        // What has not arrived yet is judged when it has: a plan asks before anything is sent.
        let seen = spec.processes.iter().filter(|(_, p)| !staged.unseen.contains(&clean(word(p))));
        let programs = seen.map(|(name, process)| {
            (name.clone(), elf::inspect(&staged.peek, &clean(word(process)), PATH).into())
        });
        let space = crate::store::disk::observe(&self.apps_dir())
            .map_err(|e| super::files::io_failed("look at the room of", &self.apps_dir(), &e))?;
        let promised = self.disk.promised().bytes.saturating_add(self.settings.disk_reserve);
        let beam = staged.manifest.entries().iter().any(|e| e.path == "releases/start_erl.data");
        Ok(Some(ArtifactFacts {
            size: staged.manifest.total_size(),
            complete: staged.complete,
            needs: staged.need.bytes,
            room: space.free_bytes.saturating_sub(promised),
            beam,
            epmd: if beam { epmd(&staged.manifest) } else { None },
            programs: programs.collect(),
        }))
    }

    /// Who else holds a port of the spec. What the app itself listens on already is no stranger.
    async fn strangers(&self, spec: &Spec, state: &AppState) -> Result<BTreeMap<u16, String>, ErrorBody> {
        let live = state.live_release().filter(|_| !state.stopped);
        let own: Vec<u16> = live
            .iter()
            .flat_map(|r| r.document.spec.listen.values())
            .filter_map(|l| l.address.port())
            .collect();
        let ports = spec.listen.values().filter_map(|l| l.address.port()).filter(|p| !own.contains(p));
        let prefix = format!("deployd-{}-", state.app.unit_part());
        let mut strangers = BTreeMap::new();
        for port in ports {
            let holders = facts::port_holders(port).await.map_err(|e| step_failed(&e))?;
            let of = |h: &&facts::PortHolder, p: &str| h.unit.as_ref().is_some_and(|u| u.starts_with(p));
            // PID 1 and the agent hold sockets for others: who serves says more.
            let serves = holders.iter().find(|h| !of(h, "init.scope") && !of(h, "deployd.service"));
            let other = serves.or_else(|| holders.first()).filter(|h| !of(h, &prefix));
            if let Some(other) = other {
                strangers.insert(port, holder_text(other));
            }
        }
        Ok(strangers)
    }
}

/// The epmd of a BEAM release: its own, or, when it brings no runtime, the one that it would find on the host.
fn epmd(manifest: &Manifest) -> Option<String> {
    let own = manifest.entries().iter().find(|e| {
        let runtime = e.path.strip_prefix("erts-").and_then(|rest| rest.split_once('/'));
        let runs = matches!(e.kind, EntryKind::File { executable: true, .. });
        runs && runtime.is_some_and(|(_, inside)| inside == "bin/epmd")
    });
    own.map(|e| e.path.clone()).or_else(|| {
        let found = elf::on_path("epmd", PATH)?;
        Some(found.to_string_lossy().into_owned())
    })
}

/// Free loopback ports for programs that cannot take a listener.
fn base_port(spec: Option<&Spec>, state: &AppState) -> Result<u16, ErrorBody> {
    let spec = spec.or_else(|| state.live_release().map(|r| &r.document.spec));
    let ported = spec.is_some_and(|s| s.listen.values().any(|l| l.handoff == Handoff::Port));
    if !ported {
        return Ok(0);
    }
    let instances = spec.map_or(1, |s| s.processes.values().map(|p| p.instances).max().unwrap_or(1));
    // The first port is the base, and instance 1 uses the one after it.
    let found = facts::free_port_run(u16::try_from(instances + 1).unwrap_or(u16::MAX));
    found.ok_or_else(|| {
        let message = format!("no {instances} free loopback ports in a row between 20000 and 30000");
        ErrorBody::new(ErrorCode::PortTaken, message, "end what holds them: ss -ltn")
    })
}

fn holder_text(holder: &facts::PortHolder) -> String {
    match (&holder.unit, &holder.process, holder.pid) {
        (Some(unit), Some(process), Some(pid)) => format!("{process} of {unit} (pid {pid})"),
        (None, Some(process), Some(pid)) => format!("{process} (pid {pid})"),
        _ => format!("another program on {}", holder.local),
    }
}
