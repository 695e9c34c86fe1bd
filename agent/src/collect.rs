//! Removes what nobody uses any more and no deployment accounts for: at the start what an earlier life of the
//! agent left half done, then once a day pushes that went nowhere, old trampolines, and notes about calls.
//!
//! It must never touch what a deployment or an app may still use, and no failure of it is fatal. Called by `boot`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deployd_api::error::ErrorBody;
use deployd_api::ids::{Label, Timestamp};
use deployd_api::release::ReleaseDocument;
use deployd_core::state::{AppState, Release};
use deployd_core::units;
use tracing::{info, warn};

use crate::commands;
use crate::driver::clock;
use crate::effects::{RealHost, on_disk, step_failed};
use crate::host::systemd::Systemd;
use crate::http::AUDIT;
use crate::store::atomic;
use crate::supervisor::{Supervisor, store_failed};

/// How often, and how old a push must be of which nothing came since.
const DAY: Duration = Duration::from_hours(24);
/// Where outputs of commands wait to be read.
const RUN_DIR: &str = "/run/deployd";

/// Clears what an agent that died left in the middle of something. Before anything runs: nothing here is in use.
pub async fn at_start(systemd: &Systemd) {
    if let Err(error) = end_checks(systemd).await {
        warn!(%error, "commands of checks that nobody waits for could not be ended");
    }
    if let Err(error) = take_over_commands(systemd).await {
        warn!(%error, "commands of an earlier life of the agent could not be looked at");
    }
    let swept = on_disk(|| sweep(Path::new(units::UNIT_DIR), Path::new(RUN_DIR))).await;
    match swept {
        Ok(0) => {}
        Ok(files) => info!(files, "cleared files that were left half written"),
        Err(error) => warn!(%error, "files that were left half written could not be cleared"),
    }
}

/// Commands whose callers went with the last agent end; those that were to go on are removed when they ended.
async fn take_over_commands(systemd: &Systemd) -> Result<(), ErrorBody> {
    let found = systemd.list(&["deployd-*.service"]).await.map_err(|e| step_failed(&e))?;
    for unit in found.into_iter().map(|unit| unit.name).filter(|name| commands::is_command(name)) {
        if !unit.contains('@') {
            systemd.clear(&unit).await.map_err(|e| step_failed(&e))?;
            continue;
        }
        let systemd = systemd.clone();
        tokio::spawn(async move {
            match systemd.finish(&unit).await {
                Ok(outcome) => {
                    info!(target: AUDIT, unit, ended = ?outcome.ended, audit = "run", "a command ended");
                }
                Err(error) => warn!(unit, %error, "how a command ended is not known"),
            }
        });
    }
    Ok(())
}

/// A check that was interrupted is made anew, with a command of its own.
async fn end_checks(systemd: &Systemd) -> Result<(), ErrorBody> {
    let found = systemd.list(&["deployd-check-dpl_*.service"]).await.map_err(|e| step_failed(&e))?;
    // Processes of an app that is named `check` are instances, and its migrations are none of a user's.
    for unit in found.into_iter().filter(|unit| !unit.name.contains('@')) {
        systemd.clear(&unit.name).await.map_err(|e| step_failed(&e))?;
    }
    Ok(())
}

/// Unit files, drop-ins and links that did not get their names, and outputs that nobody reads.
fn sweep(unit_dir: &Path, run_dir: &Path) -> usize {
    let is_drop_in = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with("deployd-") && path.extension() == Some(OsStr::new("d"))
    };
    let drop_ins = entries(unit_dir).into_iter().filter(is_drop_in);
    let folders = [unit_dir.to_owned(), unit_dir.join("multi-user.target.wants")];
    let mut swept = 0;
    for folder in folders.into_iter().chain(drop_ins) {
        match atomic::sweep(&folder) {
            Ok(files) => swept += files,
            Err(error) => warn!(folder = %folder.display(), %error, "a folder could not be swept"),
        }
    }
    let outputs = entries(run_dir).into_iter().filter(|p| p.extension() == Some(OsStr::new("out")));
    swept + outputs.filter(|path| std::fs::remove_file(path).is_ok()).count()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    // A folder that is not there has nothing in it.
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

/// Runs for ever.
pub async fn run(supervisor: Arc<Supervisor<RealHost>>) {
    loop {
        if let Err(error) = collect(&supervisor).await {
            warn!(%error, "what nobody uses could not be collected; trying again tomorrow");
        }
        tokio::time::sleep(DAY).await;
    }
}

async fn collect(supervisor: &Arc<Supervisor<RealHost>>) -> Result<(), ErrorBody> {
    let before = Timestamp(clock::now().0.saturating_sub(u64::try_from(DAY.as_millis()).unwrap_or(u64::MAX)));
    let calls = supervisor.store().collect_aliases(before).await.map_err(|e| store_failed(&e))?;
    let pushes = collect_staging(supervisor).await?;
    let runtimes = collect_runtimes(supervisor).await?;
    let secrets = collect_secrets(supervisor).await?;
    if calls + pushes + runtimes + secrets > 0 {
        info!(pushes, runtimes, calls, secrets, "collected what nobody uses");
    }
    Ok(())
}

async fn collect_staging(supervisor: &Arc<Supervisor<RealHost>>) -> Result<usize, ErrorBody> {
    let releases = supervisor.host().releases.clone();
    let list = releases.clone();
    let apps = on_disk(move || list.apps()).await?.map_err(|e| step_failed(&e))?;
    let before = SystemTime::now() - DAY;
    let mut collected = 0;
    for app in apps {
        let known = supervisor.app(&app).await.is_ok();
        // What is staged may be about to be sealed.
        let idle = supervisor.keep_idle(&app).await;
        if known && idle.is_none() {
            continue;
        }
        let releases = releases.clone();
        let work = move || {
            let collected = releases.collect_staging(&app, before)?;
            if !known && collected > 0 {
                releases.forget_empty(&app);
            }
            Ok::<_, crate::store::releases::ReleaseError>(collected)
        };
        collected += on_disk(work).await?.map_err(|e| step_failed(&e))?;
    }
    Ok(collected)
}

/// Sealed secrets that no release can come back with. While a deployment runs its plan may name some.
async fn collect_secrets(supervisor: &Arc<Supervisor<RealHost>>) -> Result<usize, ErrorBody> {
    let releases = supervisor.host().releases.clone();
    // Those that were never pushed, too: their secrets may have been set and unset.
    let apps = on_disk(move || releases.apps()).await?.map_err(|e| step_failed(&e))?;
    let mut collected = 0;
    for app in apps {
        let idle = supervisor.keep_idle(&app).await;
        if supervisor.unreadable().contains_key(&app) || (idle.is_none() && supervisor.has(&app).await) {
            continue;
        }
        let state = match supervisor.app(&app).await {
            Ok(state) => Some(state.lock().await.clone()),
            Err(_) => None,
        };
        // Hosts begin one after another, and a rollout may stand for days.
        let rollouts = match supervisor.open_rollouts(&app).await {
            Ok(rollouts) => rollouts,
            Err(error) => {
                warn!(%app, %error, "which secrets are in use is not known: all stay");
                continue;
            }
        };
        let named = state.iter().flat_map(in_use).chain(rollouts.iter().map(|r| &r.document));
        collected += supervisor.host().secrets.prune(&app, named).await?;
    }
    Ok(collected)
}

/// What runs, or may run again.
fn in_use(state: &AppState) -> impl Iterator<Item = &ReleaseDocument> {
    let tags = [state.live, state.committed, state.warm, state.candidate].into_iter().flatten();
    let labels: BTreeSet<Label> =
        tags.chain(state.draining.iter().copied()).map(|tag| tag.label).chain(state.previous).collect();
    let used = move |r: &&Release| r.is_kept() || labels.contains(&r.label);
    state.releases.values().filter(used).map(|r| &r.document)
}

/// Trampolines and shims that no release names. While a deployment is under way its plan may name one that no
/// state names yet.
async fn collect_runtimes(supervisor: &Arc<Supervisor<RealHost>>) -> Result<usize, ErrorBody> {
    let store = supervisor.store();
    if !store.unfinished().await.map_err(|e| store_failed(&e))?.is_empty() {
        return Ok(0);
    }
    // As text: also of an app whose state this version cannot read.
    let states = store.load_apps().await.map_err(|e| store_failed(&e))?;
    let states: Vec<String> = states.into_iter().map(|row| row.state).collect();
    let current = PathBuf::from(&supervisor.host().settings.runtime);
    on_disk(move || remove_runtimes(&current, &states)).await
}

fn remove_runtimes(current: &Path, states: &[String]) -> usize {
    let Some(root) = current.parent() else { return 0 };
    let named = |path: &PathBuf| states.iter().any(|s| s.contains(path.to_string_lossy().as_ref()));
    // Only what is named by its content: epmd stands beside them, and goes when nobody asks for it.
    let ours = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        name.len() == 8 && name.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let unused: BTreeSet<PathBuf> =
        entries(root).into_iter().filter(|path| path != current && ours(path) && !named(path)).collect();
    let mut removed = 0;
    for path in unused {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => removed += 1,
            Err(error) => warn!(path = %path.display(), %error, "an old trampoline could not be removed"),
        }
    }
    removed
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files and programs")]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }

    #[test]
    fn only_what_is_half_done_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (units, run) = (dir.path().join("units"), dir.path().join("run"));
        let stays = ["a.service", ".hidden", "other.d/.x.1.0.deployd-new", "deployd-a@.service.d/50.conf"];
        let goes = [
            ".deployd-a.service.1.0.deployd-new",
            "multi-user.target.wants/.deployd-a.target.1.1.deployd-new",
            "deployd-a@.service.d/.50.conf.1.2.deployd-new",
        ];
        stays.iter().chain(&goes).for_each(|name| touch(&units.join(name)));
        touch(&run.join("deployd-check-x.out"));
        touch(&run.join("deployd.sock"));
        assert_eq!(sweep(&units, &run), 4);
        assert!(stays.iter().all(|name| units.join(name).exists()));
        assert!(!goes.iter().any(|name| units.join(name).exists()));
        assert!(run.join("deployd.sock").exists());
        assert_eq!(sweep(&units, &run), 0);
        assert_eq!(sweep(&dir.path().join("none"), &run), 0);
    }

    /// A release that was rolled back keeps its secrets as long as its last connections live.
    #[test]
    fn what_drains_or_is_on_trial_keeps_its_secrets() {
        use deployd_api::release::{Origin, ReleaseState};
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        let spec = deployd_api::spec::parse("app = \"shop\"\n[processes.web]\nexec = \"x\"\n").unwrap();
        for (label, is) in [
            ("v1", ReleaseState::RolledBack),
            ("v2", ReleaseState::RolledBack),
            ("v3", ReleaseState::Kept),
            ("v4", ReleaseState::Candidate),
            ("v5", ReleaseState::Candidate),
        ] {
            let document = ReleaseDocument::new(deployd_api::ids::Digest::of(label.as_bytes()), spec.clone());
            let release = Release {
                label: label.parse().unwrap(),
                digest: document.digest(),
                document,
                earlier: vec![],
                tree: String::new(),
                runtime: String::new(),
                beam: false,
                epmd: None,
                state: is,
                created: Timestamp(0),
                origin: Origin::default(),
                changed: vec![],
                failure: None,
                size: 0,
                runs: 1,
                base_port: 0,
                secrets: None,
            };
            state.releases.insert(release.label, release);
        }
        state.draining = vec!["v2".parse().unwrap()];
        state.candidate = Some("v5".parse().unwrap());
        let used: Vec<_> = in_use(&state).map(|d| d.artifact).collect();
        assert_eq!(used, ["v2", "v3", "v5"].map(|l| deployd_api::ids::Digest::of(l.as_bytes())));
    }

    #[test]
    fn a_runtime_stays_as_long_as_something_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["0aaaaaaa", "1bbbbbbb", "2ccccccc", "epmd"] {
            touch(&at(name).join("deployd-exec"));
        }
        let states = [format!("{{\"runtime\":\"{}\"}}", at("1bbbbbbb").display())];
        assert_eq!(remove_runtimes(&at("0aaaaaaa"), &states), 1);
        assert!(["0aaaaaaa", "1bbbbbbb", "epmd"].iter().all(|name| at(name).exists()));
        assert!(!at("2ccccccc").exists());
    }
}
