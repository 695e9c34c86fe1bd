//! The load generator, and the analysis of what it saw.
//!
//! One thread, a fixed set of closed-loop clients; half of them keep their connection, half open a new one for each
//! request. Nothing is retried silently. What counts as failed:
//!
//! | [`Kind`] | what happened |
//! |---|---|
//! | `Refused`, `Reset`, `Closed` | no connection; a reset or an end before any byte of the response |
//! | `Cut` | the connection ended after a byte of the response |
//! | `Timeout` | no complete response within the limit (2 s) |
//! | `ServerError` | a 5xx |
//! | `Short`, `Foreign` | a complete response that is too short, or not one of an accepted release |
//! | `Local` | this machine could not even try (no port, no descriptor): the run proves nothing |
//!
//! One exception, which HTTP allows: a *reused* connection that ends before any response byte is sent again once on a
//! new connection. Such a sample is marked `retried` and counted apart, whatever its outcome.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC`, which hosts share with us: a window noted inside a host (`/proc/uptime`
//! is too coarse; Python's `time.monotonic_ns()` is right) can be given to [`Recording::report`] as it is.

mod clock;
mod connection;
mod engine;
mod options;
mod report;
mod response;
mod running;
mod sample;
mod source;

#[cfg(test)]
mod tests;

pub use clock::monotonic_ns;
pub use options::{Options, Pattern, Priority, Sources};
pub use report::{Latency, Part, Reign, Report, Window, WindowReport};
pub use running::Load;
pub use sample::{Kind, Recording, Sample};
