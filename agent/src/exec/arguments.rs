//! The command line: what each subcommand of the trampoline is asked.
//!
//! Written by the agent into units, so it is strict and small. Pure.

use super::Error;
use deployd_api::spec::Handoff;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the agent lends and takes descriptors.
const LENDER: &str = "/run/deployd/lender.sock";

/// One `--listener NAME=HANDOFF:ADDRESS`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) handoff: Handoff,
    pub(crate) address: String,
}

/// `run`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) listeners: Vec<Listener>,
    pub(crate) shim: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) words: Vec<OsString>,
}

/// `lend`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lend {
    pub(crate) unit: String,
    pub(crate) lender: PathBuf,
}

/// `relay`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub(crate) unit: String,
    pub(crate) lender: PathBuf,
    pub(crate) to: SocketAddr,
    pub(crate) quiet: Duration,
    /// Longest time it accepts.
    pub(crate) limit: Duration,
    /// Longest time it carries what it accepted; `None` is to the end.
    pub(crate) carry: Option<Duration>,
}

/// A whole command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run(Run),
    Proxy(u16),
    Lend(Lend),
    Relay(Relay),
}

/// The options and words of a subcommand, as they come; options may be given in any order.
#[derive(Default)]
struct Given {
    listeners: Vec<Listener>,
    shim: Option<String>,
    base_port: Option<u16>,
    instance: Option<u16>,
    lender: Option<PathBuf>,
    to: Option<SocketAddr>,
    quiet: Option<Duration>,
    limit: Option<Duration>,
    carry: Option<Duration>,
    unit: Option<String>,
    words: Vec<OsString>,
}

/// Parses the words after the program's name.
pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Command, Error> {
    let verb = words.next().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed: &[&str] = match verb.as_str() {
        "run" => &["--listener", "--shim", "--base-port", "--instance"],
        "proxy" => &["--base-port", "--instance"],
        "lend" => &["--lender"],
        "relay" => &["--lender", "--to", "--quiet-ms", "--max-ms", "--carry-ms"],
        _ => return Err(usage(&format!("unknown subcommand {verb:?}"))),
    };
    let given = gather(words, &verb, allowed)?;
    let port = port(&given)?;
    let lender = given.lender.unwrap_or_else(|| PathBuf::from(LENDER));
    let missing = |what: &str| usage(&format!("{verb} needs {what}"));
    Ok(match verb.as_str() {
        "run" if given.words.is_empty() => return Err(missing("-- and a program")),
        "run" => Command::Run(Run { listeners: given.listeners, shim: given.shim, port, words: given.words }),
        "proxy" => Command::Proxy(port.ok_or_else(|| missing("--base-port"))?),
        "lend" => Command::Lend(Lend { unit: given.unit.ok_or_else(|| missing("a .socket unit"))?, lender }),
        _ => Command::Relay(Relay {
            unit: given.unit.ok_or_else(|| missing("a .socket unit"))?,
            lender,
            to: given.to.ok_or_else(|| missing("--to"))?,
            quiet: given.quiet.ok_or_else(|| missing("--quiet-ms"))?,
            limit: given.limit.ok_or_else(|| missing("--max-ms"))?,
            carry: given.carry,
        }),
    })
}

fn gather(mut words: impl Iterator<Item = OsString>, verb: &str, allowed: &[&str]) -> Result<Given, Error> {
    let mut given = Given::default();
    while let Some(word) = words.next() {
        let text = word.to_str().ok_or_else(|| usage("an option is not UTF-8"))?;
        if text == "--" && verb == "run" {
            given.words = words.collect();
            break;
        }
        if !text.starts_with("--") && given.unit.is_none() && matches!(verb, "lend" | "relay") {
            given.unit = Some(text.to_owned());
            continue;
        }
        if !allowed.contains(&text) {
            return Err(usage(&format!("{verb} has no {text:?}")));
        }
        let value = words.next().and_then(|value| value.into_string().ok());
        let value = value.ok_or_else(|| usage(&format!("{text} needs a value")))?;
        set(&mut given, text, value)?;
    }
    Ok(given)
}

fn set(given: &mut Given, option: &str, value: String) -> Result<(), Error> {
    let wrong = || usage(&format!("{option} cannot be {value:?}"));
    let millis = || value.parse().map(Duration::from_millis).map_err(|_| wrong());
    match option {
        "--listener" => given.listeners.push(listener(&value).ok_or_else(wrong)?),
        "--shim" => given.shim = Some(value),
        "--base-port" => given.base_port = Some(value.parse().map_err(|_| wrong())?),
        "--instance" => given.instance = Some(value.parse().map_err(|_| wrong())?),
        "--lender" => given.lender = Some(PathBuf::from(value)),
        "--to" => given.to = Some(target(&value).ok_or_else(wrong)?),
        "--quiet-ms" => given.quiet = Some(millis()?),
        "--max-ms" => given.limit = Some(millis()?),
        "--carry-ms" => given.carry = Some(millis()?),
        _ => return Err(wrong()),
    }
    Ok(())
}

fn listener(text: &str) -> Option<Listener> {
    let (name, rest) = text.split_once('=')?;
    let (handoff, address) = rest.split_once(':')?;
    let handoff = Handoff::of_word(handoff)?;
    let plain = !name.is_empty() && !address.is_empty() && !address.contains(',');
    plain.then(|| Listener { name: name.to_owned(), handoff, address: address.to_owned() })
}

/// Where a listener's address is reached from this host: a wildcard by its family's loopback.
fn target(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("v6only:").unwrap_or(text);
    let mut address: SocketAddr = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0)?;
    address.set_ip(deployd_api::spec::own(address.ip()));
    Some(address)
}

fn port(given: &Given) -> Result<Option<u16>, Error> {
    match (given.base_port, given.instance) {
        (None, None) => Ok(None),
        (Some(base), Some(instance)) => base
            .checked_add(instance)
            .map(Some)
            .ok_or_else(|| usage("the port of this instance is above 65535")),
        _ => Err(usage("--base-port and --instance belong together")),
    }
}

fn usage(text: &str) -> Error {
    Error::Usage(text.to_owned())
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
