//! Positive controls: the same fixture under the same load, replaced without deployd. They must lose requests; a run
//! in which they lose none cannot show that deployd loses none.
//!
//! Called by the swap suite and by benchmarks. What the kernel may do for a listener that closes is the caller's to
//! set, and must be the same for a control and for what it is compared with.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::load::{Load, Options};
use crate::machine::Host;
use crate::site::fixture;

/// One process each; the instance's name is its release.
const NAIVE: &str = "[Service]\nType=notify\nEnvironmentFile=/srv/control/env\nEnvironment=APP_VERSION=%i\n\
                     ExecStart=/srv/control/app naive 8081\nTimeoutStopSec=10\n";
const RESTARTED: &str = "[Service]\nType=notify\nEnvironmentFile=/srv/control/env\nEnvironment=ADDRESS=:8082\n\
                         ExecStart=/srv/control/app web\nTimeoutStopSec=10\n";
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
    /// Both.
    pub const ALL: [Self; 2] = [Self::NaiveClose, Self::Restart];

    /// Where its clients connect to.
    pub fn port(self) -> u16 {
        match self {
            Self::NaiveClose => 8081,
            Self::Restart => 8082,
        }
    }
}

/// The two controls on a host.
#[derive(Debug)]
pub struct Control<'a> {
    host: &'a Host,
    /// The number of the naive process that serves.
    naive: usize,
}

impl<'a> Control<'a> {
    /// Installs the units, with the environment of the app under test. What ran before is stopped.
    pub fn install(host: &'a Host, env: &[(&str, &str)]) -> Result<Self> {
        host.ok("systemctl stop 'control-naive@*' control-restarted.service 2>/dev/null || true")?;
        let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        if !host.outside("/srv/control/app").exists() {
            host.write_file("/srv/control/app", std::fs::read(fixture()?)?, 0o755)?;
        }
        host.write_file("/srv/control/env", format!("APP_NAME=control\n{}", env.concat()), 0o644)?;
        host.write_file("/etc/systemd/system/control-naive@.service", NAIVE, 0o644)?;
        host.write_file("/etc/systemd/system/control-restarted.service", RESTARTED, 0o644)?;
        host.ok("systemctl daemon-reload")?;
        Ok(Self { host, naive: 1 })
    }

    /// Starts the process of a way.
    pub fn start(&self, way: Way) -> Result<()> {
        match way {
            Way::NaiveClose => self.host.ok(&format!("systemctl start control-naive@{}", self.naive)),
            Way::Restart => self.host.ok("systemctl start control-restarted.service"),
        }
        .map(drop)
    }

    /// Replaces it once; returns when the old process has ended.
    pub fn replace(&mut self, way: Way) -> Result<()> {
        match way {
            Way::NaiveClose => {
                let old = self.naive;
                self.naive += 1;
                let (start, stop) =
                    (format!("systemctl start control-naive@{}", self.naive), "systemctl stop");
                self.host.ok(&format!("{start} && {stop} control-naive@{old}"))
            }
            Way::Restart => self.host.ok("systemctl restart control-restarted.service"),
        }
        .map(drop)
    }

    /// Replaces the process under this load until a request fails, at most `cap` times. Nothing lost at all is an
    /// error.
    pub fn run(&mut self, way: Way, options: &Options, cap: usize) -> Result<Lost> {
        self.start(way)?;
        let mut options = options.clone();
        options.target.set_port(way.port());
        options.accept.clear();
        let load = Load::start(options)?;
        load.wait_flowing(BETWEEN, WITHIN).context("the control does not answer")?;
        let mut swaps = 0;
        while swaps < cap && load.failed() == 0 {
            swaps += 1;
            self.replace(way)?;
            load.wait_flowing(BETWEEN, WITHIN)?;
        }
        let total = load.stop()?.report(&[]).total;
        self.host.ok("systemctl stop 'control-*'")?;
        if total.failed == 0 {
            bail!(
                "{way:?} lost nothing in {swaps} swaps and {} requests: this run proves nothing",
                total.requests
            );
        }
        Ok(Lost { swaps, requests: total.requests, failed: total.failed })
    }
}
