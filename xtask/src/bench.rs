//! `cargo xtask bench NAME`: not there yet; says so instead of pretending.

use anyhow::{Result, bail};

/// Options of a benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which benchmark
    name: String,
    /// The last line is one JSON object
    #[arg(long)]
    json: bool,
    /// About two minutes instead of a full run
    #[arg(long)]
    quick: bool,
}

pub(crate) fn bench(args: &Args) -> Result<()> {
    bail!("the benchmark {} is not built yet (json: {}, quick: {})", args.name, args.json, args.quick)
}
