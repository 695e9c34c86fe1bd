//! What the agent can do to its host: thin, typed operations that decide nothing.
//!
//! | module | does |
//! |---|---|
//! | [`command`] | the one place that spawns a process |
//! | [`connections`] | how many connections a release still serves |
//! | [`elf`] | whether a program of a release can run here |
//! | [`facts`] | memory, disk, ports, boot id, clock |
//! | [`fdstore`] | borrowed listeners over restarts of the agent |
//! | [`journal`] | log lines, by journalctl |
//! | [`lender`] | borrowing listeners from PID 1, lending them to relays |
//! | [`listener`] | steering, queue and state of one borrowed listener |
//! | [`platform`] | distribution, glibc, interpreters, shared libraries |
//! | [`probe`] | HTTP and TCP checks of one release on the public port |
//! | [`processes`] | units, cgroups and sockets of processes |
//! | [`systemd`] | PID 1 over D-Bus |
//! | [`users`] | the system user of an app |
//!
//! Only the driver calls these. No module here reads a plan or the journal of deployments.

pub mod command;
pub mod connections;
pub mod elf;
pub mod facts;
pub mod fdstore;
pub mod journal;
pub mod lender;
pub mod listener;
pub mod platform;
pub mod probe;
pub mod processes;
mod sockdiag;
mod sockopt;
pub mod systemd;
pub mod users;
