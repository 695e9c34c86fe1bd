//! `pki`: the CA of a fleet and its certificates.

mod init;
pub(super) mod issue;
mod renew;
mod revoke;
mod show;

use deployd_api::exit::ExitCode;

use super::{Context, Host};
use crate::cli::{Pki, PkiCommand};
use crate::client::Client;
use crate::error::CtlError;
use crate::pki::authority::Authority;
use crate::pki::{Home, home, passphrase};

pub(super) use revoke::revoke;

pub(crate) async fn run(context: &Context<'_>, args: &Pki) -> Result<ExitCode, CtlError> {
    context.on_interrupt("stopped; nothing was changed.".to_owned());
    match &args.command {
        PkiCommand::Init(args) => init::run(context, args),
        PkiCommand::Issue(args) => issue::run(context, args),
        PkiCommand::Show { file } => show::run(context, file.as_deref()),
        PkiCommand::Renew { names } => renew::run(context, names).await,
        PkiCommand::Revoke { what } => revoke::run(context, what).await,
    }
}

/// The CA of this operator, opened with its passphrase.
pub(super) fn open_authority(home: &Home) -> Result<Authority, CtlError> {
    Authority::files(home)?;
    Authority::open(home, &passphrase::ask(&format!("the CA ({})", home.path(home::CA_KEY).display()))?)
}

/// Gives a host the list of what is revoked.
pub(super) async fn send_list(client: Client, list: String) -> Result<(), CtlError> {
    client.pem(hyper::Method::PUT, "/tls/crl", list).await.map(drop)
}

/// The names of hosts, for a sentence.
pub(super) fn names(hosts: &[Host]) -> String {
    hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(" ")
}
