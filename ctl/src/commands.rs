//! One verb, one file: typed arguments in, exit code out.

mod abort;
mod deploy;
mod doctor;
pub(crate) mod init;
mod logs;
mod operate;
mod plan;
mod push;
mod releases;
mod remove;
mod rollback;
mod status;

use std::cell::RefCell;

use deployd_api::exit::ExitCode;

use crate::cli::{Command, Global};
use crate::client::Client;
use crate::error::CtlError;
use crate::printer::Printer;

pub(crate) use crate::hint::CTL;

/// An agent, with the name of its host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) client: Client,
}

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
    pub(crate) printer: &'a Printer,
    pub(crate) client: Client,
    /// The name of the host in what is printed.
    pub(crate) host: String,
    /// What Ctrl-C has to say at this moment.
    interrupted: RefCell<String>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &'a Global, printer: &'a Printer) -> Result<Self, CtlError> {
        if !global.local {
            return Err(CtlError::Usage {
                message: "this version drives the host it runs on; fleets of hosts come next".to_owned(),
                hint: "run it on the host as root, with --local".to_owned(),
            });
        }
        let own = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|n| n.trim().to_owned());
        let host = global.host_name.clone().or_else(own).unwrap_or_else(|| "localhost".to_owned());
        let client = Client::new(global.socket.clone());
        Ok(Self { global, printer, client, host, interrupted: RefCell::default() })
    }

    /// The hosts that a command is for.
    #[expect(dead_code, reason = "verbs of fleets use it")]
    pub(crate) fn hosts(&self) -> Vec<Host> {
        vec![Host { name: self.host.clone(), client: self.client.clone() }]
    }

    /// Sets what Ctrl-C says from here on.
    pub(crate) fn on_interrupt(&self, text: String) {
        *self.interrupted.borrow_mut() = text;
    }

    /// The end by Ctrl-C.
    pub(crate) fn interrupted(&self) -> CtlError {
        CtlError::Detached(self.interrupted.take())
    }
}

/// Runs a verb.
pub(crate) async fn run(context: &Context<'_>, command: &Command) -> Result<ExitCode, CtlError> {
    match command {
        Command::Push(args) => push::run(context, args).await,
        Command::Plan(args) => plan::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Releases(args) => releases::run(context, args).await,
        Command::Rollback(args) => rollback::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Start => operate::run(context, "start").await,
        Command::Stop => operate::run(context, "stop").await,
        Command::Restart => operate::run(context, "restart").await,
        Command::Abort => abort::run(context).await,
        Command::Remove(args) => remove::run(context, args).await,
        Command::Doctor => doctor::run(context).await,
        // They need no agent and were answered before.
        Command::Init(_) | Command::Help(_) | Command::Completions(_) => Ok(ExitCode::Ok),
    }
}
