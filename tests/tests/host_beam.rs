//! The name server of BEAM nodes belongs to the host, not to an instance: whatever ends, the names of the others stay.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::on_suites;
use deployd_tests::image::Suite;
use deployd_tests::programs::Program;
use deployd_tests::shop;
use deployd_tests::site::Site;
use deployd_tests::wait;

const LIMIT: Duration = Duration::from_secs(40);
const EPMD: &str = "deployd-epmd.service";

#[test]
fn keeps_the_names_of_nodes() -> Result<()> {
    on_suites(10, keeps_the_names_of_nodes_on)
}

struct Nodes {
    site: Site,
    dir: String,
}

fn keeps_the_names_of_nodes_on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let dir = Program::Mix.install(&site)?;
    let nodes = Nodes { site, dir };
    nodes.deploy("shop", "v1", 8080)?;
    nodes.registered(&["shop-v1-1", "shop-v1-2"])?;
    nodes.is_one_of_the_hosts()?;
    nodes.outlives_instances().context("an instance ends")?;
    nodes.outlives_releases().context("a release ends")?;
    nodes.comes_back().context("epmd ends")?;
    nodes.is_shared().context("two apps")?;
    nodes.leaves_a_strangers_alone().context("a stranger's epmd")?;
    nodes.site.host.finish()
}

impl Nodes {
    fn deploy(&self, app: &str, version: &str, port: u16) -> Result<()> {
        let text = Program::Mix.spec(version, &format!("address = \":{port}\""), &[]);
        let text = text.replace("app = \"shop\"", &format!("app = \"{app}\""));
        let spec = self.site.spec(&format!("{app}-{version}"), &text)?;
        self.site.deploy(&self.dir, &spec)?;
        self.site.wait_until_drained(app, LIMIT)
    }

    /// What epmd says of who is there.
    fn names(&self) -> Result<BTreeSet<String>> {
        let said = self.site.host.ok(&format!("{}/erts-*/bin/epmd -names", self.dir))?;
        let name = |line: &str| Some(line.strip_prefix("name ")?.split(' ').next()?.to_owned());
        Ok(said.lines().filter_map(name).collect())
    }

    fn registered(&self, wanted: &[&str]) -> Result<()> {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        wait::until(LIMIT, &format!("the nodes {wanted:?}"), || match self.names() {
            Ok(names) if names == wanted => Ok(()),
            Ok(names) => Err(format!("{names:?}")),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    fn pid(&self) -> Result<u32> {
        shop::main_pid(&self.site.host, EPMD)
    }

    /// One process, in its unit, as nobody in particular, on loopback.
    fn is_one_of_the_hosts(&self) -> Result<()> {
        let pid = self.pid()?;
        let host = &self.site.host;
        ensure!(host.ok("pgrep -x epmd")? == pid.to_string(), "somebody else started one");
        let user = host.ok(&format!("stat -c %u /proc/{pid}"))?;
        ensure!(user.parse::<u32>()? >= 61_184, "it runs as {user}");
        let listening = host.ok("ss -Hltn 'sport = :4369' | awk '{print $4}'")?;
        ensure!(listening.lines().all(|on| ["127.0.0.1:4369", "[::1]:4369"].contains(&on)), "{listening}");
        self.site.require_silent_doctor()
    }

    fn outlives_instances(&self) -> Result<()> {
        let (pid, first) = (self.pid()?, "deployd-shop-web-v1@1.service");
        self.site.host.ok(&format!("systemctl stop {first}"))?;
        self.registered(&["shop-v1-2"])?;
        self.site.host.ok(&format!("systemctl start {first}"))?;
        self.registered(&["shop-v1-1", "shop-v1-2"])?;
        self.site.host.ok(&format!("systemctl kill -s KILL --kill-whom=all {first}"))?;
        wait::until(LIMIT, "the second node alone, or both again", || match self.names() {
            Ok(names) if names.contains("shop-v1-2") => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.registered(&["shop-v1-1", "shop-v1-2"])?;
        ensure!(self.pid()? == pid, "epmd was restarted");
        Ok(())
    }

    fn outlives_releases(&self) -> Result<()> {
        let pid = self.pid()?;
        self.deploy("shop", "v2", 8080)?;
        self.registered(&["shop-v2-1", "shop-v2-2"])?;
        self.site.ctl("rollback -a shop")?.expect(0)?;
        self.site.wait_until_drained("shop", LIMIT)?;
        self.registered(&["shop-v1_2-1", "shop-v1_2-2"])?;
        ensure!(self.pid()? == pid, "epmd was restarted");
        self.is_one_of_the_hosts()
    }

    /// Killed, it is started again, and whoever boots then finds it.
    fn comes_back(&self) -> Result<()> {
        let pid = self.pid()?;
        self.site.host.ok(&format!("kill -9 {pid}"))?;
        wait::until(LIMIT, "another epmd", || match self.pid() {
            Ok(now) if now != 0 && now != pid => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.site.ctl("restart -a shop")?.expect(0)?;
        self.registered(&["shop-v1_2-1", "shop-v1_2-2"])?;
        self.is_one_of_the_hosts()
    }

    /// The last app takes it along, and no other.
    fn is_shared(&self) -> Result<()> {
        let pid = self.pid()?;
        self.deploy("other", "v1", 8090)?;
        self.site.ctl("remove -a shop --yes")?.expect(0)?;
        self.registered(&["other-v1-1", "other-v1-2"])?;
        ensure!(self.pid()? == pid, "epmd was restarted");
        self.is_one_of_the_hosts()?;
        self.site.ctl("remove -a other --yes")?.expect(0)?;
        let left = self.site.host.ok(
            "find /etc/systemd/system -name '*epmd*' -not -type l; find /var/lib/deployd -name '*epmd*'; pgrep -x epmd; \
             systemctl list-units --all --plain --no-legend 'deployd-epmd*'; true",
        )?;
        ensure!(left.is_empty(), "left: {left}");
        self.site.require_silent_doctor()
    }

    /// Ours stays down without having failed.
    fn leaves_a_strangers_alone(&self) -> Result<()> {
        let host = &self.site.host;
        host.ok(&format!("systemd-run --quiet --unit=stranger $(echo {}/erts-*/bin/epmd)", self.dir))?;
        wait::until(LIMIT, "the stranger's epmd", || self.names().map(drop).map_err(|e| format!("{e:#}")))?;
        self.deploy("shop", "v1", 8080)?;
        self.registered(&["shop-v1-1", "shop-v1-2"])?;
        ensure!(self.pid()? == 0, "there are two");
        ensure!(host.ok(&format!("systemctl show -p Result --value {EPMD}"))? == "exec-condition");
        self.site.require_silent_doctor()
    }
}
