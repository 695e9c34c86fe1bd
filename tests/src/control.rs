//! Positive controls: the same fixture under the same load, replaced without deployd. They must lose requests; a run
//! in which they lose none cannot show that deployd loses none.
//!
//! Called by the swap suite and by benchmarks. Must never run while a release is swapped.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::load::{Load, Options};
use crate::machine::Host;
use crate::site::fixture;

/// The port of the controls, beside that of the app under test.
pub const PORT: u16 = 8081;
/// One process each; the instance's name is its release.
const UNIT: &str = "[Service]\nType=notify\nEnvironment=APP_NAME=control APP_VERSION=%i\n\
                    EnvironmentFile=/srv/control/env\nExecStart=/srv/control/app naive 8081\n\
                    TimeoutStopSec=10\n";
/// Requests between two replacements: that many prove that the load flows.
const BETWEEN: u64 = 300;
const WITHIN: Duration = Duration::from_secs(30);

/// What a control lost.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// How often the process was replaced.
    pub swaps: usize,
    /// Requests.
    pub requests: u64,
    /// Failed ones of them.
    pub failed: u64,
}

/// How a process is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The new one starts beside the old one, each with a listener of its own; then the old one closes its own.
    NaiveClose,
    /// `systemctl restart` of a unit that binds its port itself.
    Restart,
}

impl Way {
    fn replace(self, host: &Host, number: usize) -> Result<()> {
        match self {
            Self::NaiveClose => {
                let new = number + 1;
                host.ok(&format!("systemctl start control@v{new} && systemctl stop control@v{number}"))
            }
            Self::Restart => host.ok("systemctl restart control@v1"),
        }
        .map(drop)
    }
}

/// The two controls on a host, with the environment of the app under test.
#[derive(Debug)]
pub struct Control<'a> {
    host: &'a Host,
}

impl<'a> Control<'a> {
    /// Installs the unit, and takes the kernel's safety net away: what is compared is how processes are replaced.
    pub fn install(host: &'a Host, env: &[(&str, &str)]) -> Result<Self> {
        let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let env = env.concat();
        host.write_file("/srv/control/app", std::fs::read(fixture()?)?, 0o755)?;
        host.write_file("/srv/control/env", env, 0o644)?;
        host.write_file("/etc/systemd/system/control@.service", UNIT, 0o644)?;
        host.ok("systemctl daemon-reload && sysctl --quiet --write net.ipv4.tcp_migrate_req=0")?;
        Ok(Self { host })
    }

    /// Replaces the process until a request fails, at most `cap` times. Nothing lost at all is an error.
    pub fn run(&self, way: Way, options: &Options, cap: usize) -> Result<Lost> {
        self.host.ok("systemctl start control@v1")?;
        let mut options = options.clone();
        options.target.set_port(PORT);
        options.accept.clear();
        let load = Load::start(options)?;
        load.wait_flowing(BETWEEN, WITHIN).context("the control does not answer")?;
        let mut swaps = 0;
        while swaps < cap && load.failed() == 0 {
            swaps += 1;
            way.replace(self.host, swaps)?;
            load.wait_flowing(BETWEEN, WITHIN)?;
        }
        let total = load.stop()?.report(&[]).total;
        self.host.ok("systemctl stop 'control@*'")?;
        if total.failed == 0 {
            bail!(
                "{way:?} lost nothing in {swaps} swaps and {} requests: this run proves nothing",
                total.requests
            );
        }
        Ok(Lost { swaps, requests: total.requests, failed: total.failed })
    }

    /// Puts the safety net back.
    pub fn finish(self) -> Result<()> {
        self.host.ok("sysctl --quiet --write net.ipv4.tcp_migrate_req=1").map(drop)
    }
}
