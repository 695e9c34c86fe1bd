//! `rollout`: the verbs of a push over many hosts that lost the ctl which drove it.

use clap::{Args, Subcommand};
use deployd_api::spec::{Millis, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    pub(crate) command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Show what every host says about it
    Status,
    /// Go on where it stopped
    Resume(Patience),
    /// Take back the hosts that are live or on their way
    Abort(Patience),
}

/// How long another deployment is waited for.
#[derive(Debug, Args)]
pub(crate) struct Patience {
    /// How long to wait for another deployment of the app to end
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub(crate) lease_timeout: Millis,
}
