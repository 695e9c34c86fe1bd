//! The disk is full: a push that does not fit is refused untouched, one that is under way ends with a verdict, killed or
//! not, and what serves serves on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::crash::{self, Place};
use deployd_tests::effort::{Effort, on_suites, sample, seed};
use deployd_tests::image::Suite;
use deployd_tests::shop::{self, Spec, Traffic};
use deployd_tests::site::Site;

/// Where everything stands that the agent writes, but unit files.
const STATE: &str = "/var/lib/deployd";
const FILL: &str = "/var/lib/deployd/fill";
/// A disk of its own for it: room for the ballast and some releases.
const SIZE: &str = "128M";
/// Records at which the disk is filled and the agent killed; a full run takes all.
const SAMPLE: usize = 3;
const LIMIT: Duration = Duration::from_mins(1);

#[test]
fn reaches_a_verdict_on_a_full_disk() -> Result<()> {
    on_suites(8, reaches_a_verdict_on_a_full_disk_on)
}

fn reaches_a_verdict_on_a_full_disk_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    site.host.ok("systemctl stop deployd.service")?;
    site.host.ok(&format!("mount -t tmpfs -o size={SIZE},mode=0755 tmpfs {STATE}"))?;
    site.host.write_file("/etc/deployd/agent.d/disk.toml", "disk_reserve = \"16mb\"\n", 0o644)?;
    crash::prepare(&site)?;
    site.host.ok("systemctl start deployd.service")?;
    let dir = site.artifact("app")?;
    site.deploy(&dir, &site.spec("v1", &spec("v1").text())?)?;
    let mut full = Full { site, dir, pushed: 1 };
    full.refuses_what_does_not_fit()?;
    full.ends_though_it_fills_meanwhile()?;
    let records = full.undisturbed()?;
    let count = Effort::of_this_run().pick(SAMPLE, records);
    for index in sample(seed(), count, records) {
        let place = Place::After(index as u64 + 1);
        full.ends_though_killed(place).with_context(|| format!("full and killed {place}"))?;
    }
    full.site.host.ok(&format!("systemctl stop deployd.service; umount -l {STATE}"))?;
    full.site.host.finish()
}

fn spec(build: &str) -> Spec {
    Spec::shop().env("BUILD", build)
}

/// A host whose disk is filled again and again.
struct Full {
    site: Site,
    dir: String,
    pushed: u32,
}

impl Full {
    fn fill(&self) -> Result<()> {
        // Until there is no room; that is what dd ends with.
        self.site
            .host
            .ok(&format!("dd if=/dev/zero of={FILL} bs=64k status=none 2>&1 | grep -q 'No space'"))?;
        let free = self.site.host.ok(&format!("df --output=avail -k {STATE} | tail -1"))?;
        ensure!(free.trim().parse::<u64>()? < 64, "{free} kB are free");
        Ok(())
    }

    /// Room again; nothing is left over and everything can be done.
    fn mend(&self, traffic: Traffic) -> Result<()> {
        self.site.host.ok(&format!("rm {FILL}"))?;
        self.site.wait_for_agent()?;
        self.site.wait_until_drained("shop", LIMIT)?;
        traffic.flows()?;
        traffic.end_unharmed()?;
        shop::require_settled(&self.site, LIMIT)
    }

    /// The spec of a release that no push was before, and that takes a while to start.
    fn next(&mut self) -> Result<String> {
        self.pushed += 1;
        let build = format!("b{}", self.pushed);
        self.site.spec(&build, &spec(&build).env("START_MS", "1500").text())
    }

    /// Who may answer meanwhile: who serves, and whoever comes next.
    fn traffic(&self) -> Result<Traffic> {
        Traffic::on(&self.site.host, &[&self.site.live("shop")?, &self.site.next_label("shop")?])
    }

    fn refuses_what_does_not_fit(&mut self) -> Result<()> {
        let before = self.site.live("shop")?;
        let traffic = self.traffic()?;
        self.fill()?;
        let spec = self.next()?;
        let called = self.site.ctl(&format!("push {} -c {spec}", self.dir))?.expect(3)?;
        ensure!(called.stderr.contains("disk"), "{}", called.stderr);
        let doctor = self.site.ctl("doctor")?;
        ensure!(doctor.code == 10 && doctor.stdout.contains("disk_low"), "{doctor:?}");
        ensure!(self.site.live("shop")? == before);
        self.mend(traffic)
    }

    fn ends_though_it_fills_meanwhile(&mut self) -> Result<()> {
        let (traffic, label) = (self.traffic()?, self.site.next_label("shop")?);
        let spec = self.next()?;
        self.site.ctl(&format!("push {} -c {spec} --detach", self.dir))?.expect(0)?;
        shop::wait_active(&self.site.host, &format!("deployd-shop-web-{label}@1.service"), LIMIT)?;
        self.fill()?;
        self.verdict()?;
        self.mend(traffic)
    }

    /// How many records a push has.
    fn undisturbed(&mut self) -> Result<usize> {
        let spec = self.next()?;
        self.site.deploy(&self.dir, &spec)?;
        self.site.wait_until_drained("shop", LIMIT)?;
        Ok(self.site.journal("shop")?.len() - 1)
    }

    fn ends_though_killed(&mut self, place: Place) -> Result<()> {
        crash::arm(&self.site, place)?;
        self.site.wait_for_agent()?;
        let traffic = self.traffic()?;
        let spec = self.next()?;
        self.site.ctl(&format!("push {} -c {spec} --detach", self.dir))?.expect(0)?;
        crash::wait_held(&self.site, "shop", place)?;
        self.fill()?;
        crash::kill(&self.site, "shop", place)?;
        self.verdict()?;
        self.mend(traffic)
    }

    /// One that leaves nothing to do; on a full disk either is right.
    fn verdict(&self) -> Result<()> {
        let verdict = self.site.wait_for_verdict("shop", LIMIT)?;
        ensure!(["committed", "rolled-back"].contains(&verdict.as_str()), "{verdict}");
        Ok(())
    }
}
