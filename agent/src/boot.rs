//! The start of the agent, in order: config → journal → what was borrowed → certificates → recovery → API → ready.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use deployd_core::steering::MarkPrefix;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::commands::Commands;
use crate::config::{LogLevel, Settings};
use crate::driver::clock;
use crate::driver::hold::Hold;
use crate::effects::{Carrying, Held, HostSettings, Live, RealHost};
use crate::host::fdstore::Collected;
use crate::host::lender::{LENDER_SOCKET, Lender};
use crate::host::systemd::Systemd;
use crate::host::{facts, fdstore};
use crate::http::{self, AUDIT, Api, Doors};
use crate::reload::{self, Notices, Reloader, SetLevel};
use crate::secrets::Vault;
use crate::store::Store;
use crate::store::atomic;
use crate::store::disk::Reservations;
use crate::store::releases::Releases;
use crate::supervisor::Supervisor;
use crate::tls::{TLS_DIR, Trust};
use crate::{collect, janitor, recover};

/// Where the package puts what apps run with.
const PACKAGE_DIR: &str = "/usr/lib/deployd";
/// What apps run with.
const RUNTIME_FILES: [&str; 2] = ["deployd-exec", "libdeployd_bind.so"];

/// Runs the agent until it is told to end. Whatever runs goes on after its next start.
pub fn run(config: &Path) -> anyhow::Result<()> {
    let settings = Settings::load(config)?.settings;
    let set_level = init_log(settings.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(start(config, settings, set_level));
    // A blocking read of a dead disk must not keep the agent from ending.
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

async fn start(config: &Path, settings: Settings, set_level: SetLevel) -> anyhow::Result<()> {
    let mut borrowed = fdstore::collect().context("failed to take back what was borrowed")?;
    let store = Store::open(&settings.state_dir).context("failed to open the journal")?;
    let (lender, lenders) = Lender::bind(Path::new(LENDER_SOCKET)).context("failed to listen for lenders")?;
    let lenders = tokio::spawn(lenders.serve());
    let doors = std::mem::take(&mut borrowed.api);
    let trust = Trust::open(Path::new(TLS_DIR), clock::now());
    let host = Arc::new(host(&settings, &trust, store.clone(), borrowed, lender).await?);
    collect::at_start(&host.systemd).await;
    let hold = std::env::var("DEPLOYD_HOLD").ok().and_then(|text| Hold::parse(&text));
    let supervisor = Supervisor::open(store, host, hold).await.context("failed to read what is installed")?;
    recover::recover(&supervisor).await.context("failed to take up what was interrupted")?;
    tokio::spawn(janitor::run(supervisor.clone()));
    tokio::spawn(collect::run(supervisor.clone()));
    let notices = Notices::default();
    let reloader = Reloader {
        config: config.to_owned(),
        started: settings,
        live: supervisor.host().settings.live.clone(),
        disk: supervisor.host().disk.clone(),
        set_level,
        trust: trust.clone(),
        notices: notices.clone(),
    };
    tokio::spawn(reloader.run());
    let router = http::router(Api {
        supervisor,
        reserved: http::Reserved::default(),
        trust: trust.clone(),
        notices,
        commands: Commands::default(),
    });
    let listener = http::bind(Path::new(deployd_api::LOCAL_SOCKET))?;
    let serve = tokio::spawn(http::serve(listener, router.clone()));
    open_doors(doors, &trust, &router)?;
    notify(&[sd_notify::NotifyState::Ready]);
    info!(version = env!("CARGO_PKG_VERSION"), "ready");
    tokio::spawn(watchdog());
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        served = serve => served.context("the API ended")?,
        // Without it nothing could be borrowed: another start may do better.
        ended = lenders => ended.context("lending ended")?.context("failed to serve lenders")?,
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    notify(&[sd_notify::NotifyState::Stopping]);
    info!("ending; apps go on, and deployments go on at the next start");
    Ok(())
}

/// Serves callers over the network, if PID 1 passed a listener: on a host without a certificate there is none.
fn open_doors(
    listeners: Vec<std::net::TcpListener>,
    trust: &Trust,
    router: &axum::Router,
) -> anyhow::Result<()> {
    let doors = Doors::new(trust.clone());
    for listener in listeners {
        let on = listener.local_addr().context("failed to look at the API's listener")?;
        // It is ours alone, unlike those of apps.
        listener.set_nonblocking(true).context("failed to prepare the API's listener")?;
        let listener =
            tokio::net::TcpListener::from_std(listener).context("failed to use the API's listener")?;
        info!(%on, "callers with a certificate of the fleet are served");
        tokio::spawn(doors.clone().serve(listener, router.clone()));
    }
    Ok(())
}

async fn host(
    settings: &Settings,
    trust: &Trust,
    store: Store,
    borrowed: Collected,
    lender: Lender,
) -> anyhow::Result<RealHost> {
    let app_states = Path::new(deployd_core::units::STATE_DIR);
    let releases = Releases::open(&settings.state_dir, app_states).context("failed to open the releases")?;
    let apps_dir = settings.state_dir.join("apps");
    let systemd = Systemd::connect().await.context("failed to reach systemd")?;
    let vault = Vault::new(store.clone(), Some(systemd.clone()), apps_dir.clone(), settings.secrets);
    Ok(RealHost {
        systemd,
        secrets: vault,
        lender,
        held: Held::new(borrowed.listeners),
        carrying: Carrying::default(),
        releases,
        disk: Reservations::new(apps_dir.clone(), settings.disk_reserve),
        store,
        epmd: tokio::sync::Mutex::default(),
        settings: HostSettings {
            live: Live::new(reload::tunable(settings, trust).context("failed to read the host's name")?),
            boot_id: facts::boot_id().context("failed to read the id of this boot")?,
            apps_dir: apps_dir.to_string_lossy().into_owned(),
            runtime: install_runtime(&settings.state_dir)?,
            mark_prefix: MarkPrefix(settings.mark_prefix),
            uids: settings.uid_range.clone(),
        },
    })
}

/// Copies what apps run with to a folder named by its content: an upgrade or purge of the package never
/// pulls it from under a running app.
fn install_runtime(state_dir: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    let mut hasher = blake3::Hasher::new();
    for name in RUNTIME_FILES {
        let path = PathBuf::from(PACKAGE_DIR).join(name);
        let bytes = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        hasher.update(&bytes);
        files.push((name, bytes));
    }
    let digest = hasher.finalize().to_hex();
    let dir = state_dir.join("runtime").join(&digest.as_str()[..8]);
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    for (name, bytes) in files {
        let path = dir.join(name);
        if std::fs::read(&path).is_ok_and(|now| now == bytes) {
            continue;
        }
        atomic::write(&path, &bytes, 0o755).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(dir.to_string_lossy().into_owned())
}

/// Gives what changes the level later.
fn init_log(level: LogLevel) -> SetLevel {
    use tracing_subscriber::prelude::*;
    let filter = |level: LogLevel| tracing_subscriber::EnvFilter::new(directives(level));
    let (layer, handle) = tracing_subscriber::reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(layer);
    // Under systemd the journal takes fields; by hand a terminal takes lines.
    match std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok()) {
        Some(journal) => registry.with(journal).init(),
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init(),
    }
    Box::new(move |level| {
        if let Err(e) = handle.reload(filter(level)) {
            warn!(error = %e, "failed to change how much is logged");
        }
    })
}

/// Who did what is always told, however little else is.
fn directives(level: LogLevel) -> String {
    format!("{},{AUDIT}=info", level.as_str())
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!(error = %e, "failed to tell systemd how it goes");
    }
}

/// Tells systemd that the event loop turns; a hung agent is replaced.
async fn watchdog() {
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    loop {
        notify(&[sd_notify::NotifyState::Watchdog]);
        tokio::time::sleep(every / 3).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn who_did_what_is_told_at_every_level() {
        for level in [LogLevel::Error, LogLevel::Warn, LogLevel::Info] {
            let lines = Lines::default();
            let log = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::new(directives(level)))
                .with_writer(lines.clone())
                .finish();
            tracing::subscriber::with_default(log, || {
                info!(target: AUDIT, "an act");
                info!("a detail");
            });
            let told = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(told.contains("an act"), "{}: {told}", level.as_str());
            assert_eq!(told.contains("a detail"), level == LogLevel::Info, "{told}");
        }
    }
}
