//! A real systemd host in a container: boot, run commands in it, reboot, crash, and clean up whatever happens.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use deployd_tests::{image::{Image, Suite}, machine::Host};
//! let mut host = Host::boot(&Image::ensure(Suite::Bookworm)?, "web1")?;
//! host.ok("systemctl is-active dbus")?;
//! host.reboot()?;
//! host.finish()?; // a host that is dropped instead dumps its journal: something failed
//! # Ok(()) }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `host` | the life of a host |
//! | `exec` | commands and files in a running host |
//! | `boot` | starting nspawn, finding PID 1, waiting for `running` |
//! | `net` | the network that hosts and their clients share |
//! | `owner` | what this process made, and the reaper that removes it when we cannot |
//! | `clean.sh` | the only code that removes things |

mod boot;
mod exec;
mod host;
mod net;
mod owner;

pub use host::Host;
pub use net::{Address, Net};
pub(crate) use owner::owner;
pub use owner::{clean_stale, remove_kept};
