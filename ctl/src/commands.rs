//! One verb, one file: typed arguments in, exit code out.

mod abort;
pub(crate) mod deploy;
mod doctor;
mod header;
mod logs;
mod operate;
mod plan;
mod push;
mod releases;
mod remove;
mod rollback;
mod rollout;
mod together;
mod status;

use std::cell::RefCell;
use std::rc::Rc;

use deployd_api::exit::ExitCode;
use deployd_api::spec::Selector;

use crate::cli::{Command, Global, HostSocket};
use crate::client::Client;
use crate::error::CtlError;
use crate::printer::Printer;
use crate::rollout::drive::Verb;
use crate::rollout::lease::Leases;

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
    /// What is held on hosts and is given back on every way out.
    leases: RefCell<Option<Rc<Leases>>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(global: &'a Global, printer: &'a Printer) -> Result<Self, CtlError> {
        let own = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|n| n.trim().to_owned());
        let (host, client) = match global.sockets.first() {
            Some(HostSocket { name, path }) if !global.local => (name.clone(), Client::new(path.clone())),
            _ if global.local => {
                let host = global.host_name.clone().or_else(own).unwrap_or_else(|| "localhost".to_owned());
                (host, Client::new(global.socket.clone()))
            }
            _ => {
                return Err(CtlError::Usage {
                    message: "this version drives the host it runs on; fleets of hosts come next".to_owned(),
                    hint: "run it on the host as root, with --local".to_owned(),
                });
            }
        };
        let (interrupted, leases) = (RefCell::default(), RefCell::default());
        Ok(Self { global, printer, client, host, interrupted, leases })
    }

    /// The hosts that a command is for.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>, CtlError> {
        if self.global.local {
            return Ok(vec![Host { name: self.host.clone(), client: self.client.clone() }]);
        }
        let host = |s: &HostSocket| Host { name: s.name.clone(), client: Client::new(s.path.clone()) };
        let mut hosts: Vec<Host> = self.global.sockets.iter().map(host).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// Those of them that one of the selectors names; all, when there is none.
    pub(crate) fn hosts_of(&self, selectors: &[Selector]) -> Result<Vec<Host>, CtlError> {
        let mut hosts = self.hosts()?;
        // Hosts by socket have no groups: what is no host's name means all of them.
        let named = |name: &str| self.global.sockets.iter().any(|s| s.name == name);
        if selectors.iter().all(|s| named(&s.to_string())) && !selectors.is_empty() {
            hosts.retain(|host| selectors.iter().any(|s| s.to_string() == host.name));
        }
        Ok(hosts)
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

/// Runs a verb.
pub(crate) async fn run(context: &Context<'_>, command: &Command) -> Result<ExitCode, CtlError> {
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
        // They need no agent and were answered before.
        Command::Help(_) | Command::Completions(_) => Ok(ExitCode::Ok),
    }
}
