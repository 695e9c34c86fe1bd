//! Hosts in and out of `fleet.toml`: the rest of the file stays as its people wrote it.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

use super::{FleetHost, PORT, parse};

/// What an edit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    Added,
    Updated,
    Nothing,
}

const FIRST_LINE: &str = "# The hosts of the fleet. Keep it in git; it holds no secrets.\n";

/// The text with this host in it: a new table at the end, or what differs in the table it has. Groups and labels
/// that are not given stay.
pub(crate) fn put(text: &str, host: &FleetHost) -> Result<(String, Change), String> {
    let known = if text.trim().is_empty() { Vec::new() } else { parse(text).unwrap_or_default() };
    if let Some(other) = known.iter().find(|k| k.name != host.name && k.address == host.address) {
        return Err(format!("{} is the address of {} already", host.address, other.name));
    }
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    let known = known.into_iter().find(|k| k.name == host.name);
    let mut wanted = host.clone();
    if let Some(known) = &known {
        if wanted.groups.is_empty() {
            wanted.groups.clone_from(&known.groups);
        }
        if wanted.labels.is_empty() {
            wanted.labels.clone_from(&known.labels);
        }
        if *known == wanted {
            return Ok((text.to_owned(), Change::Nothing));
        }
    }
    let hosts = document.entry("hosts").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let Some(hosts) = hosts.as_table_like_mut() else { return Err("hosts is not a table".to_owned()) };
    if hosts.get(host.name.as_str()).is_none() {
        hosts.insert(host.name.as_str(), Item::Table(Table::new()));
    }
    let entry = hosts.get_mut(host.name.as_str()).and_then(Item::as_table_like_mut);
    let Some(entry) = entry else { return Err(format!("hosts.{} is not a table", host.name)) };
    let before = known.as_ref();
    if before.is_none_or(|k| k.address != wanted.address) {
        set(entry, "address", value(short(&wanted)));
    }
    if before.map_or(!wanted.groups.is_empty(), |k| k.groups != wanted.groups) {
        set(entry, "groups", value(wanted.groups.iter().collect::<Array>()));
    }
    if before.map_or(!wanted.labels.is_empty(), |k| k.labels != wanted.labels) {
        let labels = wanted.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<InlineTable>();
        set(entry, "labels", value(labels));
    }
    let first = if text.trim().is_empty() { FIRST_LINE } else { "" };
    let change = if known.is_some() { Change::Updated } else { Change::Added };
    Ok((format!("{first}{document}"), change))
}

/// The text without this host.
pub(crate) fn remove(text: &str, name: &str) -> Result<(String, Change), String> {
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    let hosts = document.get_mut("hosts").and_then(Item::as_table_like_mut);
    match hosts.and_then(|hosts| hosts.remove(name)) {
        Some(_) => Ok((document.to_string(), Change::Updated)),
        None => Ok((text.to_owned(), Change::Nothing)),
    }
}

/// Sets a value; a comment behind the old one stays.
fn set(table: &mut dyn toml_edit::TableLike, key: &str, mut item: Item) {
    let old = table.get(key).and_then(Item::as_value).map(|v| v.decor().clone());
    if let (Some(decor), Some(new)) = (old, item.as_value_mut()) {
        *new.decor_mut() = decor;
    }
    table.insert(key, item);
}

/// Without the port that everybody has.
fn short(host: &FleetHost) -> String {
    let text = host.address.to_string();
    match text.strip_suffix(&format!(":{PORT}")) {
        Some(plain) => plain.trim_matches(['[', ']']).to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn host(name: &str, address: &str, groups: &[&str], labels: &[(&str, &str)]) -> FleetHost {
        let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        FleetHost {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            labels,
        }
    }

    #[test]
    fn a_new_file_grows_host_by_host() {
        let (text, change) = put("", &host("web1", "10.0.0.11", &["web"], &[("region", "fra")])).unwrap();
        assert_eq!(change, Change::Added);
        let (text, _) = put(&text, &host("web2", "fd00::2", &[], &[])).unwrap();
        let (text, _) = put(&text, &host("web3", "10.0.0.13:99", &[], &[])).unwrap();
        assert_eq!(
            text,
            "# The hosts of the fleet. Keep it in git; it holds no secrets.\n\
             [hosts.web1]\naddress = \"10.0.0.11\"\ngroups = [\"web\"]\nlabels = { region = \"fra\" }\n\n\
             [hosts.web2]\naddress = \"fd00::2\"\n\n[hosts.web3]\naddress = \"10.0.0.13:99\"\n"
        );
        assert_eq!(parse(&text).unwrap().len(), 3);
        assert_eq!(put(&text, &host("web1", "10.0.0.11", &[], &[])).unwrap(), (text, Change::Nothing));
    }

    #[test]
    fn what_people_wrote_stays() {
        let text = "# ours\n[hosts.web1] # the old one\naddress = \"10.0.0.11\" # rack 3\ngroups = [\"web\"]\n\n\
                    # spare\n[hosts.web2]\naddress = \"10.0.0.12\"\n";
        let (moved, change) = put(text, &host("web1", "10.0.0.99", &[], &[])).unwrap();
        assert_eq!((moved, change), (text.replace("0.11\"", "0.99\""), Change::Updated));
        let (without, _) = remove(text, "web2").unwrap();
        assert!(without.starts_with("# ours\n[hosts.web1] # the old one\n"), "{without}");
        assert_eq!(parse(&without).unwrap().len(), 1);
        assert_eq!(remove(text, "web9").unwrap(), (text.to_owned(), Change::Nothing));
        let error = put(text, &host("web9", "10.0.0.12:7443", &[], &[])).unwrap_err();
        assert_eq!(error, "10.0.0.12:7443 is the address of web2 already");
    }
}
