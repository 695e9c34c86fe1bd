//! `[listen.NAME]`: an address and how the program gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::fields::{Field, Keys, Section};
use super::read_process_name;
use crate::ids::{ListenerName, ProcessName};
use crate::spec::check::{UNIX_PATH_MAX, is_unix_path};
use crate::spec::{Address, Handoff, Listener};

pub(super) const LISTEN: Keys = Keys { known: &["address", "handoff", "process"], later: &[] };

/// Every listener that could be read.
pub(super) fn read(
    section: &Section<'_>,
    processes: &BTreeSet<ProcessName>,
) -> BTreeMap<ListenerName, Listener> {
    let mut listeners = BTreeMap::new();
    for field in section.fields() {
        let name: Option<ListenerName> = field.named();
        let listener = field.section(LISTEN).and_then(|s| {
            let address = s.required("address", "address = \":8080\"").and_then(|f| read_address(&f));
            let handoff = s.get("handoff").map_or(Some(Handoff::Auto), |f| f.word(&Handoff::WORDS, &[]));
            let process = read_process_name(&s, processes);
            Some(Listener { address: address?, handoff: handoff?, process: process? })
        });
        listeners.extend(name.zip(listener));
    }
    listeners
}

fn read_address(field: &Field<'_>) -> Option<Address> {
    if let Some(number) = field.value().as_integer() {
        field.fail("an address is a text", Some(format!("write \":{number}\"")));
        return None;
    }
    let text = field.text()?;
    let parsed = parse_address(text);
    if let Err((what, hint)) = &parsed {
        field.fail(format!("`{}` {what}", text.escape_debug()), Some(hint.clone()));
    }
    parsed.ok()
}

/// `:PORT`, `IP:PORT`, `[IPV6]:PORT` or `/path`; else what is wrong and a hint.
fn parse_address(text: &str) -> Result<Address, (&'static str, String)> {
    const FORMS: &str = "write \":8080\", \"127.0.0.1:8080\", \"[::1]:8080\" or \"/run/shop.sock\"";
    if text.starts_with('/') {
        return parse_unix(text);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(("is not an address", format!("write \":{text}\"")));
    }
    let address = if let Some(port) = text.strip_prefix(':') {
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits);
        Address::Any { port: port.ok_or(("is not an address", FORMS.to_owned()))? }
    } else {
        match text.parse::<SocketAddr>() {
            Ok(SocketAddr::V6(v6)) if v6.scope_id() != 0 || v6.ip().to_ipv4_mapped().is_some() => {
                return Err(("has a zone or is an IPv4 address in IPv6 form", FORMS.to_owned()));
            }
            Ok(socket) => Address::Ip { ip: socket.ip(), port: socket.port() },
            Err(_) => return Err(("is not an address with a port", FORMS.to_owned())),
        }
    };
    match &address {
        Address::Ip { ip: IpAddr::V4(ip), .. } if ip.is_multicast() || ip.is_broadcast() => {
            Err(("is not an address that a server can have", FORMS.to_owned()))
        }
        _ if address.port() == Some(0) => Err(("has port 0", "write a port from 1 to 65535".to_owned())),
        _ => Ok(address),
    }
}

fn parse_unix(text: &str) -> Result<Address, (&'static str, String)> {
    if !is_unix_path(text) {
        return Err(("is not a clean path", "write for example \"/run/shop.sock\"".to_owned()));
    }
    if text.len() > UNIX_PATH_MAX {
        return Err(("is too long for a Unix socket", format!("use at most {UNIX_PATH_MAX} bytes")));
    }
    Ok(Address::Unix { path: text.to_owned() })
}
