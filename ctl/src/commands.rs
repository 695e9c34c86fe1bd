//! One verb, one file: typed arguments in, exit code out.

mod abort;
pub(crate) mod deploy;
mod doctor;
mod exec;
mod header;
mod heard;
mod hosts;
pub(crate) mod init;
mod logs;
mod operate;
mod pki;
mod plan;
mod push;
pub(crate) mod reach;
mod releases;
mod remove;
mod rollback;
mod rollout;
mod secrets;
mod status;
mod together;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use deployd_api::exit::ExitCode;
use deployd_api::spec::Selector;

use crate::cli::{Command, Global};
use crate::error::CtlError;
use crate::printer::Printer;
use crate::rollout::drive::Verb;
use crate::rollout::lease::Leases;

pub(crate) use self::reach::Host;
use self::reach::Reached;
pub(crate) use crate::hint::CTL;

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) global: &'a Global,
    pub(crate) printer: &'a Printer,
    pub(crate) reached: Reached<'a>,
    /// What Ctrl-C has to say at this moment.
    interrupted: RefCell<String>,
    /// The status of a command that ran on a host: ctl ends with it.
    pub(crate) status: Cell<Option<u8>>,
    /// What is held on hosts and is given back on every way out.
    leases: RefCell<Option<Rc<Leases>>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &'a Global, printer: &'a Printer) -> Self {
        let reached = Reached::new(global);
        Self {
            global,
            printer,
            reached,
            interrupted: RefCell::default(),
            leases: RefCell::default(),
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

    /// Whether it drives the hosts of a fleet, not the one that it runs on.
    pub(crate) fn is_fleet(&self) -> bool {
        !self.global.local
    }

    /// Keeps leases, to be given back by [`Self::release`].
    pub(crate) fn hold(&self, leases: Leases) -> Rc<Leases> {
        let leases = Rc::new(leases);
        *self.leases.borrow_mut() = Some(leases.clone());
        leases
    }

    /// The leases that were taken.
    pub(crate) fn leases(&self) -> Result<Rc<Leases>, CtlError> {
        self.leases.borrow().clone().ok_or_else(|| CtlError::Usage {
            message: "no lease was taken".to_owned(),
            hint: "run it again".to_owned(),
        })
    }

    /// Gives back what is held; nothing the second time.
    pub(crate) async fn release(&self) {
        let leases = self.leases.borrow_mut().take();
        if let Some(leases) = leases {
            leases.release().await;
        }
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

/// What Ctrl-C says until a verb knows better.
fn by_default(command: &Command) -> &'static str {
    match command {
        Command::Plan(_) | Command::Status(_) | Command::Logs(_) | Command::Doctor => {
            "stopped; nothing was changed."
        }
        _ => "stopped; what was begun on hosts goes on there. See: deployd-ctl status",
    }
}

/// Runs a verb.
pub(crate) async fn run(context: &Context<'_>, command: &Command) -> Result<ExitCode, CtlError> {
    context.on_interrupt(by_default(command).to_owned());
    match command {
        Command::Push(args) => push::run(context, args).await,
        Command::Plan(args) => plan::run(context, args).await,
        Command::Status(args) => status::run(context, args).await,
        Command::Releases(args) => releases::run(context, args).await,
        Command::Rollback(args) => rollback::run(context, args).await,
        Command::Logs(args) => logs::run(context, args).await,
        Command::Start => operate::run(context, Verb::Start).await,
        Command::Stop => operate::run(context, Verb::Stop).await,
        Command::Restart => operate::run(context, Verb::Restart).await,
        Command::Abort => abort::run(context).await,
        Command::Remove(args) => remove::run(context, args).await,
        Command::Rollout(args) => rollout::run(context, args).await,
        Command::Doctor => doctor::run(context).await,
        Command::Secrets(args) => secrets::run(context, args).await,
        Command::Exec(args) => exec::exec(context, args).await,
        Command::Console(args) => exec::console(context, args).await,
        Command::Run(args) => exec::run_once(context, args).await,
        Command::Hosts(args) => hosts::run(context, args).await,
        Command::Pki(args) => pki::run(context, args).await,
        // They need no agent and were answered before.
        Command::Init(_) | Command::Help(_) | Command::Completions(_) => Ok(ExitCode::Ok),
    }
}
