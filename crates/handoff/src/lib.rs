//! deployd-handoff: what an application needs to be replaced without losing a connection.
//!
//! Find or bind a listener by its name, say that you are ready, and on SIGTERM finish what you began:
//! ```no_run
//! use deployd_handoff::{Listeners, notify};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut listeners = Listeners::from_env()?;
//! let http = listeners.tcp("http", ":8080")?; // passed by systemd, or bound here on a laptop
//! notify::ready()?;
//! # drop(http); Ok(()) }
//! ```
//! Three promises: there is one code path for the first start and for every later one; nothing is
//! accepted before you accept it; a descriptor that was passed is never closed or changed by a call
//! that fails. The crate never ends the process, never writes to the environment and starts no threads.
//!
//! Works the same under any `.socket` unit, without deployd. Called by applications, and for its
//! descriptor handling by `deployd-exec`.

pub mod drain;
pub mod fd;
pub mod listeners;
pub mod notify;
pub mod passed;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use drain::{Drain, Drained, Guard};
pub use listeners::{Error, Listeners};
