//! What the CA issued: one JSON line a certificate, rewritten whole.

use deployd_api::access::Role;
use deployd_api::ids::{HostName, Timestamp};
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::{Home, answer, home, invalid};
use crate::error::CtlError;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Issued {
    pub(crate) serial: String,
    /// Of the operator, or of the host.
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<HostName>,
    pub(crate) not_after: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<Timestamp>,
}

impl Issued {
    pub(crate) fn of(facts: &Facts) -> Self {
        Self {
            serial: facts.serial.clone(),
            name: facts.name.clone(),
            roles: facts.roles.clone(),
            host: facts.host.clone(),
            not_after: facts.not_after,
            revoked: None,
        }
    }

    /// `host`, or its roles.
    pub(crate) fn what(&self) -> String {
        match &self.host {
            Some(_) => "host".to_owned(),
            None => self.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether it can still be used.
    pub(crate) fn is_live(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.not_after > now
    }
}

/// The list, oldest first.
pub(crate) fn read(home: &Home) -> Result<Vec<Issued>, CtlError> {
    let text = home.text(home::ISSUED)?.unwrap_or_default();
    let mut list = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        list.push(serde_json::from_str(line).map_err(|e| {
            let place = format!("{}:{}", home.path(home::ISSUED).display(), at + 1);
            let next = "mend the line, or put the file of your backup there";
            answer(
                invalid("the list of issued certificates cannot be read", next)
                    .cause("what", e.to_string())
                    .cause("where", place),
            )
        })?);
    }
    Ok(list)
}

/// Its text.
pub(crate) fn text(list: &[Issued]) -> Result<String, CtlError> {
    let mut text = String::new();
    for issued in list {
        text += &serde_json::to_string(issued).map_err(|e| super::broken("write the list", e))?;
        text.push('\n');
    }
    Ok(text)
}

/// Adds one.
pub(crate) fn add(home: &Home, issued: Issued) -> Result<(), CtlError> {
    let _turn = home.turn()?;
    let mut list = read(home)?;
    list.push(issued);
    home.write(home::ISSUED, text(&list)?.as_bytes())
}

/// The certificates that a name or a serial means and that are not revoked yet.
pub(crate) fn meant<'l>(list: &'l mut [Issued], word: &str) -> Vec<&'l mut Issued> {
    list.iter_mut().filter(|i| i.revoked.is_none() && (i.name == word || i.serial == word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(serial: &str, name: &str, revoked: Option<u64>) -> Issued {
        Issued {
            serial: serial.to_owned(),
            name: name.to_owned(),
            roles: vec![Role::Admin],
            host: None,
            not_after: Timestamp(100),
            revoked: revoked.map(Timestamp),
        }
    }

    #[test]
    fn the_list_is_kept_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        assert_eq!(read(&home).unwrap(), []);
        add(&home, one("01", "ops-1", None)).unwrap();
        add(&home, one("02", "ops-2", Some(7))).unwrap();
        assert_eq!(read(&home).unwrap(), [one("01", "ops-1", None), one("02", "ops-2", Some(7))]);
        let line = home.text(home::ISSUED).unwrap().unwrap();
        assert!(
            line.starts_with(
                "{\"serial\":\"01\",\"name\":\"ops-1\",\"roles\":[\"admin\"],\"not_after\":100}\n"
            )
        );
        home.write(home::ISSUED, b"{}\n").unwrap();
        assert!(read(&home).unwrap_err().to_body().causes[1].1.ends_with("issued.jsonl:1"));
    }

    #[test]
    fn a_name_means_all_that_is_not_revoked() {
        let mut list =
            [one("01", "a", None), one("02", "a", Some(1)), one("03", "b", None), one("04", "a", None)];
        let serials = |list: Vec<&mut Issued>| list.iter().map(|i| i.serial.clone()).collect::<Vec<_>>();
        assert_eq!(serials(meant(&mut list, "a")), ["01", "04"]);
        assert_eq!(serials(meant(&mut list, "03")), ["03"]);
        assert!(meant(&mut list, "02").is_empty());
    }
}
