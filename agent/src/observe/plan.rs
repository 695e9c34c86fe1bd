//! The plan of a push, as people see it before it happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use deployd_api::deployment::{PlanAnswer, PlanRequest};
use deployd_api::error::ErrorBody;
use deployd_api::ids::AppName;
use deployd_api::manifest::{EntryKind, Manifest};
use deployd_api::release::ReleaseDocument;
use deployd_core::action::Action;
use deployd_core::diff;
use deployd_core::facts::Facts;
use deployd_core::plan::{self, Plan, Planned, Push, Request};
use deployd_core::state::{AppState, Release};

use super::outline;
use crate::effects::{RealHost, release_failed, step_failed};
use crate::store::disk;
use crate::store::releases::TreeName;
use crate::supervisor::Supervisor;

type Deployd = Arc<Supervisor<RealHost>>;

/// What a push of this would do; nothing is changed.
pub async fn answer(deployd: &Deployd, request: PlanRequest) -> Result<PlanAnswer, ErrorBody> {
    let app = request.spec.app.clone();
    let manifest = Arc::new(request.manifest);
    let changed_files = changed_files(deployd, &app, &manifest).await;
    let (releases, of, copy) = (deployd.host().releases.clone(), app.clone(), manifest.clone());
    let work = move || releases.missing(&of, &copy);
    let missing = tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| step_failed(&e))?
        .map_err(|e| release_failed(&e))?;
    // The uid is only shown inside units, and none is written.
    let state = match deployd.app(&app).await {
        Ok(known) => known.lock().await.clone(),
        Err(_) => AppState::new(app.clone(), 0),
    };
    let secrets = deployd.host().secrets.versions(&app).await?;
    let document = ReleaseDocument::new(missing.artifact, request.spec);
    let document = ReleaseDocument { secrets: secrets.clone(), ..document };
    let push = Push {
        strategy: request.strategy,
        migrate: request.migrate,
        needs: request.needs,
        ..Push::new(document, request.processes.as_deref())
    };
    let asked = Request::Push(Box::new(push.clone()));
    let others = deployd.claims_beside(&state).await;
    let facts = deployd.host().facts_with(&asked, Some(manifest.clone()), state.clone(), &others).await?;
    let fits = fits(deployd, &push, &facts);
    let (planned, refused) = match plan::plan(&asked, &facts) {
        Ok(planned) => (Some(planned), None),
        // What would happen if it were not refused is told all the same.
        Err(refused) => {
            let easy = Request::Push(Box::new(push.unobstructed()));
            (plan::plan(&easy, &unobstructed(facts)).ok(), Some(*refused))
        }
    };
    let live = state.live_spec();
    let known = |r: &&Release| r.digest == push.digest && r.is_kept();
    let mut answer = PlanAnswer {
        app,
        from: state.live.map(|t| t.label),
        to: refused.is_some().then(|| state.next_label()),
        strategy: push.strategy(),
        files: manifest.files().count() as u64,
        changed_files,
        bytes_to_send: missing.bytes,
        config: diff::config_changes(live, &push.document.spec),
        outline: Vec::new(),
        steps: Vec::new(),
        fits,
        known_as: state.releases.values().rev().find(known).map(|r| r.label),
        next_label: state.next_label(),
        state: Some(plan::fingerprint(&state, &secrets)),
        secrets,
        refused,
    };
    if let Some(Planned::Plan(plan)) = planned {
        answer.to = plan.to.map(|t| t.label);
        answer.outline = outline::of(&plan, live);
        answer.steps = told(&plan);
    }
    Ok(answer)
}

/// The steps in words; bookkeeping is no news to a person.
fn told(plan: &Plan) -> Vec<String> {
    let news = |action: &Action| {
        !matches!(
            action,
            Action::Record { .. }
                | Action::PrepareDirs { .. }
                | Action::ReloadIfNeeded { .. }
                | Action::ClearMigration { .. }
        )
    };
    plan.steps.iter().map(|s| &s.action).filter(|a| news(a)).map(Action::text).collect()
}

/// The same host without what a person can mend: what a refused push would do on it.
fn unobstructed(mut facts: Facts) -> Facts {
    facts.memory_available = u64::MAX;
    facts.strangers.clear();
    facts.user_taken = None;
    facts.platform.noexec = None;
    facts.unsealed.clear();
    if let Some(artifact) = &mut facts.artifact {
        artifact.room = u64::MAX;
        artifact.programs.clear();
    }
    for release in facts.state.releases.values_mut() {
        release.failure = None;
    }
    facts
}

/// What a push has to fit into, in words.
fn fits(deployd: &Deployd, push: &Push, facts: &Facts) -> Vec<String> {
    const GIB: f64 = (1_u64 << 30) as f64;
    let mut fits = vec![facts.platform.arch.clone()];
    fits.extend(facts.platform.glibc.iter().map(|version| format!("glibc {version}")));
    if let Ok(disk) = disk::observe(Path::new(&deployd.host().settings.apps_dir)) {
        fits.push(format!("disk {:.0} GB free", disk.free_bytes as f64 / GIB));
    }
    let overlap = plan::overlap(push, facts).map(|terms| format!(" for {terms} overlap")).unwrap_or_default();
    fits.push(format!("memory {} free{overlap}", plan::bytes(facts.memory_available)));
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
