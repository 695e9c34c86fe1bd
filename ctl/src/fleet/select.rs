//! From selectors to hosts. Nothing is an error, never an empty success.

use std::collections::BTreeSet;

use deployd_api::spec::Selector;

use super::{Fleet, FleetHost, answer, invalid};
use crate::error::CtlError;

impl FleetHost {
    fn is_meant_by(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Name(name) => self.name.as_str() == name || self.groups.contains(name),
            Selector::Label { key, value } => self.labels.get(key) == Some(value),
        }
    }
}

impl Fleet {
    /// The hosts that any of the selectors means, in the order of their names. Each selector must mean one.
    pub(crate) fn select(&self, selectors: &[Selector]) -> Result<Vec<&FleetHost>, CtlError> {
        for selector in selectors {
            if !self.hosts.iter().any(|host| host.is_meant_by(selector)) {
                let message = format!("no host of the fleet is {selector}");
                return Err(answer(self.tell(invalid(message, "write one of these"))));
            }
        }
        let meant = |host: &&FleetHost| selectors.iter().any(|s| host.is_meant_by(s));
        Ok(self.hosts.iter().filter(meant).collect())
    }

    /// The hosts that are meant when nobody says which: the only group. A fleet without groups, or of one host,
    /// leaves no choice either.
    pub(crate) fn without_a_word(&self) -> Result<Vec<&FleetHost>, CtlError> {
        let groups = self.groups();
        match groups.iter().next() {
            Some(group) if groups.len() == 1 && self.hosts.len() > 1 => {
                self.select(&[Selector::Name((*group).to_owned())])
            }
            _ if groups.is_empty() || self.hosts.len() == 1 => Ok(self.hosts.iter().collect()),
            _ => {
                let message = "the fleet has several groups, and the spec does not say which one is meant";
                let hint = format!("write into the spec: hosts = \"{}\"", groups.first().unwrap_or(&"web"));
                Err(answer(self.tell(invalid(message, hint))))
            }
        }
    }

    /// All groups there are.
    pub(crate) fn groups(&self) -> BTreeSet<&str> {
        self.hosts.iter().flat_map(|h| &h.groups).map(String::as_str).collect()
    }

    /// Adds what there is to choose from.
    fn tell(&self, mut body: deployd_api::error::ErrorBody) -> deployd_api::error::ErrorBody {
        let labels: BTreeSet<String> =
            self.hosts.iter().flat_map(|h| &h.labels).map(|(k, v)| format!("{k}={v}")).collect();
        let lists = [
            ("groups", self.groups().into_iter().map(str::to_owned).collect::<Vec<_>>()),
            ("labels", labels.into_iter().collect()),
            ("hosts", self.hosts.iter().map(|h| h.name.to_string()).collect()),
        ];
        for (heading, names) in lists {
            let text = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            body = body.cause(heading, text);
        }
        body.cause("where", self.file.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::parse;

    fn fleet(hosts: &[(&str, &str, &str)]) -> Fleet {
        let mut text = String::new();
        for (i, (name, groups, region)) in hosts.iter().enumerate() {
            text += &format!("[hosts.{name}]\naddress = \"10.0.0.{i}\"\ngroups = [{groups}]\n");
            text += &format!("labels = {{ region = \"{region}\" }}\n");
        }
        Fleet { file: "fleet.toml".into(), hosts: parse(&text).unwrap() }
    }

    fn names(hosts: Vec<&FleetHost>) -> String {
        hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn selectors_mean_hosts_groups_and_labels() {
        let fleet =
            fleet(&[("web1", "\"web\"", "fra"), ("web2", "\"web\"", "ams"), ("jobs1", "\"jobs\"", "fra")]);
        for (selectors, want) in [
            (&["web"][..], "web1 web2"),
            (&["web2"], "web2"),
            (&["region=fra"], "jobs1 web1"),
            (&["web", "jobs1", "web1"], "jobs1 web1 web2"),
        ] {
            let selectors: Vec<Selector> = selectors.iter().map(|s| s.parse().unwrap()).collect();
            assert_eq!(names(fleet.select(&selectors).unwrap()), want);
        }
        for missing in ["api", "region=lon", "zone=fra"] {
            let selectors = ["web".parse().unwrap(), missing.parse().unwrap()];
            let body = fleet.select(&selectors).unwrap_err().to_body();
            assert_eq!(body.message, format!("no host of the fleet is {missing}"));
            let told: Vec<_> = body.causes.iter().map(|(h, t)| format!("{h}: {t}")).collect();
            let want = [
                "groups: jobs, web",
                "labels: region=ams, region=fra",
                "hosts: jobs1, web1, web2",
                "where: fleet.toml",
            ];
            assert_eq!(told, want);
        }
    }

    #[test]
    fn without_a_word_the_only_group_is_meant() {
        for (hosts, want) in [
            (&[("a", "\"web\"", "x"), ("b", "", "x")][..], Some("a")),
            (&[("a", "", "x"), ("b", "", "x")], Some("a b")),
            (&[("a", "\"web\", \"eu\"", "x")], Some("a")),
            (&[("a", "\"web\"", "x"), ("b", "\"jobs\"", "x")], None),
        ] {
            assert_eq!(fleet(hosts).without_a_word().ok().map(names).as_deref(), want, "{hosts:?}");
        }
    }
}
