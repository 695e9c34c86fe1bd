//! `pki`, as clap definitions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use deployd_api::access::Role;
use deployd_api::spec::{Millis, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct Pki {
    #[command(subcommand)]
    pub(crate) command: PkiCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Make the CA of a new fleet, and your own identity
    Init(PkiInit),
    /// Make an identity for a person or a job
    Issue(PkiIssue),
    /// Show your identity, the CA and what was issued
    Show {
        /// Another identity or certificate
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make a new certificate before the old one ends
    Renew {
        /// Hosts [default: your own identity]
        #[arg(value_name = "HOST")]
        names: Vec<String>,
    },
    /// Make every host refuse an identity, now
    Revoke {
        /// Whose, or which one
        #[arg(value_name = "NAME|SERIAL")]
        what: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PkiInit {
    /// Name of the fleet
    #[arg(long, value_name = "FLEET", default_value = "fleet", value_parser = name)]
    pub(crate) name: String,
    /// Your name [default: $USER]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(crate) operator: Option<String>,
    /// Where the recovery key goes [default: beside the CA]
    #[arg(long, value_name = "FILE")]
    pub(crate) recovery_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PkiIssue {
    /// Who: ops-2, ci
    #[arg(value_name = "NAME", value_parser = name)]
    pub(crate) name: String,
    /// What they may do: viewer, deployer/APP, admin
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub(crate) roles: Vec<Role>,
    /// For how long [default: 365d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Option<Millis>,
    /// Where it goes [default: NAME.identity.pem beside your own]
    #[arg(long, value_name = "FILE", conflicts_with = "print")]
    pub(crate) out: Option<PathBuf>,
    /// As one line on stdout, for a secret of CI
    #[arg(long)]
    pub(crate) print: bool,
    /// For the key of this request; theirs stays with them
    #[arg(long, value_name = "FILE", conflicts_with = "print")]
    pub(crate) csr: Option<PathBuf>,
}

/// Names of fleets and operators stand in certificates, files and logs.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b);
    let right = (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['-', '.']);
    if right {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 63 letters, digits or - _ . @ + and begins with neither - nor .".to_owned())
    }
}
