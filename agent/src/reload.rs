//! Changes of the config and of the TLS folder while the agent runs: watched, and taken over as a whole or not at all.
//!
//! What is wrong with a file leaves in force what was, and is told in the journal and by `doctor`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deployd_api::status::{Finding, Severity};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{ADDITIONS, Key, LogLevel, Settings};
use crate::driver::clock;
use crate::effects::{Live, Tunable};
use crate::host::facts;
use crate::store::disk::Reservations;
use crate::tls::Trust;

/// Files are often written in several steps: they are read when it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(200);
/// Nothing tells that time has passed, or that a folder was made that could not be watched: look by yourself.
const ANYWAY: Duration = Duration::from_mins(5);

/// What is wrong with files that were read again. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    /// Why the config as it is now is not in force.
    config: Option<String>,
    /// Keys that wait for a restart.
    waiting: Vec<Key>,
}

impl Notices {
    /// What `doctor` says of the config and the certificates: each check with what it found.
    pub fn looks(&self, trust: &Trust) -> Vec<(&'static str, Vec<Finding>)> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        vec![("config", config_findings(&noted)), ("tls", trust.findings(clock::now()))]
    }
}

fn config_findings(noted: &Noted) -> Vec<Finding> {
    let finding = |severity, code: &str, what, next: &str| Finding {
        severity,
        code: code.to_owned(),
        subject: crate::config::CONFIG_FILE.to_owned(),
        what,
        next: next.to_owned(),
    };
    let mut found = Vec::new();
    if let Some(why) = &noted.config {
        let what = format!("{why}; what was in force stays");
        found.push(finding(Severity::Error, "config_invalid", what, "mend it: deployd check-config"));
    }
    if !noted.waiting.is_empty() {
        let what = format!("{} changed, and wait for a restart of the agent", words(&noted.waiting));
        let next = "systemctl restart deployd: apps keep serving";
        found.push(finding(Severity::Warn, "restart_needed", what, next));
    }
    found
}

fn words(keys: &[Key]) -> String {
    keys.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ")
}

/// Changes how much is logged.
pub type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// What can change, and how.
pub struct Reloader {
    /// The config file.
    pub config: PathBuf,
    /// What the agent was started with: what needs a restart is compared with it.
    pub started: Settings,
    /// Where the rest goes.
    pub live: Live,
    /// The ledger that keeps the reserve.
    pub disk: Reservations,
    /// Changes how much is logged.
    pub set_level: SetLevel,
    /// The certificates.
    pub trust: Trust,
    /// What was wrong.
    pub notices: Notices,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Watches until the task is dropped.
    pub async fn run(mut self) {
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut watched = Watched::new(&self, sender);
        loop {
            watched.renew();
            let woken = tokio::time::timeout(ANYWAY, events.recv()).await;
            if matches!(woken, Ok(None)) {
                warn!("files are not watched any more: systemctl restart deployd applies changes");
                return;
            }
            while matches!(tokio::time::timeout(QUIET, events.recv()).await, Ok(Some(()))) {}
            self.look();
        }
    }

    /// Reads everything again.
    pub fn look(&mut self) {
        // What is wrong is told where it is found.
        drop(self.trust.reload(clock::now()));
        match Settings::load(&self.config) {
            Ok(effective) => self.apply(&effective.settings),
            Err(wrong) => {
                let told = wrong.to_string().replace('\n', "; ");
                let mut noted = self.notices.0.lock().unwrap_or_else(PoisonError::into_inner);
                if noted.config.as_ref() != Some(&told) {
                    error!(error = %told, "the config is not good: what was in force stays");
                }
                noted.config = Some(told);
            }
        }
    }

    fn apply(&mut self, new: &Settings) {
        let before = self.live.get();
        let now = tunable(new, &self.trust).unwrap_or_else(|e| {
            warn!(error = %e, "failed to read the host's name");
            Tunable { name: before.name.clone(), ..(*before).clone() }
        });
        if *before != now {
            info!(
                name = now.name,
                region = now.region,
                keep = now.keep,
                disk_reserve = now.disk_reserve,
                "the config has changed"
            );
            self.disk.set_reserve(now.disk_reserve);
            self.live.set(now);
        }
        if self.started.log_level != new.log_level {
            (self.set_level)(new.log_level);
            info!(level = new.log_level.as_str(), "another level is logged");
            self.started.log_level = new.log_level;
        }
        let waiting = waiting(&self.started, new);
        let mut noted = self.notices.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.config = None;
        if noted.waiting != waiting && !waiting.is_empty() {
            warn!(keys = words(&waiting), "changed keys wait for a restart: systemctl restart deployd");
        }
        noted.waiting = waiting;
    }
}

/// The values that can change, as config, certificate and host say.
pub fn tunable(settings: &Settings, trust: &Trust) -> Result<Tunable, facts::FactError> {
    let name = match (&settings.host_name, trust.host()) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.to_string(),
        (None, None) => facts::host_name()?,
    };
    Ok(Tunable {
        name,
        region: settings.region.clone(),
        keep: settings.keep_releases as usize,
        disk_reserve: settings.disk_reserve,
    })
}

/// Keys that differ and take effect at a start only.
fn waiting(started: &Settings, new: &Settings) -> Vec<Key> {
    let differs = |key: &Key| match key {
        Key::StateDir => started.state_dir != new.state_dir,
        Key::MarkPrefix => started.mark_prefix != new.mark_prefix,
        Key::UidRange => started.uid_range != new.uid_range,
        Key::Secrets => started.secrets != new.secrets,
        Key::DiskReserve | Key::KeepReleases | Key::LogLevel | Key::Region | Key::HostName => false,
    };
    Key::ALL.iter().copied().filter(differs).collect()
}

/// The folders that are watched: files are replaced by renames, so the files themselves would be lost.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    wanted: Vec<PathBuf>,
    have: BTreeSet<PathBuf>,
}

impl Watched {
    fn new(reloader: &Reloader, sender: mpsc::UnboundedSender<()>) -> Self {
        let tell = move |event: notify::Result<notify::Event>| {
            // We read them ourselves: that is no change. Without a receiver the agent is ending.
            if event.map_or(true, |event| is_change(event.kind)) {
                let _ = sender.send(());
            }
        };
        let watcher = notify::recommended_watcher(tell);
        if let Err(e) = &watcher {
            warn!(error = %e, "files cannot be watched: systemctl restart deployd applies changes");
        }
        let config = reloader.config.parent().unwrap_or(Path::new("/")).to_owned();
        let additions = config.join(ADDITIONS);
        let wanted = vec![config, additions, reloader.trust.dir().to_owned()];
        Self { watcher: watcher.ok(), wanted, have: BTreeSet::new() }
    }

    /// Watches what is there and is not watched yet; what has gone may come again.
    fn renew(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        for path in &self.wanted {
            match (path.is_dir(), self.have.contains(path)) {
                (true, false) if watcher.watch(path, RecursiveMode::NonRecursive).is_ok() => {
                    self.have.insert(path.clone());
                }
                (false, true) => {
                    // The kernel has forgotten it already.
                    let _ = watcher.unwatch(path);
                    self.have.remove(path);
                }
                _ => {}
            }
        }
    }
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
