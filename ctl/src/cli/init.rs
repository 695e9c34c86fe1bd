//! `init`.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Write it anew; the old file is kept as deployd.toml.old
    #[arg(long)]
    pub(crate) force: bool,
}
