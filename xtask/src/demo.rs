//! `cargo xtask demo`: not there yet; says so instead of pretending.

use anyhow::{Result, bail};

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The last line is one JSON object
    #[arg(long)]
    json: bool,
    /// Leave the hosts up and say how to reach them
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Remove hosts that --keep left
    #[arg(long)]
    down: bool,
}

pub(crate) fn demo(args: &Args) -> Result<()> {
    bail!("the demo is not built yet (json: {}, keep: {}, down: {})", args.json, args.keep, args.down)
}
