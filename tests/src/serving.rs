//! Whether every instance of the live release serves, from outside: who answers, and which process belongs to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::ask::{Answer, Asker, Kept};
use crate::site::Site;
use crate::wait;

/// Requests one after the other: what a blocked event loop cannot answer alone.
const IN_TURN: usize = 40;
/// Requests of one parallel round.
const TOGETHER: usize = 160;
/// Longest start of an instance.
const START: Duration = Duration::from_secs(30);

impl Site {
    /// The main processes of the live release's `web`, by instance.
    pub fn instances(&self, app: &str) -> Result<BTreeMap<u64, u32>> {
        let status = self.status(app)?;
        let rows = status["processes"].as_array().context("no processes")?;
        let live = rows.iter().find(|row| row["role"] == "live" && row["process"] == "web");
        let instances = live.and_then(|row| row["instances"].as_array()).context("nothing is live")?;
        let pid = |row: &serde_json::Value| Some((row["number"].as_u64()?, row["pid"].as_u64()? as u32));
        Ok(instances.iter().filter_map(pid).collect())
    }

    /// The unit that a process of the host belongs to, by its cgroup.
    pub fn unit_of(&self, pid: u32) -> Result<String> {
        let cgroup = self.host.ok(&format!("cat /proc/{pid}/cgroup"))?;
        Ok(cgroup.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// The units that answered, and how often.
    pub fn count_by_unit(&self, answers: &[Answer]) -> Result<BTreeMap<String, usize>> {
        let mut by_pid: BTreeMap<u32, usize> = BTreeMap::new();
        for answer in answers {
            *by_pid.entry(answer.pid.context("an answer without X-Pid")?).or_default() += 1;
        }
        let mut units = BTreeMap::new();
        for (pid, count) in by_pid {
            *units.entry(self.unit_of(pid)?).or_default() += count;
        }
        Ok(units)
    }

    /// Idle and together: every request is answered, and every instance of the live release answers some.
    pub fn require_all_serve(&self, app: &str, asker: &Asker) -> Result<()> {
        let wanted = self.live_units(app)?;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |answers: &[Answer]| -> Result<bool> {
            for (unit, count) in self.count_by_unit(answers)? {
                ensure!(wanted.contains(&unit), "{unit} answered, {wanted:?} should");
                *seen.entry(unit).or_default() += count;
            }
            Ok(seen.len() == wanted.len())
        };
        add(&asker.sequence("/", IN_TURN)?).context("one after the other")?;
        // Until the youngest instance has begun to accept; no request may fail meanwhile.
        let deadline = std::time::Instant::now() + START;
        while !add(&asker.many("/", TOGETHER)?).context("together")? {
            ensure!(std::time::Instant::now() < deadline, "of {wanted:?} only {seen:?} answered");
        }
        // Now that all are up: nobody blocks, with nothing else that could wake it.
        self.count_by_unit(&asker.sequence("/", IN_TURN)?).context("one after the other, all up")?;
        Ok(())
    }

    fn live_units(&self, app: &str) -> Result<BTreeSet<String>> {
        let pids = self.instances(app)?;
        pids.values().map(|pid| self.unit_of(*pid)).collect()
    }

    /// A kept connection to each instance, by unit.
    pub fn keep_each(&self, app: &str, asker: &Asker) -> Result<BTreeMap<String, Kept>> {
        let wanted = self.live_units(app)?;
        let mut held = BTreeMap::new();
        wait::until(START, "a connection to each instance", || {
            let mut one = || -> Result<()> {
                let mut kept = asker.keep()?;
                let pid = kept.ask("/")?.pid.context("an answer without X-Pid")?;
                held.entry(self.unit_of(pid)?).or_insert(kept);
                Ok(())
            };
            let tried = one();
            let all = wanted.iter().all(|unit| held.contains_key(unit));
            if all { Ok(()) } else { Err(format!("{tried:?}, {:?} of {wanted:?}", held.keys())) }
        })?;
        Ok(held)
    }

    /// `kill -9` of a unit's main process; returns when PID 1 has started another one.
    pub fn kill_unit(&self, unit: &str) -> Result<()> {
        let show = format!("systemctl show -p MainPID --value {unit}");
        let pid: u32 = self.host.ok(&show)?.parse()?;
        ensure!(pid != 0, "{unit} has no process");
        self.host.ok(&format!("kill -9 {pid}"))?;
        wait::until(START, &format!("another process of {unit}"), || match self.host.ok(&show) {
            Ok(now) if now != "0" && now != pid.to_string() => Ok(()),
            Ok(now) => Err(now),
            Err(e) => Err(e.to_string()),
        })
    }

    /// The sockets that listen on a port, as inode numbers.
    pub fn listening(&self, port: u16) -> Result<Vec<u64>> {
        let lines = self.host.ok(&format!("ss -Hltne 'sport = :{port}'"))?;
        let inode = |line: &str| -> Result<u64> {
            let inode = line.split_whitespace().find_map(|word| word.strip_prefix("ino:"));
            Ok(inode.with_context(|| format!("no inode: {line}"))?.parse()?)
        };
        lines.lines().map(inode).collect()
    }
}
