//! Proofs about plans: every plan is carried out on a model of a host, with a fault at every point.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test's helpers fail by panic")]

mod driver;
mod exhaustive;
mod formats;
mod neighbours;
mod ports;
mod properties;
mod pushes;
mod scenarios;
mod shapes;
mod sim;
