//! Everything that stays on disk: the journal and app states, release trees, and files written whole.
//!
//! | module | holds |
//! |---|---|
//! | [`handle`] | [`Store`]: the one way async code reaches the database |
//! | [`db`] | opening, migrating and checking the SQLite file |
//! | [`ballast`] | room kept back so that a full disk still reaches a verdict |
//! | [`journal`] | deployments and their write-ahead records |
//! | [`apps`] | app states, facts by key, user ids that are given once |
//! | [`secrets`] | names and versions of secrets, never a value |
//! | [`atomic`] | files that are written whole or not at all |
//! | [`disk`] | free space, the reserve, what pushes have been promised |
//! | [`releases`] | staging, receiving and sealing release trees |
//! | [`secrets`] | which versions of its secrets an app has |
//!
//! It never decides what a deployment does, and knows nothing of units or HTTP. The driver calls it.

pub mod apps;
pub mod atomic;
pub mod ballast;
pub(crate) mod crash;
pub mod db;
mod dirfd;
pub mod disk;
pub mod error;
pub mod handle;
pub mod journal;
pub mod releases;
pub mod secrets;
mod sweep;

pub use error::StoreError;
pub use handle::Store;
