//! `secrets`, as clap definitions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use deployd_api::secret::SecretName;

#[derive(Debug, Args)]
pub(crate) struct Secrets {
    #[command(subcommand)]
    pub(crate) command: SecretsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Set secrets: NAME asks for the value, NAME=- reads it from standard input, NAME=@FILE from a file
    Set(SecretsSet),
    /// Remove secrets
    Unset {
        /// Which
        #[arg(value_name = "NAME", required = true)]
        names: Vec<SecretName>,
        #[command(flatten)]
        reach: Reach,
    },
    /// List names, versions, and who set them; never a value
    List,
    /// Write what only the recovery key opens, for keeping outside of the hosts
    Export {
        /// Where it goes [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Set what a file of NAME=VALUE lines says
    Import {
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SecretsSet {
    /// What to set
    #[arg(value_name = "NAME|NAME=VALUE", required = true)]
    pub(crate) secrets: Vec<Given>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Which hosts must answer.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// Go on without hosts that do not answer
    #[arg(long)]
    pub(crate) skip_offline: bool,
}

/// An argument that may hold a value: it is not printed.
#[derive(Clone)]
pub(crate) struct Given(pub(crate) String);

impl std::str::FromStr for Given {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Given(…)")
    }
}
