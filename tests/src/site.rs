//! A host with deployd installed and a fixture app on it: what most suites begin with.
//!
//! Everything goes through `deployd-ctl --local` and systemd, as a person would do it. Nothing here reads
//! deployd's own files.

use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::deb;
use crate::image::{Image, Suite};
use crate::machine::Host;
use crate::package::{repository, target_dir};
use crate::wait;

/// A host that runs deployd.
#[derive(Debug)]
pub struct Site {
    /// The host.
    pub host: Host,
}

/// A call of ctl that has ended.
#[derive(Debug)]
pub struct Called {
    /// The exit code.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Called {
    /// What an ended process said.
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Requires this exit code; says everything otherwise.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == code, "exit {} instead of {code}\n{}\n{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }
}

/// The static binary of the fixture apps, built once a run.
pub fn fixture() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_fixture().map_err(|e| format!("{e:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build_fixture() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("DEPLOYD_TEST_FIXTURE") {
        return Ok(path.into());
    }
    let target = target_dir().join("fixture");
    let host = "x86_64-unknown-linux-gnu";
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.current_dir(repository()).args(["build", "--quiet", "--release", "-p", "deployd-fixture"]);
    cargo.args(["--target", host, "--target-dir"]).arg(&target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    ensure!(cargo.status().context("failed to run cargo")?.success(), "the fixture does not build");
    Ok(target.join(host).join("release/deployd-fixture"))
}

impl Site {
    /// Boots a host and installs the packages.
    pub fn boot(suite: Suite, name: &str) -> Result<Self> {
        Self::on(Host::boot(&Image::ensure(suite)?, name)?)
    }

    /// Installs the packages on a host that runs.
    pub fn on(host: Host) -> Result<Self> {
        deb::install(&host, &deb::packages()?)?;
        let site = Self { host };
        site.wait_for_agent()?;
        Ok(site)
    }

    /// Waits until the agent is ready.
    pub fn wait_for_agent(&self) -> Result<()> {
        wait::until(Duration::from_secs(30), "the agent", || {
            match self.host.exec("systemctl is-active deployd.service") {
                Ok(out) if out.status.success() => Ok(()),
                Ok(out) => Err(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
                Err(e) => Err(e.to_string()),
            }
        })
    }

    /// Makes an artifact `/srv/<name>` on the host: the fixture as `bin/app`, and a file that makes it
    /// another artifact than the others.
    pub fn artifact(&self, name: &str) -> Result<String> {
        let dir = format!("/srv/{name}");
        let bytes = std::fs::read(fixture()?)?;
        self.host.write_file(&format!("{dir}/bin/app"), bytes, 0o755)?;
        self.host.write_file(&format!("{dir}/version"), format!("{name}\n"), 0o644)?;
        Ok(dir)
    }

    /// Writes a spec to `/srv/<name>.toml`; its path.
    pub fn spec(&self, name: &str, text: &str) -> Result<String> {
        let path = format!("/srv/{name}.toml");
        self.host.write_file(&path, text, 0o644)?;
        Ok(path)
    }

    /// `deployd-ctl --local ARGS`, split by a shell.
    pub fn ctl(&self, args: &str) -> Result<Called> {
        Ok(Called::of(self.host.exec(&format!("deployd-ctl --local {args}"))?))
    }

    /// Pushes a folder by a spec and waits until it is committed or undone.
    pub fn push(&self, dir: &str, spec: &str) -> Result<Called> {
        self.ctl(&format!("push {dir} -c {spec} --wait committed"))
    }

    /// Pushes, and requires that it is committed.
    pub fn deploy(&self, dir: &str, spec: &str) -> Result<Called> {
        self.push(dir, spec)?.expect(0)
    }

    /// The status of an app, as `-o json` prints it: the API's `AppStatus`.
    pub fn status(&self, app: &str) -> Result<Value> {
        let called = self.ctl(&format!("status -a {app} -o json"))?.expect(0)?;
        let value: Value = serde_json::from_str(&called.stdout).context("status is not JSON")?;
        Ok(match value {
            Value::Array(mut rows) if rows.len() == 1 => rows.remove(0),
            other => other,
        })
    }

    /// The label that serves.
    pub fn live(&self, app: &str) -> Result<String> {
        let status = self.status(app)?;
        status["live"].as_str().map(str::to_owned).with_context(|| format!("nothing is live: {status}"))
    }

    /// The records of an app's last deployment, from `deployd journal show`.
    pub fn journal(&self, app: &str) -> Result<Vec<Value>> {
        let text = self.host.ok(&format!("deployd journal show --json {app}"))?;
        text.lines().map(|l| serde_json::from_str(l).context("a record is not JSON")).collect()
    }

    /// The label that an app's next push gets.
    pub fn next_label(&self, app: &str) -> Result<String> {
        let rows = self.ctl(&format!("releases -a {app} -o json"))?.expect(0)?;
        let rows: Vec<Value> = serde_json::from_str(&rows.stdout).context("releases are not JSON")?;
        let number = |row: &Value| row["label"].as_str()?.strip_prefix('v')?.parse::<u32>().ok();
        Ok(format!("v{}", rows.iter().filter_map(number).max().unwrap_or(0) + 1))
    }

    /// The verdict of an app's last deployment; `None` while it runs.
    pub fn verdict(&self, app: &str) -> Result<Option<String>> {
        let records = self.journal(app)?;
        let last = records.iter().rev().find(|r| r["record"] == "finished");
        Ok(last.and_then(|r| r["verdict"].as_str()).map(str::to_owned))
    }

    /// Waits until an app's last deployment has a verdict.
    pub fn wait_for_verdict(&self, app: &str, within: Duration) -> Result<String> {
        wait::until(within, "a verdict", || match self.verdict(app) {
            Ok(Some(verdict)) => Ok(verdict),
            Ok(None) => Err("it still runs".to_owned()),
            Err(e) => Err(format!("{e:#}")),
        })
    }

    /// Waits until nothing of an app drains.
    pub fn wait_until_drained(&self, app: &str, within: Duration) -> Result<()> {
        wait::until(within, "the end of draining", || {
            let status = self.status(app).map_err(|e| format!("{e:#}"))?;
            let rows = status["processes"].as_array().cloned().unwrap_or_default();
            let draining: Vec<&Value> = rows.iter().filter(|r| r["role"] == "draining").collect();
            if draining.is_empty() { Ok(()) } else { Err(format!("{draining:?}")) }
        })
    }

    /// `doctor` finds nothing, and no unit of ours is there that the app's live release does not have.
    pub fn require_silent_doctor(&self) -> Result<()> {
        let called = self.ctl("doctor")?;
        if called.code != 0 {
            bail!("doctor found something (exit {}):\n{}\n{}", called.code, called.stdout, called.stderr);
        }
        let failed = self.host.ok("systemctl --failed --no-legend --plain")?;
        ensure!(failed.is_empty(), "failed units: {failed}");
        Ok(())
    }

    /// The main process of the agent.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.host.ok("systemctl show -p MainPID --value deployd.service")?.trim().parse()?)
    }

    /// Ends the agent at once, as a crash would; its unit starts it again.
    pub fn kill_agent(&self) -> Result<()> {
        self.host.ok(&format!("kill -9 {}", self.agent_pid()?)).map(drop)
    }
}

/// The spec of the fixture app `shop` on port 8080; `more` is appended, so it may add tables.
pub fn shop(env: &[(&str, &str)], deploy: &str, more: &str) -> String {
    let env = env.iter().map(|(k, v)| format!("{k} = \"{v}\"\n")).collect::<Vec<_>>().concat();
    format!(
        "app = \"shop\"\n\n[env]\n{env}\n[processes.web]\nexec = \"bin/app web\"\n\n[listen.http]\naddress = \":8080\"\n\n\
         [checks.health]\npath = \"/health\"\ninterval = \"200ms\"\n\n\
         [deploy]\nwait_timeout = \"20s\"\ndrain_timeout = \"20s\"\n{deploy}\n\n{more}"
    )
}
