//! The library behind the `deployd` binary, by subject.

pub mod config;
pub mod store;
