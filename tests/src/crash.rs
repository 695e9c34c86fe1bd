//! Killing the agent at a record of its journal: it is told to stand still there (`DEPLOYD_HOLD`), and then gets
//! SIGKILL from outside. Whether a kill came where it should is read afterwards, from the journal of the whole
//! deployment and the time at which PID 1 started the next agent: a kill that came elsewhere does not count.
//!
//! Called by the crash suite. The agent that PID 1 starts next is an ordinary one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::time::ClockId;
use serde_json::Value;

use crate::site::Site;
use crate::wait;

/// Read by the agent's unit at each start, so that a hold needs no reload.
const HOLD_FILE: &str = "/run/deployd-hold.env";
const DROP_IN: &str = "/etc/systemd/system/deployd.service.d/hold.conf";
const WITHIN: Duration = Duration::from_mins(1);

/// Where the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Record N is durable, and nothing was done since.
    After(u64),
    /// What record N tells has happened, and it is not written.
    Before(u64),
}

impl Place {
    /// Records that the killed agent has written.
    pub fn records(self) -> u64 {
        match self {
            Self::After(number) => number,
            Self::Before(number) => number - 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(number) => write!(formatter, "after:{number}"),
            Self::Before(number) => write!(formatter, "before:{number}"),
        }
    }
}

/// Lets the agent's unit read where to stand still.
pub fn prepare(site: &Site) -> Result<()> {
    site.host.write_file(DROP_IN, format!("[Service]\nEnvironmentFile=-{HOLD_FILE}\n"), 0o644)?;
    site.host.ok("systemctl daemon-reload").map(drop)
}

/// Restarts the agent, so that its next deployment stands still there.
pub fn arm(site: &Site, place: Place) -> Result<()> {
    site.host.write_file(HOLD_FILE, format!("DEPLOYD_HOLD={place}\n"), 0o644)?;
    site.host.ok("systemctl restart deployd.service").map(drop)
}

/// Waits until the agent stands still.
pub fn wait_held(site: &Site, app: &str, place: Place) -> Result<()> {
    let pid = site.agent_pid()?;
    let held = format!("journalctl --quiet --output=cat --lines=1 --grep='^held: waiting' _PID={pid}");
    wait::until(WITHIN, &format!("the agent to stand still {place}"), || {
        let said = site.host.exec(&held).map_err(|e| format!("{e:#}"))?;
        if said.stdout.starts_with(b"held") { Ok(()) } else { Err(progress(site, app)) }
    })
}

/// Waits until the agent stands still, and kills it. Returns the journal as it was then.
pub fn kill(site: &Site, app: &str, place: Place) -> Result<Vec<Value>> {
    let pid = site.agent_pid()?;
    wait_held(site, app, place)?;
    site.host.ok(&format!("rm {HOLD_FILE}"))?;
    let records = site.journal(app)?;
    site.host.ok(&format!("kill -9 {pid}"))?;
    wait::until(WITHIN, "another agent", || match site.agent_pid() {
        Ok(now) if now != 0 && now != pid => Ok(()),
        Ok(now) => Err(format!("pid {now}")),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(records)
}

/// How many records of a deployment the agent that was killed has written: those that are older than the process of
/// the agent that runs now.
pub fn written_before_the_kill(site: &Site, records: &[Value]) -> Result<u64> {
    let started =
        site.host.ok("systemctl show -p ExecMainStartTimestampMonotonic --value deployd.service")?;
    // Records are timed by a clock that goes on while the machine sleeps, PID 1's does not.
    let (boot, running) = (ClockId::CLOCK_BOOTTIME.now()?, ClockId::CLOCK_MONOTONIC.now()?);
    let slept_ms = Duration::from(boot).saturating_sub(running.into()).as_millis() as u64;
    let started_ms = started.trim().parse::<u64>().context("the agent has no start")? / 1000 + slept_ms;
    let at = |record: &Value| record["up_ms"].as_u64().context("a record without a time");
    let times = records.iter().map(at).collect::<Result<Vec<u64>>>()?;
    ensure!(times.is_sorted(), "the records are not in the order of their times: {times:?}");
    Ok(times.iter().filter(|time| **time < started_ms).count() as u64)
}

fn progress(site: &Site, app: &str) -> String {
    match site.journal(app) {
        Ok(records) => {
            format!("{} records, the last: {}", records.len(), records.last().unwrap_or(&Value::Null))
        }
        Err(error) => format!("{error:#}"),
    }
}

/// What a record is, without when it was: to compare journals of two runs.
pub fn what(record: &Value) -> (String, Option<u64>) {
    (record["record"].as_str().unwrap_or_default().to_owned(), record["step"].as_u64())
}

/// Requires that, of all releases of the app, only the live one has units, only kept ones have files, and that the
/// app has one user and one socket. Nothing of it may drain any more.
pub fn require_nothing_left(site: &Site, app: &str, live: &str) -> Result<()> {
    let units = site.host.ok("find /etc/systemd/system -mindepth 1 -name 'deployd-*' -printf '%f\\n'; \
         systemctl list-units --all --plain --no-legend 'deployd-*' | cut -d' ' -f1")?;
    let own = own_units(site, app, live)?;
    // A unit's folder of drop-ins is there or not: what was learned of a listener.
    let is_own = |name: &str| own.contains(name) || own.contains(name.strip_suffix(".d").unwrap_or(name));
    let others: Vec<&str> = units.lines().filter(|unit| !is_own(unit)).collect();
    ensure!(others.is_empty(), "units beside those of {live}, {own:?}: {others:?}");
    let missing: Vec<&String> =
        own.iter().filter(|unit| !units.lines().any(|found| found == *unit)).collect();
    ensure!(missing.is_empty(), "not there of the live release {live}: {missing:?}");

    let rows = site.ctl(&format!("releases -a {app} -o json"))?.expect(0)?;
    let rows: Vec<Value> = serde_json::from_str(&rows.stdout).context("releases are not JSON")?;
    let kept = rows.iter().filter(|row| row["state"] == "live" || row["state"] == "kept");
    // A tree and its manifest each.
    let kept = kept.filter_map(|row| row["label"].as_str()).flat_map(|label| [label, label]);
    let files = site.host.ok(&format!("ls /var/lib/deployd/apps/{app}/releases"))?;
    let label = |file: &'_ str| file.split('-').next().unwrap_or_default().to_owned();
    let (mut kept, mut files): (Vec<String>, Vec<String>) =
        (kept.map(str::to_owned).collect(), files.lines().map(label).collect());
    kept.sort_unstable();
    files.sort_unstable();
    ensure!(files == kept, "releases with files: {files:?}, kept: {kept:?}");
    let staged =
        site.host.ok(&format!("find /var/lib/deployd/apps/{app}/staging -mindepth 1 2>/dev/null || true"))?;
    ensure!(staged.is_empty(), "left of staging: {staged}");

    let users = site.host.ok("getent passwd | grep ^dpl- | cut -d: -f1")?;
    ensure!(users == format!("dpl-{app}"), "users: {users}");
    let sockets = crate::shop::listeners(&site.host)?;
    ensure!(sockets == 1, "{sockets} sockets listen");
    site.require_silent_doctor()
}

/// The units that the app's target boots, their templates, and the two that the app always has. By the target and not
/// by the label, because a release that is activated again gets units of other names.
fn own_units(site: &Site, app: &str, live: &str) -> Result<BTreeSet<String>> {
    let mut own = BTreeSet::from([format!("deployd-{app}.slice"), format!("deployd-{app}.target")]);
    let target = site.host.read_file(&format!("/etc/systemd/system/deployd-{app}.target"))?;
    let wanted: Vec<&str> = target.lines().filter_map(|line| line.strip_prefix("Wants=")).collect();
    ensure!(!wanted.is_empty(), "the target wants nothing: {target}");
    for unit in wanted {
        let of_live = unit.split(['-', '@', '.']).any(|part| part == live);
        ensure!(of_live, "the target wants {unit}, and {live} is live");
        own.insert(unit.to_owned());
        if let Some((template, _)) = unit.split_once('@') {
            own.insert(format!("{template}@.service"));
        }
    }
    Ok(own)
}
