//! After any sequence of operations and crashes, every socket that listens on the port is one that somebody serves.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::effort::{Effort, on_suites, sample, seed};
use deployd_tests::image::Suite;
use deployd_tests::site::{Site, shop};
use deployd_tests::wait;
use deployd_tests::websocket::WebSockets;

/// New connections after each operation; an unserved member would get its share of them and never answer.
const REQUESTS: usize = 200;
const VERDICT: Duration = Duration::from_mins(1);
const DEPLOY: &str = "min_healthy = \"200ms\"\nmonitor = \"200ms\"";

#[test]
fn no_group_has_an_unserved_member() -> Result<()> {
    on_suites(3, |suite| no_group_has_an_unserved_member_on(suite, u64::from(suite == Suite::Trixie)))
}

/// `salt`: so that each has an order of its own.
fn no_group_has_an_unserved_member_on(suite: Suite, salt: u64) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let target = "127.0.0.1:8080".parse()?;
    let asker = Asker { from: site.host.netns(), source: None, target };
    let mut app = App { site, asker, pushes: 0, stopped: false };
    app.apply(Operation::Push)?;
    app.apply(Operation::Push)?;
    for (index, operation) in operations(salt).into_iter().enumerate() {
        eprintln!("{index}: {operation:?}");
        app.apply(operation).with_context(|| format!("operation {index}, {operation:?}"))?;
        app.require_served().with_context(|| format!("after operation {index}, {operation:?}"))?;
    }
    app.site.host.finish()
}

/// What people and accidents do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Push,
    PushBad,
    PushNeverReady,
    /// A child has the listener open and never accepts.
    PushLeaking,
    PushBadLeaking,
    /// A release with such a child is replaced while a client keeps it.
    ReplaceLeakingInUse,
    Rollback,
    Restart,
    StopOrStart,
    KillAgent,
    KillAgentInAPush,
    KillAgentInABadPush,
    KillApp,
    KillAppInAPush,
    StopAgentInAPush,
}

const OPERATIONS: [Operation; 15] = [
    Operation::Push,
    Operation::PushBad,
    Operation::PushNeverReady,
    Operation::PushLeaking,
    Operation::PushBadLeaking,
    Operation::ReplaceLeakingInUse,
    Operation::Rollback,
    Operation::Restart,
    Operation::StopOrStart,
    Operation::KillAgent,
    Operation::KillAgentInAPush,
    Operation::KillAgentInABadPush,
    Operation::KillApp,
    Operation::KillAppInAPush,
    Operation::StopAgentInAPush,
];

/// Rounds of all operations, each round in an order of its own.
fn operations(salt: u64) -> Vec<Operation> {
    let rounds = Effort::of_this_run().pick(1, 6);
    let mut all = Vec::new();
    for round in 0..rounds {
        // Drawing one number from each shrinking rest is a shuffle.
        let mut rest = OPERATIONS.to_vec();
        while !rest.is_empty() {
            let step = (round * OPERATIONS.len() + rest.len()) as u64;
            let drawn = sample(seed().wrapping_add(step << 1 | salt), 1, rest.len());
            all.push(rest.remove(drawn.first().copied().unwrap_or_default()));
        }
    }
    all
}

struct App {
    site: Site,
    asker: Asker,
    pushes: u32,
    stopped: bool,
}

impl App {
    /// The words of a push that no push was before.
    fn next_push(&mut self, env: &[(&str, &str)]) -> Result<String> {
        self.pushes += 1;
        let push = self.pushes.to_string();
        let mut all = vec![("PUSH", push.as_str())];
        all.extend_from_slice(env);
        let text = shop(&all, DEPLOY, "").replace("exec =", "instances = 2\nexec =");
        let text = text.replace("wait_timeout = \"20s\"", "wait_timeout = \"3s\"");
        let spec = self.site.spec(&format!("push{push}"), &text)?;
        let dir = self.site.artifact("shop")?;
        Ok(format!("push {dir} -c {spec}"))
    }

    fn push(&mut self, env: &[(&str, &str)], code: i32) -> Result<()> {
        let words = self.next_push(env)?;
        self.site.ctl(&format!("{words} --wait committed"))?.expect(code)?;
        // A push starts a stopped app.
        self.stopped = self.stopped && code != 0;
        Ok(())
    }

    /// Begins a push, does something at a moment that the seed decides, and waits for the verdict, which must be one
    /// of these.
    fn disturb(
        &mut self,
        env: &[(&str, &str)],
        verdicts: &[&str],
        disturb: impl FnOnce(&Site) -> Result<()>,
    ) -> Result<()> {
        let words = self.next_push(env)?;
        self.site.ctl(&format!("{words} --detach"))?.expect(0)?;
        let rows = sample(seed().wrapping_add(u64::from(self.pushes)), 1, 20)[0] + 2;
        wait::until(VERDICT, "the moment", || match self.site.journal("shop") {
            Ok(records) if records.len() >= rows => Ok(()),
            Ok(records) if records.iter().any(|record| record["record"] == "finished") => Ok(()),
            Ok(records) => Err(format!("{} of {rows} records", records.len())),
            Err(error) => Err(format!("{error:#}")),
        })?;
        disturb(&self.site)?;
        self.site.wait_for_agent()?;
        let verdict = self.site.wait_for_verdict("shop", VERDICT)?;
        ensure!(verdicts.contains(&verdict.as_str()), "verdict {verdict}, not one of {verdicts:?}");
        self.stopped = self.stopped && verdict != "committed";
        Ok(())
    }

    fn apply(&mut self, operation: Operation) -> Result<()> {
        let bad = [("FAIL_HEALTH", "1")];
        let leaks = [("LEAK", "1")];
        match operation {
            Operation::Push => self.push(&[], 0),
            Operation::PushBad => self.push(&bad, 4),
            Operation::PushNeverReady => self.push(&[("NEVER_READY", "1")], 4),
            Operation::PushLeaking => self.push(&leaks, 0),
            Operation::PushBadLeaking => self.push(&[bad, leaks].concat(), 4),
            Operation::ReplaceLeakingInUse => self.replace_leaking_in_use(),
            Operation::Rollback => {
                // Nothing to go back to is an answer, too.
                let called = self.site.ctl("rollback -a shop --wait committed")?;
                ensure!(called.code == 0 || called.code == 3, "{called:?}");
                self.stopped = self.stopped && called.code != 0;
                Ok(())
            }
            Operation::Restart => {
                let code = if self.stopped { 3 } else { 0 };
                self.site.ctl("restart -a shop")?.expect(code).map(drop)
            }
            Operation::StopOrStart => {
                let verb = if self.stopped { "start" } else { "stop" };
                self.site.ctl(&format!("{verb} -a shop"))?.expect(0)?;
                self.stopped = !self.stopped;
                Ok(())
            }
            Operation::KillAgent => kill_agent(&self.site),
            // Whoever is gone for a moment, the deployment ends as it would have.
            Operation::KillAgentInAPush => self.disturb(&[], &["committed"], kill_agent),
            Operation::KillAgentInABadPush => self.disturb(&bad, &["rolled-back"], kill_agent),
            Operation::KillApp if self.stopped => Ok(()),
            Operation::KillApp => kill_app(&self.site),
            // A candidate that dies while it is watched is given up; one that only starts gets another try.
            Operation::KillAppInAPush => self.disturb(&[], &["committed", "rolled-back"], kill_app),
            Operation::StopAgentInAPush => self.disturb(&[], &["committed"], |site| {
                site.host.ok("systemctl stop deployd && systemctl start deployd").map(drop)
            }),
        }
    }

    /// While the old release serves its client, its child keeps the listener open: nobody may be sent there.
    fn replace_leaking_in_use(&mut self) -> Result<()> {
        self.push(&[("LEAK", "1")], 0)?;
        self.site.wait_until_drained("shop", VERDICT)?;
        let old = self.site.live("shop")?;
        let mut held = WebSockets::open(&self.site.host, 1)?;
        self.push(&[], 0)?;
        let new = format!("shop {}", self.site.live("shop")?);
        wait::until(VERDICT, "the old listener to leave the group", || match self.site.listening(8080) {
            Ok(inodes) if inodes.len() == 1 => Ok(()),
            Ok(inodes) => Err(format!("{inodes:?}")),
            Err(error) => Err(format!("{error:#}")),
        })?;
        for answer in self.asker.many("/", REQUESTS)? {
            ensure!(answer.body == new, "{answer:?}, not {new}");
        }
        // All that was while it drained, and its child was there.
        ensure!(held.count() == 1, "its client was cut off");
        let processes = self.site.host.ok(&format!(
            "for i in 1 2; do of=$(systemctl show -p ControlGroup --value deployd-shop-web-{old}@$i.service); \
             [ -z \"$of\" ] || cat /sys/fs/cgroup$of/cgroup.procs; done"
        ))?;
        ensure!(processes.lines().count() >= 2, "no child is left of {old}: {processes:?}");
        held.close(1)
    }

    fn require_served(&self) -> Result<()> {
        self.site.wait_until_drained("shop", VERDICT)?;
        // Its processes may just have been killed: PID 1 brings them back, the doctor then has nothing to say.
        wait::until(VERDICT, "a silent doctor", || {
            self.site.require_silent_doctor().map_err(|error| format!("{error:#}"))
        })?;
        let members = self.site.listening(8080)?.len();
        if self.stopped {
            ensure!(members == 0, "{members} sockets listen for an app that is stopped");
            return Ok(());
        }
        ensure!(members == 1, "{members} sockets listen");
        self.asker.many("/", REQUESTS)?;
        self.site.require_all_serve("shop", &self.asker)
    }
}

fn kill_agent(site: &Site) -> Result<()> {
    let before = site.agent_pid()?;
    site.kill_agent()?;
    wait::until(VERDICT, "another agent", || match site.agent_pid() {
        Ok(0) => Err("none".to_owned()),
        Ok(pid) if pid == before => Err("still the old one".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })?;
    site.wait_for_agent()
}

/// All processes of the app, whichever release they belong to.
fn kill_app(site: &Site) -> Result<()> {
    site.host.ok("systemctl kill --signal=KILL 'deployd-shop-web-*@*.service' || true").map(drop)
}
