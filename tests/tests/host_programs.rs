//! Programs that know nothing of deployd, and each way of handing them a listener.
//!
//! The bind shim's promises: the program binds `$PORT` as it always did, sees its clients' real addresses, starts
//! children that know nothing of it, and keeps the unit's backlog; what it cannot do it says in one line.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::effort::{Effort, on_suites};
use deployd_tests::image::Suite;
use deployd_tests::load::{Kind, Load, Options, Pattern, Report};
use deployd_tests::programs::Program;
use deployd_tests::site::Site;

const CLIENTS: usize = 16;
const FLOW: u64 = 200;
const FLOW_WITHIN: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(30);
const ANY: &str = "address = \":8080\"";
/// How exposed an app may be by `systemd-analyze security`, in tenths (0 is best, 100 worst).
const MAX_EXPOSURE: &str = "17";

#[test]
fn node() -> Result<()> {
    on_suites(2, |suite| Trial::new(suite, Program::Node)?.run())
}

#[test]
fn python() -> Result<()> {
    on_suites(0, |suite| Trial::new(suite, Program::Python)?.run())
}

#[test]
fn mix_release() -> Result<()> {
    on_suites(3, |suite| Trial::new(suite, Program::Mix)?.run())
}

/// What a program that binds without `$HOST` binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// `::`
    V6,
    /// `0.0.0.0`
    V4,
}

/// One unchanged program on one host.
struct Trial {
    site: Site,
    program: Program,
    dir: String,
}

impl Trial {
    fn new(suite: Suite, program: Program) -> Result<Self> {
        let site = Site::boot(suite, "web1")?;
        let dir = program.install(&site)?;
        Ok(Self { site, program, dir })
    }

    fn run(self) -> Result<()> {
        let own = if self.program == Program::Node { Family::V6 } else { Family::V4 };
        self.deploy("v1", ANY, &[])?;
        self.all_serve()?;
        self.require_sandbox()?;
        self.require_peers(own).context("bound as it does by itself")?;
        self.require_clean_children()?;
        self.require_backlog()?;
        self.swap("v2", &[("HOST", "0.0.0.0")])?;
        self.require_peers(Family::V4).context("bound to 0.0.0.0")?;
        self.swap("v3", &[("HOST", "::")])?;
        self.require_peers(Family::V6).context("bound to ::")?;
        self.require_refusal("v4")?;
        self.explicit("v5", "127.0.0.1", "127.0.0.1:8081")?;
        self.explicit("v6", "::1", "[::1]:8082")?;
        self.site.require_silent_doctor()?;
        self.site.host.finish()
    }

    /// The program serves in it as it is: nothing was relaxed for it.
    fn require_sandbox(&self) -> Result<()> {
        let unit = "deployd-shop-web-v1@1.service";
        let words = format!("systemd-analyze security --no-pager --threshold={MAX_EXPOSURE} {unit}");
        let said = self.site.host.ok(&words)?;
        eprintln!("{:?}: {}", self.program, said.lines().last().unwrap_or_default());
        Ok(())
    }

    fn push_words(&self, version: &str, listen: &str, env: &[(&str, &str)]) -> Result<String> {
        let spec = self.site.spec(version, &self.program.spec(version, listen, env))?;
        Ok(format!("push {} -c {spec} --wait committed", self.dir))
    }

    fn deploy(&self, version: &str, listen: &str, env: &[(&str, &str)]) -> Result<()> {
        self.site.ctl(&self.push_words(version, listen, env)?)?.expect(0)?;
        self.site.wait_until_drained("shop", DRAIN)
    }

    fn all_serve(&self) -> Result<()> {
        self.site.require_all_serve("shop", &self.loopback("127.0.0.1:8080", None)?)
    }

    fn loopback(&self, target: &str, source: Option<&str>) -> Result<Asker> {
        let source = source.map(str::parse).transpose()?;
        Ok(Asker { from: self.site.host.netns(), source, target: target.parse()? })
    }

    fn peer(&self, target: IpAddr) -> Asker {
        let from = self.site.host.net().client().clone();
        Asker { from, source: None, target: SocketAddr::new(target, 8080) }
    }

    /// The client's own address, from here and from another machine, over both families.
    fn require_peers(&self, bound: Family) -> Result<()> {
        let address = self.site.host.address();
        let v4 = |seen: &str| match bound {
            Family::V4 => seen.to_owned(),
            Family::V6 => format!("::ffff:{seen}"),
        };
        // What an IPv4 socket cannot express, and could not have had, appears as no address.
        let v6 = |seen: &str| match bound {
            Family::V4 => "0.0.0.0".to_owned(),
            Family::V6 => seen.to_owned(),
        };
        let cases = [
            (self.loopback("127.0.0.1:8080", Some("127.0.0.7"))?, v4("127.0.0.7")),
            (self.loopback("127.0.0.1:8080", Some("127.9.8.7"))?, v4("127.9.8.7")),
            (self.loopback("[::1]:8080", None)?, v6("::1")),
            (self.peer(address.v4.into()), v4("10.77.0.1")),
            (self.peer(address.v6.into()), v6("fd77::1")),
        ];
        for (asker, wanted) in cases {
            let answers = asker.many("/peer", 40).with_context(|| format!("{asker:?}"))?;
            for answer in answers {
                // Programs differ in whether they show an IPv4 client of an IPv6 socket as such.
                let plain = wanted.strip_prefix("::ffff:").unwrap_or(&wanted);
                ensure!(answer.body == wanted || answer.body == plain, "{answer:?}, not {wanted}: {asker:?}");
            }
        }
        Ok(())
    }

    /// What a program that is started by the program gets: nothing of ours.
    fn require_clean_children(&self) -> Result<()> {
        let inodes = self.site.listening(8080)?;
        let asker = self.loopback("127.0.0.1:8080", None)?;
        let answers = asker.many("/child", 16)?;
        let units = self.site.count_by_unit(&answers)?;
        ensure!(!units.is_empty(), "nobody answered");
        for answer in answers {
            ensure!(answer.body.contains("APP_NAME=shop"), "no environment: {}", answer.body);
            for line in answer.body.lines() {
                let ours =
                    ["LD_PRELOAD=", "LISTEN_", "DEPLOYD_BIND="].iter().any(|name| line.starts_with(name));
                let listener = inodes.iter().any(|inode| line == format!("socket:[{inode}]"));
                ensure!(!ours && !listener, "a child has {line}\n{}", answer.body);
            }
        }
        Ok(())
    }

    /// The program asks for less (Python: 5); the queue stays as the unit made it.
    fn require_backlog(&self) -> Result<()> {
        let limit: u32 = self.site.host.ok("cat /proc/sys/net/core/somaxconn")?.parse()?;
        let queue: u32 = self.site.host.ok("ss -Hltn 'sport = :8080' | awk '{print $3}'")?.parse()?;
        ensure!(queue >= limit.min(4096), "a queue of {queue}, somaxconn is {limit}");
        Ok(())
    }

    /// A swap under load. New connections are never refused or reset. What becomes of kept ones is the program's
    /// affair: they may be closed (sent again, counted) or still be busy when the drain's limit ends (cut, counted).
    fn swap(&self, version: &str, env: &[(&str, &str)]) -> Result<()> {
        let before = format!("shop {}", self.site.live("shop")?);
        let after = format!("shop {version}");
        let start = |pattern| {
            let target = "127.0.0.1:8080".parse()?;
            let mut options =
                Options::new(target).accept(&[&before, &after]).from_netns(self.site.host.netns());
            (options.clients, options.pattern) = (CLIENTS, pattern);
            Load::start(options)
        };
        let new = start(Pattern::NewConnection)?;
        let kept = start(Pattern::KeepAlive)?;
        for load in [&new, &kept] {
            load.wait_flowing(FLOW, FLOW_WITHIN)?;
        }
        self.deploy(version, ANY, env)?;
        for load in [&new, &kept] {
            load.wait_flowing(FLOW, FLOW_WITHIN)?;
        }
        let new = self.told(version, "new connections", new)?;
        let kept = self.told(version, "kept connections", kept)?;
        ensure!(new.total.failed == 0 && new.total.retried == 0, "{new:?}");
        let cut = kept.total.kinds.get(&Kind::Cut).copied().unwrap_or_default();
        ensure!(kept.total.failed == cut && cut <= CLIENTS as u64, "{kept:?}");
        if self.program == Program::Mix {
            ensure!(cut == 0, "it drains properly: {kept:?}");
        }
        for report in [&new, &kept] {
            ensure!(report.releases.get(&after).is_some_and(|count| *count > 0), "{report:?}");
        }
        self.all_serve()
    }

    fn told(&self, version: &str, what: &str, load: Load) -> Result<Report> {
        let report = load.stop()?.report(&[]);
        let part = &report.total;
        eprintln!(
            "{:?} to {version}, {what}: {} requests, {} failed, {} retried, p99 {} us, {:?}",
            self.program, part.requests, part.failed, part.retried, part.latency.p99_us, part.kinds
        );
        Ok(report)
    }

    /// An address that the release does not have: the push fails, says what to write, and who served serves.
    fn require_refusal(&self, version: &str) -> Result<()> {
        let live = self.site.live("shop")?;
        let words = self.push_words(version, ANY, &[("HOST", "127.0.0.1")])?;
        let called = self.site.ctl(&words)?.expect(4)?;
        let said = format!("{}{}", called.stdout, called.stderr);
        let logged = self.site.ctl(&format!("logs -a shop --release {version}"))?.expect(0)?.stdout;
        for text in [&said, &logged] {
            ensure!(text.contains("this program binds 127.0.0.1:8080"), "{text}");
            ensure!(text.contains("address = \"127.0.0.1:8080\""), "{text}");
        }
        ensure!(self.site.live("shop")? == live);
        self.all_serve()
    }

    /// The same address in the spec and in the program; on another port, as one that the old release has would get
    /// clients of both.
    fn explicit(&self, version: &str, host: &str, address: &str) -> Result<()> {
        self.deploy(version, &format!("address = \"{address}\""), &[("HOST", host)])?;
        let asker = self.loopback(address, None)?;
        self.site.require_all_serve("shop", &asker)?;
        let source = if host.contains(':') { "::1" } else { "127.0.0.7" };
        let answer = self.loopback(address, Some(source))?.ask("/peer")?;
        ensure!(answer.body == source, "{answer:?}");
        ensure!(asker.ask("/")?.body == format!("shop {version}"));
        Ok(())
    }
}

/// A static program cannot be reached by the shim; `port` and the descriptors of `arg` and `stdin` can do it.
#[test]
fn static_programs_and_descriptors() -> Result<()> {
    let mut suites = Effort::of_this_run().suites(1).into_iter();
    suites.try_for_each(|suite| hands_over_in_every_way(suite).with_context(|| suite.name()))
}

fn hands_over_in_every_way(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = site.artifact("static")?;
    refused_untouched(&site, &dir)?;

    let arg = "/srv/passed".to_owned();
    site.host.push_dir(&deployd_tests::package::repository().join("tests/apps/python"), &arg)?;
    let cases = [
        ("stdin", dir.as_str(), "bin/app prefork-child"),
        ("arg", arg.as_str(), "/usr/bin/python3 passed.py {fd:http}"),
        ("port", dir.as_str(), "bin/app web"),
        ("port", dir.as_str(), "bin/app web"),
        ("activation", dir.as_str(), "bin/app web"),
    ];
    let asker = Asker { from: site.host.netns(), source: None, target: "127.0.0.1:8080".parse()? };
    for (index, (handoff, dir, exec)) in cases.into_iter().enumerate() {
        let version = format!("v{}", index + 1);
        let text = Program::Tokio.spec(&version, &format!("{ANY}\nhandoff = \"{handoff}\""), &[]);
        let spec = site.spec(&version, &text.replace(Program::Tokio.exec(), exec))?;
        let load = if index == 0 { None } else { Some(new_connections(&site)?) };
        site.deploy(dir, &spec).with_context(|| format!("{version}, {handoff}"))?;
        site.wait_until_drained("shop", DRAIN)?;
        site.require_all_serve("shop", &asker).with_context(|| format!("{version}, {handoff}"))?;
        ensure!(asker.ask("/")?.body == format!("shop {version}"));
        if let Some(load) = load {
            load.wait_flowing(FLOW, FLOW_WITHIN)?;
            let report = load.stop()?.report(&[]);
            eprintln!("to {version}, {handoff}: {:?}", report.total);
            ensure!(report.total.failed == 0, "to {version}, {handoff}: {report:?}");
        }
        let peer = Asker { source: Some("127.0.0.7".parse()?), ..asker.clone() }.ask("/peer")?.body;
        match handoff {
            // As documented: the proxy is who connects.
            "port" => ensure!(peer == "127.0.0.1", "{peer}"),
            "arg" => require_no_variables(&asker)?,
            _ => ensure!(peer == "127.0.0.7", "{handoff}: {peer}"),
        }
    }
    advised_when_it_binds(&site, &dir)?;
    site.require_silent_doctor()?;
    site.host.finish()
}

fn new_connections(site: &Site) -> Result<Load> {
    let mut options = Options::new("127.0.0.1:8080".parse()?).from_netns(site.host.netns());
    (options.clients, options.pattern) = (CLIENTS, Pattern::NewConnection);
    let load = Load::start(options)?;
    load.wait_flowing(FLOW, FLOW_WITHIN)?;
    Ok(load)
}

/// Who gets a descriptor by number needs no variables, and would misread them.
fn require_no_variables(asker: &Asker) -> Result<()> {
    let names = asker.ask("/variables")?.body;
    ensure!(names.contains("DEPLOYD_APP"), "{names}");
    let ours = |name: &&str| name.starts_with("LISTEN_") || ["LD_PRELOAD", "DEPLOYD_BIND"].contains(name);
    ensure!(!names.lines().any(|name| ours(&name)), "{names}");
    Ok(())
}

/// `handoff = "auto"` of a static binary that binds its port itself: nobody can tell before it ran.
fn advised_when_it_binds(site: &Site, dir: &str) -> Result<()> {
    let text = Program::Tokio.spec("binds", ANY, &[]).replace(Program::Tokio.exec(), "bin/app naive 8080");
    let spec = site.spec("binds", &text)?;
    let called = site.push(dir, &spec)?.expect(4)?;
    // Long lines are wrapped.
    let said = called.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(said.contains("statically linked: it gets its listener only if it reads LISTEN_FDS"), "{said}");
    ensure!(said.contains("handoff = \"port\" in [listen.http]"), "{said}");
    site.require_silent_doctor()
}

/// `handoff = "bind"` of a static binary: refused before anything is touched.
fn refused_untouched(site: &Site, dir: &str) -> Result<()> {
    let text = Program::Tokio.spec("v1", &format!("{ANY}\nhandoff = \"bind\""), &[]);
    let spec = site.spec("refused", &text)?;
    let called = site.push(dir, &spec)?.expect(3)?;
    ensure!(called.stderr.contains("statically linked"), "{}", called.stderr);
    ensure!(called.stderr.contains("handoff = \"port\""), "{}", called.stderr);
    let left = site.host.ok("find /etc/systemd/system -name 'deployd-shop*'; getent passwd dpl-shop; \
         find /var/lib/deployd/apps/shop -path '*/releases/*'; ss -Hltn 'sport = :8080'; true")?;
    ensure!(left.is_empty(), "left: {left}");
    site.require_silent_doctor()
}
