//! `hosts`, as clap definitions.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::fleet::Address;

#[derive(Debug, Args)]
pub(crate) struct Hosts {
    #[command(subcommand)]
    pub(crate) command: HostsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum HostsCommand {
    /// Make bare hosts into hosts of the fleet
    Add(HostsAdd),
    /// List the hosts of fleet.toml
    List,
    /// Call each host, and tell what answers
    Check {
        /// Only these
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Take a host out of the fleet, and revoke its certificate
    Remove {
        #[arg(value_name = "NAME")]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HostsAdd {
    /// web1, or several as web1=root@10.0.0.11 web2=root@10.0.0.12
    #[arg(value_name = "NAME[=SSH]", required = true)]
    pub(crate) hosts: Vec<String>,
    /// Where ssh finds it: root@10.0.0.11
    #[arg(long, value_name = "TARGET", conflicts_with = "csr")]
    pub(crate) ssh: Option<String>,
    /// Where its agent is reached, if not where ssh finds it
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) address: Option<Address>,
    /// Its group; repeatable
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<String>,
    /// A label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// The agent's package [default: DEPLOYD_DEB, else the one that came with deployd-ctl]
    #[arg(long = "deb", visible_alias = "package", value_name = "FILE", num_args = 1..)]
    #[arg(env = "DEPLOYD_DEB", hide_env = true, value_delimiter = ':')]
    pub(crate) packages: Vec<PathBuf>,
    /// An option for ssh, as after its -o; repeatable
    #[arg(long = "ssh-option", value_name = "OPTION=VALUE")]
    pub(crate) ssh_options: Vec<String>,
    /// Without ssh: sign this request, and print what the host installs
    #[arg(long, value_name = "FILE", requires = "address")]
    pub(crate) csr: Option<PathBuf>,
}
