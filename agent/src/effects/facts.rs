//! Looks at the host once, for one plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, ProcessName};
use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::needs::Named;
use deployd_api::release::ReleaseDocument;
use deployd_api::spec::{Address, Spec};
use deployd_core::action::UnitFile;
use deployd_core::facts::{ArtifactFacts, Facts, Platform};
use deployd_core::plan::Request;
use deployd_core::state::AppState;

use super::RealHost;
use super::failure::{release_failed, step_failed};
use super::files::blocking;
use crate::driver::clock;
use crate::host::{elf, facts, platform, users};
use crate::store::secrets::Versions;
use crate::supervisor::{Claims, Observer};

/// Where programs that are named without a path are looked for, as PID 1 does.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Observer for RealHost {
    async fn facts(&self, request: &Request, state: AppState, others: &Claims) -> Result<Facts, ErrorBody> {
        self.facts_with(request, None, state, others).await
    }

    async fn prepare(&self, app: &AppName, request: &Request) -> Result<(), ErrorBody> {
        let Request::Push(push) = request else { return Ok(()) };
        // What cannot be delivered is for the plan to refuse.
        if self.secrets.missing(app, &push.document.secrets).await?.is_empty() {
            self.secrets.prepare(app, &push.document).await?;
        }
        Ok(())
    }

    fn boot_id(&self) -> String {
        self.settings.boot_id.clone()
    }

    fn is_committed(&self, target: &UnitFile, wanted_by: &str) -> bool {
        super::is_committed(target, Path::new(wanted_by))
    }

    async fn next_uid(&self) -> Result<u32, ErrorBody> {
        let next = self.store.next_uid(self.settings.uids.clone()).await;
        next.map_err(|e| crate::supervisor::store_failed(&e))
    }

    async fn allocate_uid(&self, app: &AppName) -> Result<u32, ErrorBody> {
        loop {
            let given = self.store.allocate_uid(app, self.settings.uids.clone(), clock::now()).await;
            let uid = given.map_err(|e| crate::supervisor::store_failed(&e))?;
            // Somebody else's already: the next one then.
            if users::is_free(uid) {
                return Ok(uid);
            }
        }
    }
}

impl RealHost {
    /// The same for a push that is only asked about: of this manifest, of which nothing needs to have been sent.
    pub async fn facts_with(
        &self,
        request: &Request,
        manifest: Option<Arc<Manifest>>,
        state: AppState,
        others: &Claims,
    ) -> Result<Facts, ErrorBody> {
        let spec = wanted(request, &state);
        let artifact = match request {
            Request::Push(push) => self.artifact(&state.app, &push.document, manifest).await?,
            _ => None,
        };
        let (secrets, unsealed) = self.secrets(request, &state.app).await?;
        let ported = ported_instances(request, &state);
        let (app, promised) = (state.app.clone(), others.private.clone());
        let look = move || {
            let memory = facts::memory_available().map_err(|e| step_failed(&e))?;
            Ok((memory, users::lookup(&app).err().map(|e| e.to_string()), base_port(ported, &promised)?))
        };
        let (memory_available, user_taken, base_port) = blocking(look).await??;
        let live = self.settings.live.get();
        Ok(Facts {
            now: clock::now(),
            host: live.name.clone(),
            region: live.region.clone(),
            apps_dir: self.settings.apps_dir.clone(),
            runtime: self.settings.runtime.clone(),
            memory_available,
            artifact,
            strangers: match spec {
                Some(spec) => self.strangers(spec, &state, others).await?,
                None => BTreeMap::new(),
            },
            user_taken,
            base_port,
            keep: live.keep,
            epmd: super::epmd::needed(&state.app)?,
            platform: self.platform(request).await?,
            secrets,
            unsealed,
            credentials: self.secrets.form(),
            state,
        })
    }

    /// The versions that the app has, and what the request names and is not among what can be delivered.
    async fn secrets(&self, request: &Request, app: &AppName) -> Result<(Versions, Versions), ErrorBody> {
        let current = self.secrets.versions(app).await?;
        let Request::Push(push) = request else { return Ok((current, Versions::new())) };
        let missing = self.secrets.missing(app, &push.document.secrets).await?;
        Ok((current, missing))
    }

    /// What the programs of a push meet here.
    async fn platform(&self, request: &Request) -> Result<Platform, ErrorBody> {
        let Request::Push(push) = request else { return Ok(Platform::default()) };
        let names = |all: &[Named]| all.iter().map(|named| named.name.clone()).collect::<BTreeSet<_>>();
        let (interpreters, libraries) = (names(&push.needs.interpreters), names(&push.needs.libraries));
        let dir = self.apps_dir();
        blocking(move || {
            let noexec = crate::store::disk::noexec(&dir);
            let noexec = noexec.map_err(|e| super::files::io_failed("look at the mount of", &dir, &e))?;
            Ok(Platform { noexec, ..platform::look(&interpreters, &libraries, PATH) })
        })
        .await?
    }

    async fn artifact(
        &self,
        app: &AppName,
        document: &ReleaseDocument,
        manifest: Option<Arc<Manifest>>,
    ) -> Result<Option<ArtifactFacts>, ErrorBody> {
        let (artifact, spec) = (document.artifact, &document.spec);
        let word = |p: &deployd_api::spec::Process| p.exec.first().cloned().unwrap_or_default();
        let inside = |w: &String| w.contains('/') && !w.starts_with('/');
        let clean = |w: String| w.trim_start_matches("./").to_owned();
        let paths: Vec<String> = spec.processes.values().map(word).filter(inside).map(clean).collect();
        let (releases, of, dir) = (self.releases.clone(), app.clone(), self.apps_dir());
        let words: Vec<(ProcessName, String)> =
            spec.processes.iter().map(|(name, process)| (name.clone(), clean(word(process)))).collect();
        let look = move || {
            let staged = match manifest {
                Some(manifest) => releases.look(&of, manifest, &paths).map(Some),
                None => releases.peek(&of, artifact, &paths),
            };
            let Some(staged) = staged.map_err(|e| release_failed(&e))? else { return Ok(None) };
            // What has not arrived yet is judged when it has: a plan asks before anything is sent.
            let seen = words.into_iter().filter(|(_, word)| !staged.unseen.contains(word));
            let programs: BTreeMap<_, _> =
                seen.map(|(name, word)| (name, elf::inspect(staged.peek.path(), &word, PATH))).collect();
            let space = crate::store::disk::observe(&dir)
                .map_err(|e| super::files::io_failed("look at the room of", &dir, &e))?;
            Ok(Some((staged, programs, space)))
        };
        let looked: Result<_, ErrorBody> = blocking(look).await?;
        let Some((staged, programs, space)) = looked? else { return Ok(None) };
        let promised = self.disk.promised().bytes.saturating_add(self.settings.live.get().disk_reserve);
        let beam = staged.manifest.entries().iter().any(|e| e.path == "releases/start_erl.data");
        Ok(Some(ArtifactFacts {
            size: staged.manifest.total_size(),
            complete: staged.complete,
            needs: staged.need.bytes,
            room: space.free_bytes.saturating_sub(promised),
            beam,
            epmd: if beam { epmd(&staged.manifest) } else { None },
            programs,
        }))
    }

    /// Who else holds a port of the spec, or is about to. What the app itself listens on already is no stranger.
    async fn strangers(
        &self,
        spec: &Spec,
        state: &AppState,
        others: &Claims,
    ) -> Result<BTreeMap<u16, String>, ErrorBody> {
        let live = state.live_spec().filter(|_| !state.stopped);
        let served = live.iter().flat_map(|spec| spec.listen.values()).map(|l| &l.address);
        let known = state.groups.values().flatten().map(|socket| &socket.address);
        let own: Vec<u16> = served.chain(known).filter_map(Address::port).collect();
        let ported = spec.listen.values().filter_map(|l| Some((&l.address, l.address.port()?)));
        let prefix = format!("deployd-{}-", state.app.unit_part());
        let mut strangers = BTreeMap::new();
        for (address, port) in ported.filter(|(_, port)| !own.contains(port)) {
            let mut holders = facts::port_holders(port).await.map_err(|e| step_failed(&e))?;
            holders.retain(|h| Address::listed(h.local).overlaps(address));
            let theirs = others.public.iter().find(|(a, _)| a.overlaps(address));
            let of = |h: &&facts::PortHolder, p: &str| h.unit.as_ref().is_some_and(|u| u.starts_with(p));
            // PID 1 and the agent hold sockets for others: who serves says more.
            let serves = holders.iter().find(|h| !of(h, "init.scope") && !of(h, "deployd.service"));
            let other = serves.or_else(|| holders.first()).filter(|h| !of(h, &prefix));
            if let Some(other) = other {
                strangers.insert(port, holder_text(other));
            } else if let Some((_, app)) = theirs {
                strangers.insert(port, format!("{app}, which is being deployed"));
            }
        }
        Ok(strangers)
    }
}

/// The spec of what is to run next; of what runs already nothing is asked.
fn wanted<'a>(request: &'a Request, state: &'a AppState) -> Option<&'a Spec> {
    match request {
        Request::Push(push) => Some(&push.document.spec),
        Request::Rollback { to } => Some(&state.releases.get(&to.or(state.previous)?)?.document.spec),
        Request::Start => state.live_spec().filter(|_| state.stopped),
        Request::Stop | Request::Restart | Request::Remove => None,
    }
}

/// How many private ports the release that is to run needs: one an instance that is reached by one.
fn ported_instances(request: &Request, state: &AppState) -> u32 {
    // A start keeps the ports of the activation that there is.
    let spec = wanted(request, state).filter(|_| !matches!(request, Request::Start));
    let Some(spec) = spec else { return 0 };
    spec.processes.iter().filter(|(name, _)| spec.has_private_port(name)).map(|(_, p)| p.instances).sum()
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
fn base_port(instances: u32, promised: &BTreeSet<u16>) -> Result<u16, ErrorBody> {
    if instances == 0 {
        return Ok(0);
    }
    // The first port is the base, and instance 1 uses the one after it.
    let wanted = u16::try_from(instances.saturating_add(1)).unwrap_or(u16::MAX);
    let found = facts::free_port_run(wanted, promised);
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

#[cfg(test)]
mod tests {
    use deployd_api::ids::{Digest, Timestamp};
    use deployd_api::release::{Origin, ReleaseState};
    use deployd_api::spec::parse;
    use deployd_core::state::Release;

    use super::*;

    fn release(label: &str, handoff: &str, instances: u32) -> Release {
        let text = format!(
            "app = \"shop\"\n[processes.web]\nexec = \"bin/web\"\ninstances = {instances}\n\
             [listen.http]\naddress = \":8080\"\nhandoff = \"{handoff}\"\n"
        );
        let document = ReleaseDocument::new(Digest::of(label.as_bytes()), parse(&text).unwrap());
        Release {
            label: label.parse().unwrap(),
            digest: document.digest(),
            document,
            earlier: vec![],
            tree: String::new(),
            runtime: String::new(),
            beam: false,
            epmd: None,
            state: ReleaseState::Kept,
            created: Timestamp(0),
            origin: Origin::default(),
            changed: vec![],
            failure: None,
            size: 0,
            runs: 1,
            base_port: 0,
            secrets: None,
        }
    }

    /// Going back to a release with private ports needs as many as that one has, whatever is live.
    #[test]
    fn a_rollback_gets_the_ports_of_where_it_goes() {
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        for release in [release("v1", "port", 3), release("v2", "auto", 1), release("v3", "port", 2)] {
            state.releases.insert(release.label, release);
        }
        state.live = Some("v2".parse().unwrap());
        state.previous = Some("v1".parse().unwrap());
        let to = |label: Option<&str>| Request::Rollback { to: label.map(|l| l.parse().unwrap()) };
        assert_eq!(ported_instances(&to(None), &state), 3);
        assert_eq!(ported_instances(&to(Some("v3")), &state), 2);
        assert_eq!(ported_instances(&to(Some("v2")), &state), 0);
        assert_eq!(base_port(0, &BTreeSet::new()).unwrap(), 0);
        let first = base_port(3, &BTreeSet::new()).unwrap();
        assert_ne!(first, 0);
        // The port of a program that is down at the moment is not given to another.
        assert_ne!(base_port(3, &BTreeSet::from([first + 2])).unwrap(), first);
    }
}
