//! The library behind the `deployd` binary, by subject.
//!
//! | subject | modules |
//! |---|---|
//! | start | [`cli`], [`boot`]: the start order in one screen, [`recover`] |
//! | tidying | [`collect`]: what an earlier life left, and what nobody uses |
//! | deploying | [`supervisor`]: requests, one deployment an app; [`driver`]: the loop; [`janitor`]: what drains |
//! | the host | [`effects`]: one short arm an action; [`host`]: D-Bus, sockets, probes, users |
//! | commands | [`commands`]: `exec` and `run` |
//! | secrets | [`secrets`]: the vault |
//! | trust | [`tls`]: certificates and callers; [`reload`]: config and certificates while it runs |
//! | on disk | [`store`]: journal, app states, release trees; [`config`] |
//! | the API | [`http`]: routes; [`view`]: deployments and events as seen from outside; [`observe`]: status, doctor |
//!
//! Who may import whom: `driver` alone sees both the state machine and the effects; `http` reaches
//! neither effects nor store's writers, it asks the supervisor.

pub mod boot;
pub mod cli;
pub mod collect;
pub mod commands;
pub mod config;
pub mod driver;
pub mod effects;
pub mod host;
pub mod http;
pub mod janitor;
pub mod observe;
pub mod recover;
pub mod reload;
pub mod secrets;
pub mod store;
pub mod supervisor;
pub mod tls;
pub mod view;
