//! The API: HTTP/JSON, for operators over mutual TLS and for root on a Unix socket (SO_PEERCRED).
//!
//! | module | does |
//! |---|---|
//! | `routes` | the router: the table of [`deployd_api::route`], each entry with its handler |
//! | `access` | who may call what, decided in one place |
//! | `audit` | a line in the log for each refused call |
//! | `bodies` | how large a body may be, and how many of them |
//! | [`caller`] | who calls |
//! | `remote` | mutual TLS, and what a stranger may cost: `pending` |
//! | `session` | a connection of a caller, and what it may take: `limits` |
//! | `serve` | the local socket |
//! | `answer` | JSON, refusals, streams |
//!
//! The others are handlers: one parses, asks the supervisor or an observer, and answers. Every refusal is an
//! [`ErrorBody`](deployd_api::error::ErrorBody), also those that axum makes.

mod access;
mod answer;
mod apps;
mod audit;
mod bodies;
pub mod caller;
mod changes;
mod commands;
mod deployments;
mod host;
mod leases;
mod limits;
mod logs;
mod pending;
mod remote;
#[cfg(test)]
mod remote_tests;
mod rollouts;
mod routes;
mod secrets;
mod serve;
mod session;
mod tls;
mod uploads;

use std::sync::Arc;

use crate::commands::Commands;
use crate::effects::RealHost;
use crate::reload::Notices;
use crate::supervisor::Supervisor;
use crate::tls::Trust;

pub use audit::AUDIT;
pub use remote::Doors;
pub use routes::router;
pub use serve::{bind, serve};
pub use uploads::Reserved;

/// What every handler may use.
#[derive(Debug, Clone)]
pub struct Api {
    /// Changes go through it.
    pub supervisor: Arc<Supervisor<RealHost>>,
    /// Room promised to pushes, by artifact, until it is used.
    pub reserved: Reserved,
    /// The host's certificates.
    pub trust: Trust,
    /// What is wrong with files that were read again.
    pub notices: Notices,
    /// Commands that run.
    pub commands: Commands,
}
