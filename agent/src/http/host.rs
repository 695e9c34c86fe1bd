//! Routes of the host itself: what it is and has, and the API's own description.

use std::path::Path;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use deployd_api::fleet::HostInfo;

use super::Api;
use super::answer::Answer;
use super::caller::Caller;
use crate::driver::clock;
use crate::effects::{on_disk, step_failed};
use crate::host::{facts, platform};
use crate::store::disk;

/// Made by `cargo xtask docs` from the table of routes and the types.
const OPENAPI: &str = include_str!("../../../docs/reference/openapi.json");

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn info(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Answer<HostInfo> {
    let host = api.supervisor.host();
    let systemd = host.systemd.version().await.map_err(|e| step_failed(&e))?;
    let apps_dir = host.settings.apps_dir.clone();
    let look = move || {
        let disk = disk::observe(Path::new(&apps_dir));
        let glibc = platform::glibc_version();
        (disk, facts::memory_available(), facts::memory_total(), platform::os_name(Path::new("/")), glibc)
    };
    let (disk, available, total, os, glibc) = on_disk(look).await?;
    let disk = disk.map_err(|e| step_failed(&e))?;
    Ok(Json(HostInfo {
        host: host.settings.live.get().name.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        systemd,
        os,
        arch: std::env::consts::ARCH.to_owned(),
        glibc,
        cpus: facts::cpus(),
        memory_total: total.map_err(|e| step_failed(&e))?,
        memory_available: available.map_err(|e| step_failed(&e))?,
        disk_free: disk.free_bytes,
        disk_total: disk.total_bytes,
        now: clock::now(),
        certificate: api.trust.current().map(|loaded| loaded.certificate.info()),
        caller: caller.name,
        roles: caller.roles,
    }))
}
