//! All instances share one listener, and with it `O_NONBLOCK`, which PID 1 sets or clears at every start. Programs of
//! each kind, two instances each, through everything that starts or lends: nobody ends up blocked in accept().

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::effort::Effort;
use deployd_tests::image::Suite;
use deployd_tests::load::{Kind, Load, Options, Pattern, Report};
use deployd_tests::programs::Program;
use deployd_tests::site::Site;

const CLIENTS: usize = 24;
/// Requests that must have ended before and after each event under load.
const FLOW: u64 = 200;
const FLOW_WITHIN: Duration = Duration::from_secs(30);

/// Case by case in turn on one Debian release, as the seed decides; a full run takes both.
fn on_suites(case: usize, program: Program, wants: &'static str, pattern: Pattern) -> Result<()> {
    for suite in Effort::of_this_run().suites(case) {
        eprintln!("{program:?} on {}", suite.name());
        Trial::new(suite, program, wants, pattern)?.run().with_context(|| suite.name())?;
    }
    Ok(())
}

#[test]
fn tokio() -> Result<()> {
    on_suites(0, Program::Tokio, "yes", Pattern::Half)
}

#[test]
fn libuv() -> Result<()> {
    // Node ends kept connections without a word when it stops; what that costs is host_programs' subject.
    on_suites(1, Program::Node, "yes", Pattern::NewConnection)
}

#[test]
fn beam() -> Result<()> {
    on_suites(2, Program::Mix, "yes", Pattern::Half)
}

#[test]
fn blocking_prefork() -> Result<()> {
    on_suites(3, Program::Prefork, "no", Pattern::Half)
}

/// One program on one host.
struct Trial {
    site: Site,
    program: Program,
    dir: String,
    /// What `NonBlocking=` has to be.
    wants: &'static str,
    pattern: Pattern,
    asker: Asker,
}

fn unit(label: &str, instance: u32) -> String {
    format!("deployd-shop-web-{label}@{instance}.service")
}

impl Trial {
    fn new(suite: Suite, program: Program, wants: &'static str, pattern: Pattern) -> Result<Self> {
        let site = Site::boot(suite, "web1")?;
        let dir = program.install(&site)?;
        let target = "127.0.0.1:8080".parse()?;
        let asker = Asker { from: site.host.netns(), source: None, target };
        Ok(Self { site, program, dir, wants, pattern, asker })
    }

    fn run(self) -> Result<()> {
        self.deploy("v1")?;
        self.require_learned("v1").context("learned from v1")?;
        self.idle("v1").context("idle, v1")?;
        self.deploy("v2")?;
        self.require_from_the_start("v2")?;
        self.idle("v2").context("idle, v2")?;
        self.lent_again().context("lent again")?;
        self.under_load().context("under load")?;
        self.killed_under_load().context("killed under load")?;
        self.require_learned("v4")?;
        // What the prefork fixture says of a listener that somebody made non-blocking.
        let spun = self.site.host.ok("journalctl --no-pager | grep -c 'accept would block' || true")?;
        ensure!(spun == "0", "accept() did not block {spun} times");
        self.site.require_silent_doctor()?;
        self.site.host.finish()
    }

    fn spec(&self, version: &str) -> String {
        self.program.spec(version, "address = \":8080\"", &[])
    }

    fn deploy(&self, version: &str) -> Result<()> {
        let spec = self.site.spec(version, &self.spec(version))?;
        self.site.deploy(&self.dir, &spec)?;
        ensure!(self.site.live("shop")? == version);
        self.all_serve().with_context(|| format!("{version} is live"))
    }

    fn all_serve(&self) -> Result<()> {
        self.site.require_all_serve("shop", &self.asker)
    }

    /// Both what PID 1 would do at the next start, and what the shared description has now.
    fn require_learned(&self, label: &str) -> Result<()> {
        for instance in [1, 2] {
            let unit = unit(label, instance);
            let shown = self.site.host.ok(&format!("systemctl show -p NonBlocking --value {unit}"))?;
            ensure!(shown == self.wants, "{unit} has NonBlocking={shown}");
        }
        let flags = self.flags(label)?;
        let found = if flags & 0o4000 == 0 { "no" } else { "yes" };
        ensure!(found == self.wants, "the listener has flags {flags:o}");
        Ok(())
    }

    /// The next release has it in its unit: no drop-in, no reload.
    fn require_from_the_start(&self, label: &str) -> Result<()> {
        let template = format!("/etc/systemd/system/deployd-shop-web-{label}@.service");
        let text = self.site.host.read_file(&template)?;
        ensure!(text.contains(&format!("\nNonBlocking={}\n", self.wants)), "{text}");
        self.site.host.ok(&format!("test ! -e {template}.d"))?;
        self.require_learned(label)
    }

    /// The flags of the listener's open file description, as instance 1 holds it.
    fn flags(&self, label: &str) -> Result<u32> {
        let inodes = self.site.listening(8080)?;
        let [inode] = inodes.as_slice() else { anyhow::bail!("{} sockets listen", inodes.len()) };
        let show = format!("systemctl show -p MainPID --value {}", unit(label, 1));
        let found = self.site.host.ok(&format!(
            "cd /proc/$({show})/fd && for fd in *; do \
             [ \"$(readlink $fd)\" = 'socket:[{inode}]' ] && sed -n 's/^flags:\\t*//p' ../fdinfo/$fd; done; true"
        ))?;
        let first = found.lines().next().context("instance 1 does not have the listener")?;
        Ok(u32::from_str_radix(first, 8)?)
    }

    /// Every way in which an instance starts while the other one waits for connections.
    fn idle(&self, label: &str) -> Result<()> {
        for instance in [2, 1] {
            let unit = unit(label, instance);
            self.while_others_wait(&unit, || self.site.kill_unit(&unit))
                .with_context(|| format!("kill -9 of {unit}"))?;
            self.while_others_wait(&unit, || self.systemctl("restart", &unit))
                .with_context(|| format!("restart of {unit}"))?;
            self.while_others_wait(&unit, || self.systemctl("stop", &unit))?;
            self.while_others_wait(&unit, || self.systemctl("start", &unit))
                .with_context(|| format!("start of {unit} beside the other"))?;
            self.require_learned(label).with_context(|| format!("after {unit} was started"))?;
        }
        Ok(())
    }

    fn systemctl(&self, verb: &str, unit: &str) -> Result<()> {
        self.site.host.ok(&format!("systemctl {verb} {unit}")).map(drop)
    }

    /// Something happens to a unit: the other one answers on a connection that it has, and then all answer.
    fn while_others_wait(&self, unit: &str, event: impl FnOnce() -> Result<()>) -> Result<()> {
        // A prefork child serves one connection at a time and closes it: nothing can be kept.
        let mut held = match self.program {
            Program::Prefork => BTreeMap::default(),
            _ => self.site.keep_each("shop", &self.asker)?,
        };
        // What it had itself would only make an orderly stop longer.
        drop(held.remove(unit));
        event()?;
        for (other, kept) in &mut held {
            kept.ask("/").with_context(|| format!("{other}, on a connection that it had"))?;
        }
        self.all_serve()
    }

    /// The agent comes back without what it had borrowed, and borrows from PID 1 while both instances serve.
    fn lent_again(&self) -> Result<()> {
        self.site.host.ok("systemctl stop deployd && systemctl start deployd")?;
        let load = self.load(&["shop v2"])?;
        load.wait_flowing(FLOW, FLOW_WITHIN)?;
        // A push that fails touches the listener of the one that serves, and leaves it there.
        let text = self.spec("v3").replace("\"/health\"", "\"/nowhere\"");
        let text = text.replace("wait_timeout = \"30s\"", "wait_timeout = \"3s\"");
        let spec = self.site.spec("bad", &text)?;
        self.site.push(&self.dir, &spec)?.expect(4)?;
        ensure!(self.site.live("shop")? == "v2");
        load.wait_flowing(FLOW, FLOW_WITHIN)?;
        let report = self.told("a push that fails", load)?;
        ensure!(report.total.failed == 0, "{report:?}");
        self.require_learned("v2")?;
        self.all_serve()
    }

    fn load(&self, versions: &[&str]) -> Result<Load> {
        let mut options =
            Options::new(self.asker.target).accept(versions).from_netns(self.asker.from.clone());
        options.clients = CLIENTS;
        options.pattern = self.pattern;
        Load::start(options)
    }

    fn told(&self, what: &str, load: Load) -> Result<Report> {
        let report = load.stop()?.report(&[]);
        let part = &report.total;
        eprintln!(
            "{:?}, {what}: {} requests, {} failed, {} retried, p99 {} us, {:?}",
            self.program, part.requests, part.failed, part.retried, part.latency.p99_us, part.kinds
        );
        Ok(report)
    }

    /// Orderly restarts, a second instance that starts, a swap: nothing fails.
    fn under_load(&self) -> Result<()> {
        let load = self.load(&["shop v2", "shop v4"])?;
        // systemd calls an instance started before it listens: the next event waits until all of them serve.
        let flowing = || {
            load.wait_flowing(FLOW, FLOW_WITHIN)?;
            self.all_serve()
        };
        flowing()?;
        for instance in [1, 2] {
            self.systemctl("restart", &unit("v2", instance))?;
            flowing()?;
        }
        self.systemctl("stop", &unit("v2", 2))?;
        flowing()?;
        self.systemctl("start", &unit("v2", 2))?;
        flowing()?;
        let spec = self.site.spec("v4", &self.spec("v4"))?;
        self.site.deploy(&self.dir, &spec)?;
        self.site.wait_until_drained("shop", Duration::from_secs(30))?;
        flowing()?;
        let report = self.told("restarts and a swap", load)?;
        ensure!(report.total.failed == 0, "{report:?}");
        ensure!(report.releases.get("shop v4").is_some_and(|count| *count > 0), "{report:?}");
        self.all_serve()
    }

    /// What a killed instance had in hand is lost with it; whatever else fails is our fault.
    fn killed_under_load(&self) -> Result<()> {
        let load = self.load(&["shop v4"])?;
        let flowing = || {
            load.wait_flowing(FLOW, FLOW_WITHIN)?;
            self.all_serve()
        };
        flowing()?;
        let kills = [1, 2];
        for instance in kills {
            self.site.kill_unit(&unit("v4", instance))?;
            flowing()?;
        }
        let report = self.told("kill -9 of each instance", load)?;
        let in_hand = [Kind::Reset, Kind::Closed, Kind::Cut];
        let lost: u64 = in_hand.iter().filter_map(|kind| report.total.kinds.get(kind)).sum();
        ensure!(report.total.failed == lost && lost <= (kills.len() * CLIENTS) as u64, "{report:?}");
        self.all_serve()
    }
}
