//! Serving the local socket: root only, and a caller's end never ends what it asked for.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

/// Listens: from now on callers wait instead of being refused.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(path).with_context(|| format!("failed to remove the old {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("failed to listen on {}", path.display()))?;
    // Root's alone; the credentials are looked at as well, because a folder's mode may be loosened.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("failed to restrict {}", path.display()))?;
    Ok(listener)
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, router: Router) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!(error = %e, "failed to accept a caller");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        if !is_root(&stream) {
            warn!("refused a caller that is not root");
            continue;
        }
        tokio::spawn(talk(stream, router.clone()));
    }
}

fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|c| c.uid() == 0)
}

async fn talk(stream: UnixStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let served = Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        debug!(error = %e, "a caller went away");
    }
}
