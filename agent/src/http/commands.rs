//! The route of commands: a request that becomes a connection of its own, with frames in both directions.

use std::path::Path as FilePath;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use deployd_api::command::{CommandKind, CommandRequest, UPGRADE};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Api;
use super::answer::{Refused, body, id};
use super::audit::AUDIT;
use super::caller::Caller;
use super::session::Session;
use crate::commands::ends::Ends;
use crate::commands::order::{self, Order};
use crate::commands::session::{Ending, attend};
use crate::commands::{Place, transient};
use crate::effects::{on_disk, step_failed};
use crate::host::systemd::{Leftover, Systemd};

/// Largest request: its words, and some.
const REQUEST_MAX: usize = 256 << 10;
/// How long PID 1 gets to start a process.
const STARTS: Duration = Duration::from_secs(30);
/// Shells, best first.
const SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

pub(super) async fn run(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    // Root's connection has none.
    session: Option<Extension<Arc<Session>>>,
    Path(app): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let app: AppName = id(&app)?;
    let (mut parts, content) = request.into_parts();
    let upgrade = upgrade(&parts.headers, parts.extensions.remove::<OnUpgrade>())?;
    let bytes = axum::body::to_bytes(content, REQUEST_MAX).await.map_err(|e| {
        let hint = "send what is long as the command's input";
        ErrorBody::new(ErrorCode::BadRequest, format!("the request cannot be read: {e}"), hint)
    })?;
    let mut request: CommandRequest = body(&bytes)?;
    request.by = caller.by(request.by);
    let order = make_order(&api, &app, &request).await?;
    let place = api.commands.enter(&app)?;
    let systemd = api.supervisor.host().systemd.clone();
    refuse_repeat(&systemd, &order).await?;
    let ends = Ends::open(request.kind, request.terminal.as_ref()).map_err(|e| step_failed(&e))?;
    let audit = Audit { app, caller: caller.name, by: request.by, order, pid: Arc::default() };
    let session = session.map(|Extension(session)| session);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => audit.attend(TokioIo::new(stream), session, ends, systemd, place).await,
            Err(error) => warn!(%error, "a caller went away before its command began"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

fn upgrade(headers: &HeaderMap, on_upgrade: Option<OnUpgrade>) -> Result<OnUpgrade, Refused> {
    let asked = headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes() == UPGRADE.as_bytes());
    on_upgrade.filter(|_| asked).ok_or_else(|| {
        let message = format!("this route needs the headers Connection: upgrade and Upgrade: {UPGRADE}");
        let hint = "docs/reference/api.md describes its frames; deployd-ctl speaks them";
        ErrorBody::new(ErrorCode::BadRequest, message, hint).into()
    })
}

async fn make_order(api: &Api, app: &AppName, request: &CommandRequest) -> Result<Order, Refused> {
    let state = api.supervisor.app(app).await?.lock().await.clone();
    let bin = state.live_release().map(|release| FilePath::new(&release.tree).join("bin"));
    let look = move || {
        let shell = SHELLS.into_iter().find(|shell| FilePath::new(shell).exists()).unwrap_or("/bin/sh");
        let entries = bin.and_then(|bin| std::fs::read_dir(bin).ok()).into_iter().flatten().flatten();
        (shell, entries.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>())
    };
    let (shell, programs) = on_disk(look).await?;
    let settings = &api.supervisor.host().settings;
    let live = settings.live.get();
    let region = live.region.as_deref();
    let place = order::Place { host: &live.name, region, shell, programs: &programs };
    Ok(order::order(&state, request, &place)?)
}

/// A command is not idempotent: a second one with the id of the first would stop that.
async fn refuse_repeat(systemd: &Systemd, order: &Order) -> Result<(), Refused> {
    if systemd.unit(&order.unit).await.map_err(|e| step_failed(&e))?.is_none() {
        return Ok(());
    }
    let message = format!("a command with this id runs already as {}", order.unit);
    Err(ErrorBody::new(ErrorCode::WrongState, message, "give each command an id of its own").into())
}

/// What is written down of a command: who ran which program where, and how it ended. Only the first of its
/// words: the others may hold a secret.
struct Audit {
    app: AppName,
    caller: String,
    by: String,
    order: Order,
    pid: Arc<OnceLock<u32>>,
}

impl Audit {
    async fn attend(
        self,
        stream: TokioIo<hyper::upgrade::Upgraded>,
        session: Option<Arc<Session>>,
        ends: Ends,
        systemd: Systemd,
        place: Place,
    ) {
        self.log("a command begins", "");
        let spec = transient(&self.order, &ends);
        let (unit, kind) = (self.order.unit.clone(), self.order.kind);
        let leftover = if kind == CommandKind::Run { Leftover::Finish } else { Leftover::Stop };
        let looking = tokio::spawn(learn_pid(systemd.clone(), unit.clone(), self.pid.clone()));
        let running = systemd.run_transient(&unit, &spec, leftover);
        // The connection's own watch ended with the upgrade.
        let cut = async {
            match &session {
                Some(session) => session.cut_off().await,
                None => std::future::pending().await,
            }
        };
        let ending = attend(stream, ends, kind, &unit, running, cut).await;
        looking.abort();
        let outcome = match ending {
            Ending::Command(end) => serde_json::to_string(&end).unwrap_or_default(),
            Ending::CallerGone => "stopped: its caller went away".to_owned(),
        };
        self.log("a command ended", &outcome);
        drop(place);
    }

    fn log(&self, what: &str, outcome: &str) {
        let audit = match self.order.kind {
            CommandKind::Exec => "exec",
            CommandKind::Console => "console",
            CommandKind::Run => "run",
        };
        let Order { unit, program, process, label, .. } = &self.order;
        let pid = self.pid.get();
        info!(target: AUDIT, audit, caller = self.caller, app = %self.app, by = %self.by, %process, %label, program, unit, pid, outcome, "{what}");
    }
}

async fn learn_pid(systemd: Systemd, unit: String, pid: Arc<OnceLock<u32>>) {
    let runs = |unit: Option<&crate::host::systemd::UnitState>| unit.is_some_and(|u| u.main_pid.is_some());
    if let Ok(Some(state)) = systemd.wait_until(&unit, runs, Instant::now() + STARTS).await
        && let Some(found) = state.main_pid
    {
        // It is the first and only one that looks.
        let _ = pid.set(found);
    }
}
