//! One verb, one file: typed arguments in, exit code out.

mod abort;
mod deploy;
mod doctor;
mod exec;
mod hosts;
mod logs;
mod operate;
mod pki;
mod plan;
mod push;
pub(crate) mod reach;
mod releases;
mod remove;
mod rollback;
mod secrets;
mod status;

use std::cell::{Cell, RefCell};

use deployd_api::exit::ExitCode;
use deployd_api::spec::Selector;

use crate::cli::{Command, Global};
use crate::client::Client;
use crate::error::CtlError;
use crate::printer::Printer;

pub(crate) use self::reach::Host;
use self::reach::Reached;
pub(crate) use crate::hint::CTL;

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
    pub(crate) printer: &'a Printer,
    /// The only host that is meant; without one every call fails and says why.
    pub(crate) client: Client,
    /// The name of the host in what is printed.
    pub(crate) host: String,
    pub(crate) reached: Reached<'a>,
    /// What Ctrl-C has to say at this moment.
    interrupted: RefCell<String>,
    /// The status of a command that ran on a host: ctl ends with it.
    pub(crate) status: Cell<Option<u8>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &'a Global, printer: &'a Printer) -> Self {
        let reached = Reached::new(global);
        let (client, host) = reached.only_host();
        Self {
            global,
            printer,
            client,
            host,
            reached,
            interrupted: RefCell::default(),
            status: Cell::default(),
        }
    }

    /// The hosts that a command is for: those of `--host`, else every one.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>, CtlError> {
        self.reached.hosts()
    }

    /// The hosts that a spec means; without a selector the fleet's only group. `--host` narrows these too.
    pub(crate) fn hosts_of(&self, selectors: &[Selector]) -> Result<Vec<Host>, CtlError> {
        self.reached.hosts_of(selectors)
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
        Command::Secrets(args) => secrets::run(context, args).await,
        Command::Exec(args) => exec::exec(context, args).await,
        Command::Console(args) => exec::console(context, args).await,
        Command::Run(args) => exec::run_once(context, args).await,
        Command::Hosts(args) => hosts::run(context, args).await,
        Command::Pki(args) => pki::run(context, args).await,
        // They need no agent and were answered before.
        Command::Help(_) | Command::Completions(_) => Ok(ExitCode::Ok),
    }
}
