//! The plan of a push, as people see it before it happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use deployd_api::deployment::{PlanAnswer, PlanRequest};
use deployd_api::error::ErrorBody;
use deployd_api::ids::AppName;
use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::release::{Origin, ReleaseDocument};
use deployd_core::action::Action;
use deployd_core::diff;
use deployd_core::plan::{Planned, Request};

use crate::effects::{RealHost, step_failed};
use crate::host::facts;
use crate::store::disk;
use crate::store::releases::TreeName;
use crate::supervisor::Supervisor;

type Deployd = Arc<Supervisor<RealHost>>;

/// What a push of this would do; nothing is changed but staging, which a push would use.
pub async fn answer(deployd: &Deployd, request: PlanRequest) -> Result<PlanAnswer, ErrorBody> {
    let PlanRequest { manifest, spec, strategy } = request;
    let app = spec.app.clone();
    let changed_files = changed_files(deployd, &app, &manifest).await;
    let (releases, of, copy) = (deployd.host().releases.clone(), app.clone(), manifest.clone());
    let work = move || releases.begin(&of, &copy);
    let missing =
        tokio::task::spawn_blocking(work).await.map_err(|e| step_failed(&e))?.map_err(|e| step_failed(&e))?;
    let document = Box::new(ReleaseDocument::new(manifest.digest(), spec.clone()));
    let wanted = strategy.unwrap_or(spec.deploy.strategy);
    let push = Request::Push { document, strategy, origin: Origin::default() };
    let mut answer = PlanAnswer {
        app: app.clone(),
        from: None,
        to: None,
        strategy: wanted,
        files: manifest.files().count() as u64,
        changed_files,
        bytes_to_send: missing.bytes,
        config: Vec::new(),
        steps: Vec::new(),
        fits: Vec::new(),
        refused: None,
    };
    if let Ok(known) = deployd.app(&app).await {
        let state = known.lock().await;
        answer.from = state.live.map(|t| t.label);
        answer.config = diff::config_changes(state.live_release().map(|r| &r.document.spec), &spec);
    }
    match deployd.dry_run(&app, &push).await {
        Ok((_, Planned::Nothing { .. })) => {}
        Ok((_, Planned::Plan(plan))) => {
            answer.to = plan.to.map(|t| t.label);
            // Bookkeeping is no news to a person.
            let told = plan.steps.iter().filter(|s| {
                !matches!(
                    s.action,
                    Action::Record { .. } | Action::PrepareDirs { .. } | Action::ReloadIfNeeded { .. }
                )
            });
            answer.steps = told.map(|s| s.action.text()).collect();
            answer.fits = fits(deployd);
        }
        Err(refused) => answer.refused = Some(refused),
    }
    Ok(answer)
}

/// What a push has to fit into, in words.
fn fits(deployd: &Deployd) -> Vec<String> {
    const GIB: f64 = (1_u64 << 30) as f64;
    let mut fits = vec![std::env::consts::ARCH.to_owned()];
    if let Ok(disk) = disk::observe(Path::new(&deployd.host().settings.apps_dir)) {
        fits.push(format!("disk {:.0} GB free", disk.free_bytes as f64 / GIB));
    }
    if let Ok(memory) = facts::memory_available() {
        fits.push(format!("memory {:.1} GB free", memory as f64 / GIB));
    }
    fits
}

/// Paths that differ from the live release, with `+`, `-` or `~` before them.
pub async fn changed_files(deployd: &Deployd, app: &AppName, to: &Manifest) -> Vec<String> {
    let from = live_manifest(deployd, app).await.unwrap_or_default();
    let index = |m: &Manifest| -> BTreeMap<String, EntryKind> {
        m.entries().iter().map(|e| (e.path.clone(), e.kind.clone())).collect()
    };
    let (before, after) = (index(&from), index(to));
    let mut out: Vec<String> = Vec::new();
    for (path, kind) in &after {
        match before.get(path) {
            None if *kind != EntryKind::Dir => out.push(format!("+ {path}")),
            Some(old) if old != kind => out.push(format!("~ {path}")),
            _ => {}
        }
    }
    let gone = before.iter().filter(|(path, kind)| !after.contains_key(*path) && **kind != EntryKind::Dir);
    out.extend(gone.map(|(path, _)| format!("- {path}")));
    out
}

async fn live_manifest(deployd: &Deployd, app: &AppName) -> Option<Manifest> {
    let state = deployd.app(app).await.ok()?;
    let live = state.lock().await.live_release().map(|r| TreeName::new(r.label, r.digest))?;
    let (releases, app) = (deployd.host().releases.clone(), app.clone());
    tokio::task::spawn_blocking(move || releases.manifest(&app, &live)).await.ok()?.ok()
}
