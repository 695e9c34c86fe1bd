//! `hosts add`: which of the hosts are in the fleet already, which are made ready over ssh, and how it ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;

use deployd_api::error::ErrorBody;
use deployd_api::exit::ExitCode;
use deployd_api::fleet::HostInfo;
use deployd_api::spec::Selector;
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::because;
use super::join::{self, Joined, Reached};
use crate::cli::HostsAdd;
use crate::commands::pki::open_authority;
use crate::commands::reach::Dialer;
use crate::commands::{Context, pki};
use crate::enrol::package::{self, Package};
use crate::enrol::ssh::Ssh;
use crate::enrol::target::{self, Target};
use crate::enrol::{answer, refused};
use crate::error::CtlError;
use crate::failure;
use crate::fleet::{self, Address, Change, Fleet, FleetHost};
use crate::human;
use crate::pki::Home;
use crate::pki::authority::Authority;
use crate::pki::home;

/// What is true at Ctrl-C, whatever was done.
const STOPPED: &str = "stopped; what is done on a host stays, and is not done twice.\n\
                       next: the same command again, or see who is in: deployd-ctl hosts list";

/// Hosts that are made ready at one time.
const AT_ONCE: usize = 8;

/// What all hosts of one command have in common.
pub(super) struct Adding<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) args: &'a HostsAdd,
    pub(super) dialer: Dialer,
    pub(super) packages: Vec<Package>,
    /// The fleet as the file says now.
    pub(super) fleet: RefCell<Fleet>,
}

pub(super) async fn run(context: &Context<'_>, args: &HostsAdd) -> Result<ExitCode, CtlError> {
    let targets = target::read(args)?;
    if let Some(request) = &args.csr {
        return sign_only(context, args, &targets[0], request);
    }
    let adding = Adding {
        context,
        args,
        dialer: Dialer::new(context.global)?,
        packages: package::find(&args.packages)?,
        fleet: RefCell::new(present_fleet(context)?),
    };
    // Wrong words, and a file that cannot be written, before anything is touched.
    words(args)?;
    if args.address.is_some() {
        adding.wanted(&targets[0], "")?;
    }
    adding.try_file()?;
    context.on_interrupt(STOPPED.to_owned());
    let mut joined = Vec::new();
    let mut failed: Vec<(String, CtlError)> = Vec::new();
    let mut bare = Vec::new();
    for target in targets {
        match adding.if_there(&target).await {
            Some(Ok(done)) => joined.push(done),
            Some(Err(error)) => failed.push((target.name.to_string(), error)),
            None => bare.push(target),
        }
    }
    if !bare.is_empty() {
        let authority = open_authority(&Home::find()?)?;
        adding.make_ready(&authority, bare, &mut joined, &mut failed).await;
    }
    joined.sort_by(|a, b| a.name.cmp(&b.name));
    tell(context, &joined, failed)
}

/// The fleet's file, or none yet.
fn present_fleet(context: &Context<'_>) -> Result<Fleet, CtlError> {
    let place = fleet::place_of_new(context.global);
    match fleet::find(context.global) {
        Ok(fleet) => Ok(fleet),
        // The first host makes the file; an empty one is as good as none.
        Err(_) if fs::read_to_string(&place).map_or(true, |text| is_blank(&text)) => {
            Ok(Fleet { file: place, hosts: Vec::new() })
        }
        Err(error) => Err(error),
    }
}

/// The groups and labels of the command line.
fn words(args: &HostsAdd) -> Result<(Vec<String>, BTreeMap<String, String>), CtlError> {
    let mut groups = args.groups.clone();
    groups.sort();
    groups.dedup();
    for group in &groups {
        if !matches!(group.parse(), Ok(Selector::Name(_))) {
            return Err(usage(format!("`{group}` is no name of a group"), "write --group web"));
        }
    }
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        let Ok(Selector::Label { key, value }) = label.parse() else {
            return Err(usage(format!("`{label}` is no label"), "write --label region=fra"));
        };
        labels.insert(key, value);
    }
    Ok((groups, labels))
}

fn usage(message: String, hint: &str) -> CtlError {
    CtlError::Usage { message, hint: hint.to_owned() }
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

impl Adding<'_> {
    /// What the file is to say of a host at this address.
    pub(super) fn wanted(&self, target: &Target, address: &str) -> Result<FleetHost, CtlError> {
        let address = match &self.args.address {
            Some(address) => address.clone(),
            None => address.parse().map_err(|e| usage(e, "say where its agent is reached: --address"))?,
        };
        let (groups, labels) = words(self.args)?;
        let host = FleetHost { name: target.name.clone(), address, groups, labels };
        let file = self.fleet.borrow().file.clone();
        let text = fs::read_to_string(&file).unwrap_or_default();
        fleet::put(&text, &host).map_err(|why| {
            answer(refused(
                format!("{} is not added: {why}", host.name),
                "give each host an address of its own",
            ))
        })?;
        Ok(host)
    }

    /// A host that answers as one of the fleet needs no ssh, unless there is a newer package for it.
    async fn if_there(&self, target: &Target) -> Option<Result<Joined, CtlError>> {
        let known = self.fleet.borrow().host(target.name.as_str()).cloned();
        if target.ssh.is_none() {
            let address = self.args.address.as_ref().map(ToString::to_string).unwrap_or_default();
            let host = match self.wanted(target, &address) {
                Ok(host) => host,
                Err(error) => return Some(Err(error)),
            };
            return Some(self.call_and_write(&host, None).await);
        }
        let known = known.filter(|k| self.args.address.as_ref().is_none_or(|a| *a == k.address))?;
        if let Err(error) = self.refuse_moved(target, &known).await {
            return Some(Err(error));
        }
        let info = join::call(&self.dialer.host(&known)).await.ok()?;
        if join::is_outdated(&self.packages, &info) || join::ends_soon(&info, human::now()) {
            return None;
        }
        let host = match self.wanted(target, &known.address.to_string()) {
            Ok(host) => FleetHost { address: known.address, ..host },
            Err(error) => return Some(Err(error)),
        };
        Some(self.write(&host, info, None))
    }

    /// A known name with the target of another machine: a slip, or a host that moved. Neither is guessed.
    async fn refuse_moved(&self, target: &Target, known: &FleetHost) -> Result<(), CtlError> {
        let (Some(words), None) = (&target.ssh, &self.args.address) else { return Ok(()) };
        let name = target.name.as_str();
        let found = Ssh::new(name, words, &self.args.ssh_options)?.address().await;
        if found.parse::<Address>().is_ok_and(|found| found.host() == known.address.host()) {
            return Ok(());
        }
        let next = format!(
            "another host: write another name. It replaces {name}: deployd-ctl hosts remove {name} first. The same \
             host at another address: deployd-ctl hosts add {name} --ssh {words} --address {found}; at the old one: \
             --address {}",
            known.address
        );
        let body = refused(format!("{name} is {}, and {words} is {found}", known.address), next);
        Err(answer(body.about(name)))
    }

    /// Two names for one machine would be two hosts of the fleet that are one.
    fn refuse_twins(connected: Vec<Reached>, failed: &mut Vec<(String, CtlError)>) -> Vec<Reached> {
        let mut apart: Vec<Reached> = Vec::new();
        for reached in connected {
            match apart.iter().find(|other| other.is_same_machine(&reached)) {
                None => apart.push(reached),
                Some(other) => {
                    let (name, other) = (reached.host.name.to_string(), &other.host.name);
                    let what =
                        format!("{name} is not added: it is the machine that is called {other} already");
                    let next = "write each machine once, with its own ssh target; then run it again";
                    failed.push((name.clone(), answer(refused(what, next).about(name))));
                }
            }
        }
        apart
    }

    async fn make_ready(
        &self,
        authority: &Authority,
        bare: Vec<Target>,
        joined: &mut Vec<Joined>,
        failed: &mut Vec<(String, CtlError)>,
    ) {
        // In turn: ssh may ask for a password, or about the key of a host it never saw.
        let mut connected = Vec::new();
        for target in bare {
            match self.connect(&target).await {
                Ok(reached) => connected.push(reached),
                Err(error) => failed.push((target.name.to_string(), error)),
            }
        }
        let connected = Self::refuse_twins(connected, failed);
        let work = connected.into_iter().map(|reached| async move {
            let done = self.enrol(authority, &reached).await;
            reached.ssh.close().await;
            (reached.host.name.to_string(), done)
        });
        let mut done = stream::iter(work).buffer_unordered(AT_ONCE);
        while let Some((name, outcome)) = done.next().await {
            match outcome {
                Ok(host) => joined.push(host),
                Err(error) => failed.push((name, error)),
            }
        }
    }

    /// Into the file, whole or not at all.
    pub(super) fn write_fleet(&self, host: &FleetHost) -> Result<Change, CtlError> {
        let file = self.fleet.borrow().file.clone();
        let wrong = |why: String| {
            let next = "mend that and run it again: what is done is not done twice";
            let name = &host.name;
            answer(
                refused(
                    format!("{name} is ready and answers, but cannot be written into {}", file.display()),
                    next,
                )
                .cause("what", why),
            )
        };
        let text = fs::read_to_string(&file).unwrap_or_default();
        let (new, change) = fleet::put(&text, host).map_err(wrong)?;
        if change != Change::Nothing {
            fleet::parse(&new)
                .map_err(|e| wrong(e.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
            home::write_shared(&file, new.as_bytes()).map_err(|e| wrong(because(&e)))?;
        }
        Ok(change)
    }

    /// The file is the last that is written: that it can be is tried first.
    fn try_file(&self) -> Result<(), CtlError> {
        let file = self.fleet.borrow().file.clone();
        let tried = home::try_beside(&file);
        tried.map_err(|e| {
            let what = format!("cannot write {}: {e}; nothing was changed", file.display());
            usage(what, "run it in a folder that you may write, or name the file: --fleet FILE")
        })
    }

    pub(super) fn step(&self, host: &str, step: &str, text: &str) {
        self.context.printer.talk(&format!("{host}  {step:<9} {text}"));
    }
}

/// `--csr`: the host's key stays where it is, and so do we.
fn sign_only(
    context: &Context<'_>,
    args: &HostsAdd,
    target: &Target,
    request: &std::path::Path,
) -> Result<ExitCode, CtlError> {
    let text = pki::issue::read_request(request)?;
    let authority = open_authority(&Home::find()?)?;
    let signed = authority.host(&target.name, &text, human::now())?;
    authority.record(&signed)?;
    let bundle = authority.bundle(&signed)?;
    let (name, address) = (&target.name, args.address.as_ref().map(ToString::to_string).unwrap_or_default());
    if context.printer.is_json() {
        let answer = serde_json::json!({
            "host": name, "address": address, "bundle": bundle, "certificate": signed.facts,
        });
        context.printer.json(&answer)?;
    } else {
        context.printer.data(bundle.trim_end())?;
    }
    for line in [
        format!("what stdout got is the bundle of {name}. On the host, as root:"),
        "  deployd enroll install < BUNDLE".to_owned(),
        "  systemctl enable deployd.socket".to_owned(),
        "  systemctl restart deployd.socket deployd.service".to_owned(),
        format!("then here, so that fleet.toml gets it: deployd-ctl hosts add {name} --address {address}"),
    ] {
        context.printer.talk(&line);
    }
    Ok(ExitCode::Ok)
}

/// A host, for `-o json`.
#[derive(Serialize)]
struct Row<'r> {
    host: &'r str,
    /// `added`, `updated` or `nothing`: what became of it in the file.
    change: Option<Change>,
    /// Whether it got a certificate just now.
    enrolled: bool,
    info: Option<&'r HostInfo>,
    error: Option<ErrorBody>,
}

fn rows<'r>(joined: &'r [Joined], failed: &'r [(String, CtlError)]) -> Vec<Row<'r>> {
    let joined = joined.iter().map(|j| Row {
        host: &j.name,
        change: Some(j.change),
        enrolled: j.enrolled,
        info: Some(&j.info),
        error: None,
    });
    let failed = failed.iter().map(|(host, error)| Row {
        host,
        change: None,
        enrolled: false,
        info: None,
        error: Some(error.to_body()),
    });
    joined.chain(failed).collect()
}

/// The end: what is true now.
fn tell(
    context: &Context<'_>,
    joined: &[Joined],
    failed: Vec<(String, CtlError)>,
) -> Result<ExitCode, CtlError> {
    let printer = context.printer;
    // One that failed alone is told as any command that fails.
    if printer.is_json() && !(joined.is_empty() && failed.len() == 1) {
        printer.json(&rows(joined, &failed))?;
    }
    let names: Vec<&str> = joined.iter().map(|j| j.name.as_str()).collect();
    let new = joined.iter().filter(|j| j.change != Change::Nothing || j.enrolled).count();
    if !names.is_empty() {
        let what = if names.len() == 1 { "is" } else { "are" };
        let none = if new == 0 { ": nothing to change" } else { "" };
        printer.last(&format!("{} {what} in the fleet{none}.", names.join(" ")))?;
        if failed.is_empty() && new > 0 {
            printer.last("next: deployd-ctl init, in the folder of your app")?;
        }
        for host in joined.iter().filter(|j| j.change == Change::Added) {
            printer.last(&format!("undo: deployd-ctl hosts remove {}", host.name))?;
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::Ok);
    }
    if failed.len() == 1 && joined.is_empty() {
        return Err(failed
            .into_iter()
            .next()
            .map_or(CtlError::Runtime(std::io::Error::other("lost")), |(_, e)| e));
    }
    let without: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    let mut lines: Vec<String> = failed
        .iter()
        .flat_map(|(_, error)| failure::render(&error.to_body(), printer.colour_err()))
        .collect();
    lines.push(format!(
        "not in the fleet: {}. Run it again: what is done is not done twice.",
        without.join(" ")
    ));
    let first = failed[0].1.exit();
    let code = if joined.is_empty() && failed.iter().all(|(_, e)| e.exit() == first) {
        first
    } else {
        ExitCode::Partial
    };
    printer.fail(&lines, code);
    Ok(code)
}
