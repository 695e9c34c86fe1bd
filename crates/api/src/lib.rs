//! The vocabulary that agent, ctl and tests share: ids, the spec, the release document, requests,
//! events, error and exit codes.
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | checked newtypes: app, process, listener and check names, labels, digests, deployment ids |
//! | [`spec`] | the validated spec of an app (`deployd.toml`), and the parser from TOML |
//! | [`manifest`] | the files of an artifact: path, kind, mode, size, BLAKE3 digest |
//! | [`release`] | the canonical release document whose digest is a release's identity |
//! | [`deployment`] | requests that change something, plans, verdicts |
//! | [`event`] | the numbered events of a deployment, as streamed in NDJSON |
//! | [`access`] | roles, and what a call needs |
//! | [`route`] | every route: path, need, types |
//! | [`fleet`] | what a host is, leases, rollouts |
//! | `schema` | OpenAPI and JSON Schema (feature `schema` only) |
//! | [`secret`] | names and values of secrets |
//! | [`command`] | `exec` and `run` over an upgraded connection |
//! | [`needs`] | what an artifact needs of a host |
//! | [`status`] | what `status`, `releases`, `doctor` and `logs` answer |
//! | [`error`] | error codes and the body of every refused call |
//! | [`exit`] | the exit codes of ctl |
//!
//! Invariants: no I/O, no clock, no async, nothing of ours imported. The journal's records are *not*
//! here: they are private to `deployd-core`, so that wire and disk can change apart.

pub mod access;
pub mod command;
pub mod deployment;
pub mod error;
pub mod event;
pub mod exit;
pub mod fleet;
pub mod ids;
pub mod manifest;
pub mod needs;
pub mod release;
pub mod route;
#[cfg(feature = "schema")]
pub mod schema;
pub mod secret;
pub mod spec;
pub mod status;

/// The version of the HTTP API: the first path segment of every route is `v` and this number.
pub const API_VERSION: u32 = 1;

/// Where the local admin API listens, on every host.
pub const LOCAL_SOCKET: &str = "/run/deployd/deployd.sock";
