//! The fixture app as the operator's project: a spec, a fleet's inventory beside it, and a folder of files.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Fleet, PROJECT};
use crate::load::{Load, Options};
use crate::shop::{PORT, Spec};
use crate::site::fixture;

/// Requests that prove that a load flows.
const FLOWS: u64 = 100;
const FLOWS_WITHIN: Duration = Duration::from_secs(30);
/// Three hosts share the machine with their clients.
const CLIENTS: usize = 16;
const THINK: Duration = Duration::from_millis(20);

/// A project folder on the operator's machine: `deployd.toml`, and the artifact in `dist`.
#[derive(Clone, Debug)]
pub struct Project {
    spec: Spec,
    build: Option<String>,
    ballast: usize,
}

impl Default for Project {
    fn default() -> Self {
        Self { spec: Spec::shop(), build: None, ballast: 0 }
    }
}

impl Project {
    /// Another spec than the shop's usual one.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Spec) -> Spec) -> Self {
        self.spec = change(self.spec);
        self
    }

    /// A command that push runs before.
    #[must_use]
    pub fn built_by(mut self, command: &str) -> Self {
        self.build = Some(command.to_owned());
        self
    }

    /// So many megabytes that cannot be made smaller, new in each release.
    #[must_use]
    pub fn heavy(mut self, megabytes: usize) -> Self {
        self.ballast = megabytes;
        self
    }

    /// `deployd.toml`.
    pub fn text(&self) -> String {
        let spec = self.spec.text();
        // Keys of the whole stand before the first table.
        let (head, tables) = spec.split_once('\n').unwrap_or((&spec, ""));
        let mut text = format!("{head}\nhosts = \"web\"\n{tables}\n[build]\nartifact = \"dist\"\n");
        if let Some(command) = &self.build {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "command = \"{command}\"");
        }
        text
    }

    /// Writes it all; `version` makes the artifact differ from the others.
    pub fn write(&self, fleet: &Fleet, version: &str) -> Result<()> {
        let ops = &fleet.ops.host;
        let program = format!("{PROJECT}/dist/bin/app");
        if !ops.outside(&program).exists() {
            ops.write_file(&program, std::fs::read(fixture()?)?, 0o755)?;
        }
        ops.write_file(&format!("{PROJECT}/dist/version"), format!("{version}\n"), 0o644)?;
        let ballast = format!("{PROJECT}/dist/ballast");
        if self.ballast == 0 {
            ops.ok(&format!("rm -f {ballast}"))?;
        } else {
            ops.ok(&format!("head -c {}000000 /dev/urandom >{ballast}", self.ballast))?;
        }
        ops.write_file(&format!("{PROJECT}/deployd.toml"), self.text(), 0o644)
    }
}

/// Load on the app of every host, from beside them, in the order of the hosts.
pub fn loads(fleet: &Fleet, accept: &[&str]) -> Result<Vec<Load>> {
    let start = |host: &crate::machine::Host| {
        let target = SocketAddr::new(host.address().v4.into(), PORT);
        let mut options = Options::new(target).accept(accept).from_netns(fleet.client().clone());
        (options.clients, options.think) = (CLIENTS, THINK);
        let load = Load::start(options)?;
        load.wait_flowing(FLOWS, FLOWS_WITHIN).with_context(|| format!("{} does not answer", host.name()))?;
        Ok(load)
    };
    fleet.hosts.iter().map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_names_its_hosts_before_any_table() {
        let text = Project::default().built_by("true").text();
        let hosts = text.find("hosts = ").expect("hosts");
        assert!(text.starts_with("app = ") && hosts < text.find('[').expect("a table"), "{text}");
        assert!(text.ends_with("[build]\nartifact = \"dist\"\ncommand = \"true\"\n"), "{text}");
    }
}
