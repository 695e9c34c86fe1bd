//! From the text of `fleet.toml` to hosts: everything that is wrong at once, each with its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use deployd_api::ids::HostName;
use deployd_api::spec::Selector;
use toml::de::{DeTable, DeValue};

use super::{Address, FleetHost};

/// How alike a wrong key must be to a right one to be suggested.
const ALIKE: f64 = 0.8;
const KEYS: [&str; 3] = ["address", "groups", "labels"];

/// One thing wrong with the file. Shown as `LINE: KEY: what`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FleetError {
    pub(crate) line: usize,
    pub(crate) key: String,
    pub(crate) what: String,
}

impl fmt::Display for FleetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.key.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{colon}{}", self.line, self.key, self.what)
    }
}

struct Reader<'t> {
    text: &'t str,
    errors: Vec<FleetError>,
}

/// The hosts, in the order of their names.
pub(crate) fn parse(text: &str) -> Result<Vec<FleetHost>, Vec<FleetError>> {
    let mut reader = Reader { text, errors: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.not_toml(&error);
    }
    // The keys of a host that stands twice stand twice too.
    let doubled = |error: &FleetError| error.key.starts_with("hosts.");
    if reader.errors.iter().any(doubled) {
        reader.errors.retain(doubled);
    }
    let mut hosts = Vec::new();
    if reader.errors.is_empty() {
        hosts = reader.root(document.get_ref());
        reader.between(&hosts);
    }
    if reader.errors.is_empty() {
        hosts.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        return Ok(hosts.into_iter().map(|(host, _)| host).collect());
    }
    reader.errors.sort();
    reader.errors.dedup();
    Err(reader.errors)
}

impl<'t> Reader<'t> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.get(..offset).unwrap_or_default().matches('\n').count()
    }

    fn fail(&mut self, offset: usize, key: &str, what: impl Into<String>) {
        let line = self.line(offset);
        self.errors.push(FleetError { line, key: key.to_owned(), what: what.into() });
    }

    /// A duplicate is told with the line of the first.
    fn not_toml(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or_default();
        let what = error.message();
        if !what.contains("duplicate key") {
            return self.fail(span.start, "", what);
        }
        let name = self.text.get(span.clone()).unwrap_or_default().trim_matches(['"', '\'']).to_owned();
        let line = self.line(span.start);
        let header = format!("[hosts.{name}]");
        let first = self.text.lines().position(|l| l.split('#').next().is_some_and(|l| l.trim() == header));
        match first.map(|at| at + 1).filter(|first| *first < line) {
            Some(first) => {
                let what = format!("there are two hosts of this name: lines {first} and {line}");
                self.fail(span.start, &format!("hosts.{name}"), what);
            }
            None => self.fail(span.start, &name, "the key stands twice"),
        }
    }

    fn root(&mut self, root: &DeTable<'t>) -> Vec<(FleetHost, usize)> {
        let mut hosts = Vec::new();
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("hosts", DeValue::Table(table)) => hosts = self.hosts(table),
                ("hosts", _) => self.fail(key.span().start, "hosts", "must be a table: write [hosts.web1]"),
                (name, _) => {
                    let name = name.to_owned();
                    let what = format!("unknown key{}", did_you_mean(&name, &["hosts"]));
                    self.fail(key.span().start, &name, what);
                }
            }
        }
        if hosts.is_empty() && self.errors.is_empty() {
            self.fail(0, "", "names no hosts; add one: deployd-ctl hosts add NAME --ssh root@ADDRESS");
        }
        hosts
    }

    fn hosts(&mut self, table: &DeTable<'t>) -> Vec<(FleetHost, usize)> {
        let mut hosts = Vec::new();
        for (key, value) in table {
            let (offset, path) = (key.span().start, format!("hosts.{}", key.get_ref()));
            let name = key.get_ref().parse::<HostName>();
            if let Err(error) = &name {
                self.fail(offset, &path, error.to_string());
            }
            let DeValue::Table(fields) = value.get_ref() else {
                self.fail(offset, &path, "must be a table with an address");
                continue;
            };
            let host = self.host(fields, &path, offset);
            if let (Ok(name), Some((address, groups, labels))) = (name, host) {
                hosts.push((FleetHost { name, address, groups, labels }, offset));
            }
        }
        hosts
    }

    fn host(
        &mut self,
        fields: &DeTable<'t>,
        path: &str,
        offset: usize,
    ) -> Option<(Address, Vec<String>, BTreeMap<String, String>)> {
        let (mut address, mut groups, mut labels) = (None, Vec::new(), BTreeMap::new());
        let mut given = false;
        for (key, value) in fields {
            let (at, path) = (key.span().start, format!("{path}.{}", key.get_ref()));
            match key.get_ref().as_ref() {
                "address" => {
                    given = true;
                    match value.get_ref().as_str().map(str::parse::<Address>) {
                        Some(Ok(parsed)) => address = Some(parsed),
                        Some(Err(what)) => self.fail(at, &path, what),
                        None => self.fail(at, &path, "must be a text in quotes"),
                    }
                }
                "groups" => groups = self.groups(value.get_ref(), at, &path),
                "labels" => labels = self.labels(value.get_ref(), at, &path),
                other => {
                    let what = format!("unknown key{}", did_you_mean(other, &KEYS));
                    self.fail(at, &path, what);
                }
            }
        }
        if !given {
            self.fail(offset, &format!("{path}.address"), "is missing: write address = \"10.0.0.11\"");
        }
        Some((address?, groups, labels))
    }

    fn groups(&mut self, value: &DeValue<'t>, at: usize, path: &str) -> Vec<String> {
        let DeValue::Array(items) = value else {
            self.fail(at, path, "must be a list: write groups = [\"web\"]");
            return Vec::new();
        };
        let mut groups = BTreeSet::new();
        for item in items {
            match item.get_ref().as_str() {
                Some(group) if is_word(group) => {
                    groups.insert(group.to_owned());
                }
                _ => self.fail(item.span().start, path, "each group is a word of a-z, 0-9, -, _ and ."),
            }
        }
        groups.into_iter().collect()
    }

    fn labels(&mut self, value: &DeValue<'t>, at: usize, path: &str) -> BTreeMap<String, String> {
        let DeValue::Table(items) = value else {
            self.fail(at, path, "must be a table: write labels = { region = \"fra\" }");
            return BTreeMap::new();
        };
        let mut labels = BTreeMap::new();
        for (key, item) in items {
            match item.get_ref().as_str() {
                Some(value) if is_word(key.get_ref()) && is_word(value) => {
                    labels.insert(key.get_ref().to_string(), value.to_owned());
                }
                _ => {
                    let what = format!("{} must be a text of letters, digits, -, _ and .", key.get_ref());
                    self.fail(key.span().start, path, what);
                }
            }
        }
        labels
    }

    /// What holds between hosts: an address is one host's, and a name means a host or a group.
    fn between(&mut self, hosts: &[(FleetHost, usize)]) {
        let mut by_place: Vec<_> = hosts.iter().collect();
        by_place.sort_by_key(|(_, offset)| *offset);
        let mut seen: BTreeMap<&Address, &FleetHost> = BTreeMap::new();
        for (host, offset) in by_place {
            let path = format!("hosts.{}", host.name);
            if let Some(first) = seen.insert(&host.address, host) {
                let what = format!("{} is the address of {} too", host.address, first.name);
                self.fail(*offset, &format!("{path}.address"), what);
            }
            for group in &host.groups {
                if hosts.iter().any(|(other, _)| other.name.as_str() == group) {
                    let what = format!("{group} is a host: a group needs another name");
                    self.fail(*offset, &format!("{path}.groups"), what);
                }
            }
        }
    }
}

/// What a selector can name.
fn is_word(text: &str) -> bool {
    matches!(text.parse(), Ok(Selector::Name(_)))
}

fn did_you_mean(name: &str, known: &[&str]) -> String {
    let alike = known.iter().map(|k| (strsim::jaro_winkler(name, k), k)).filter(|(a, _)| *a >= ALIKE);
    let best = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(
        || format!("; known are {}", known.join(", ")),
        |(_, k)| format!(", did you mean `{k}`?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_in_the_order_of_their_names() {
        let text = "# ours\n[hosts.web2]\naddress = \"10.0.0.12\"\n[hosts.web1]\naddress = \"10.0.0.11:99\"\n\
                    groups = [\"web\", \"all\", \"web\"]\nlabels = { region = \"fra\" }\n";
        let hosts = parse(text).unwrap();
        let shown: Vec<_> = hosts.iter().map(|h| format!("{} {}", h.name, h.address)).collect();
        assert_eq!(shown, ["web1 10.0.0.11:99", "web2 10.0.0.12:7443"]);
        assert_eq!(hosts[0].groups, ["all", "web"]);
        assert_eq!(hosts[0].labels["region"], "fra");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let a = "address = \"10.0.0.1\"\n";
        for (text, want) in [
            (String::new(), "1: names no hosts; add one: deployd-ctl hosts add NAME --ssh root@ADDRESS"),
            ("[host.a]\n".to_owned(), "1: host: unknown key, did you mean `hosts`?"),
            ("hosts = 1\n".to_owned(), "1: hosts: must be a table: write [hosts.web1]"),
            ("[hosts.a]\n".to_owned(), "1: hosts.a.address: is missing: write address = \"10.0.0.11\""),
            (
                "[hosts.a]\nadress = \"10.0.0.1\"\n".to_owned(),
                "1: hosts.a.address: is missing: write address = \"10.0.0.11\" | \
                 2: hosts.a.adress: unknown key, did you mean `address`?",
            ),
            (
                format!("[hosts.a]\n{a}[hosts.b]\naddress = \"10.0.0.1:7443\"\n"),
                "3: hosts.b.address: 10.0.0.1:7443 is the address of a too",
            ),
            (
                format!("[hosts.a]\n{a}\n[hosts.a]\naddress = \"10.0.0.2\"\n"),
                "4: hosts.a: there are two hosts of this name: lines 1 and 4",
            ),
            (format!("[hosts.a]\n{a}{a}"), "3: address: the key stands twice"),
            (
                format!("[hosts.Web_1]\n{a}"),
                "1: hosts.Web_1: `Web_1` is not a valid host name: only a-z, 0-9 and - are allowed",
            ),
            (
                format!("[hosts.a]\n{a}groups = \"web\"\n"),
                "3: hosts.a.groups: must be a list: write groups = [\"web\"]",
            ),
            (
                format!("[hosts.a]\n{a}groups = [\"a\"]\n"),
                "1: hosts.a.groups: a is a host: a group needs another name",
            ),
            (
                format!("[hosts.a]\n{a}labels = {{ region = 1 }}\n"),
                "3: hosts.a.labels: region must be a text of letters, digits, -, _ and .",
            ),
        ] {
            let errors = parse(&text).unwrap_err();
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told.join(" | "), want, "{text}");
        }
        let errors = parse("[hosts.a\n").unwrap_err();
        assert_eq!(errors[0].line, 1);
    }
}
