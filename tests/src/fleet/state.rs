//! What the hosts of a fleet say of themselves, and waiting until nothing moves any more.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Fleet;
use crate::api;
use crate::machine::Host;
use crate::wait;

/// What a person would list who wants to know whether anything was touched. The database is not looked into: it may
/// note that somebody asked.
const LISTING: &str = "find /etc/deployd /etc/systemd/system /var/lib/deployd /var/lib/deployd-apps -xdev \
    -not -name 'state.db*' -printf '%p %y %m %U %s\\n' 2>/dev/null | sort; \
    systemctl list-units --all --plain --no-legend 'deployd-*' | awk '{print $1, $3, $4}' | sort; \
    getent passwd | grep ^dpl- ; ls /etc/systemd/system/*.wants 2>/dev/null; true";

/// One host and one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// The host.
    pub host: String,
    /// The release that serves.
    pub live: Option<String>,
    /// Whether a deployment runs.
    pub moves: bool,
    /// Who holds the lease.
    pub lease: Option<String>,
}

/// A fleet in which nothing moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled(pub Vec<HostState>);

impl Settled {
    /// The one release that serves everywhere.
    pub fn one_release(&self) -> Result<String> {
        let first = self.0.first().and_then(|host| host.live.clone()).context("nothing is live")?;
        ensure!(self.0.iter().all(|host| host.live.as_ref() == Some(&first)), "mixed: {:?}", self.0);
        Ok(first)
    }

    /// The release of each host, in order.
    pub fn labels(&self) -> Vec<Option<&str>> {
        self.0.iter().map(|host| host.live.as_deref()).collect()
    }
}

impl HostState {
    /// What a host says of an app on its own socket.
    pub fn of(host: &Host, app: &str) -> Result<Self> {
        let status = api::get(host, &format!("/v1/apps/{app}"))?;
        let status = if status.status == 404 { Value::Null } else { status.json()? };
        let lease = api::get(host, &format!("/v1/apps/{app}/lease"))?;
        // No lease: nothing, or nothing of the kind.
        let lease = if lease.status == 200 { lease.json()? } else { Value::Null };
        Ok(Self {
            host: host.name().to_owned(),
            live: status["live"].as_str().map(str::to_owned),
            moves: !status["deployment"].is_null(),
            lease: lease["holder"].as_str().map(str::to_owned),
        })
    }
}

impl Fleet {
    /// What every host says.
    pub fn states(&self, app: &str) -> Result<Vec<HostState>> {
        self.hosts.iter().map(|host| HostState::of(host, app)).collect()
    }

    /// Waits until no deployment runs and no lease is held on any host.
    pub fn wait_settled(&self, app: &str, within: Duration) -> Result<Settled> {
        wait::until(within, "a settled fleet", || {
            let states = self.states(app).map_err(|e| format!("{e:#}"))?;
            let calm = states.iter().all(|host| !host.moves && host.lease.is_none());
            if calm { Ok(Settled(states)) } else { Err(format!("{states:?}")) }
        })
    }

    /// Files, units and users of deployd on every host.
    pub fn listing(&self) -> Result<String> {
        let of = |host: &Host| Ok(format!("== {}\n{}", host.name(), host.ok(LISTING)?));
        Ok(self.hosts.iter().map(of).collect::<Result<Vec<_>>>()?.join("\n"))
    }

    /// `work` must leave every host as it is.
    pub fn untouched<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.listing()?;
        let done = work()?;
        let after = self.listing()?;
        ensure!(before == after, "something was touched: {}", difference(&before, &after));
        Ok(done)
    }

    /// The last deployment of an app on a host, as its journal names it.
    pub fn last_deployment(&self, host: &Host, app: &str) -> Result<String> {
        let story = host.ok(&format!("deployd journal show {app}"))?;
        story.lines().next().map(str::to_owned).context("an empty story")
    }
}

/// Lines that are only on one side.
fn difference(before: &str, after: &str) -> String {
    let only = |one: &str, other: &str, sign: char| -> String {
        let there: std::collections::BTreeSet<&str> = other.lines().collect();
        let lines = one.lines().filter(|line| !there.contains(line)).map(|line| format!("\n{sign} {line}"));
        lines.collect::<Vec<_>>().concat()
    };
    only(before, after, '-') + &only(after, before, '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_release_is_one_everywhere() {
        let of = |live: Option<&str>| HostState {
            host: "web1".into(),
            live: live.map(str::to_owned),
            moves: false,
            lease: None,
        };
        assert_eq!(Settled(vec![of(Some("v2")), of(Some("v2"))]).one_release().expect("one"), "v2");
        assert!(Settled(vec![of(Some("v2")), of(Some("v1"))]).one_release().is_err());
        assert!(Settled(vec![of(None), of(None)]).one_release().is_err());
        assert_eq!(difference("a\nb", "a\nc"), "\n- b\n+ c");
    }
}
