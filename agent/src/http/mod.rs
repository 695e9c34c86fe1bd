//! The local admin API: HTTP/JSON on a Unix socket, for root only (SO_PEERCRED).
//!
//! One line a handler: it parses, asks the supervisor or an observer, and answers. Every refusal is an
//! [`ErrorBody`](deployd_api::error::ErrorBody), also those that axum makes.

mod answer;
mod apps;
mod deployments;
mod leases;
mod logs;
mod rollouts;
mod serve;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::map_response;
use axum::routing::{delete, get, post, put};

use crate::effects::RealHost;
use crate::supervisor::Supervisor;

pub use serve::{bind, serve};
pub use uploads::Reserved;

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct Api {
    /// Changes go through it.
    pub supervisor: Arc<Supervisor<RealHost>>,
    /// Room promised to pushes, by artifact, until it is used.
    pub reserved: Reserved,
}

/// Largest JSON body: a manifest of half a million entries.
const JSON_LIMIT: usize = 256 << 20;

/// Every route.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/uploads", post(uploads::begin))
        .route("/v1/uploads/{app}/{artifact}", put(uploads::receive))
        .route("/v1/apps", get(apps::list))
        .route("/v1/apps/{app}", get(apps::status))
        .route("/v1/apps/{app}", delete(apps::remove))
        .route("/v1/apps/{app}/plan", post(apps::plan))
        .route("/v1/apps/{app}/deployments", post(apps::push))
        .route("/v1/apps/{app}/rollback", post(apps::rollback))
        .route("/v1/apps/{app}/start", post(apps::start))
        .route("/v1/apps/{app}/stop", post(apps::stop))
        .route("/v1/apps/{app}/restart", post(apps::restart))
        .route("/v1/apps/{app}/lease", get(leases::show))
        .route("/v1/apps/{app}/lease", post(leases::take))
        .route("/v1/apps/{app}/lease", delete(leases::give_up))
        .route("/v1/apps/{app}/rollout", get(rollouts::show))
        .route("/v1/apps/{app}/rollout", put(rollouts::put))
        .route("/v1/apps/{app}/releases", get(apps::releases))
        .route("/v1/apps/{app}/releases/{label}/clear", post(apps::clear))
        .route("/v1/apps/{app}/logs", get(logs::lines))
        .route("/v1/deployments/{id}", get(deployments::get))
        .route("/v1/deployments/{id}/events", get(deployments::events))
        .route("/v1/deployments/{id}/abort", post(deployments::abort))
        .route("/v1/doctor", get(apps::doctor))
        .fallback(answer::no_route)
        .layer(DefaultBodyLimit::max(JSON_LIMIT))
        .layer(map_response(answer::in_our_form))
        .with_state(api)
}
