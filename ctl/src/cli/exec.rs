//! `exec`, `console` and `run`, as clap definitions.

use clap::Args;
use deployd_api::ids::{AppName, ProcessName};

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The command [default: a shell]
    #[arg(value_name = "CMD", last = true)]
    pub(crate) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Console {
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct RunOnce {
    /// The app, as with -a
    #[arg(value_name = "APP")]
    pub(crate) which: Option<AppName>,
    /// The process whose environment and secrets it gets [default: web]
    #[arg(long, value_name = "NAME")]
    pub(crate) process: Option<ProcessName>,
    /// The command
    #[arg(value_name = "CMD", last = true, required = true)]
    pub(crate) words: Vec<String>,
}

/// Where and how a command runs that ends with its caller.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The app, as with -a
    #[arg(value_name = "APP")]
    pub(crate) which: Option<AppName>,
    /// The process whose environment and secrets it gets [default: web]
    #[arg(long, value_name = "NAME")]
    pub(crate) process: Option<ProcessName>,
    /// With a terminal [default: when this is one]
    #[arg(short = 't', long = "tty", conflicts_with = "pipes")]
    pub(crate) terminal: bool,
    /// Without a terminal: bytes go through as they are
    #[arg(short = 'T', long = "no-tty")]
    pub(crate) pipes: bool,
}
