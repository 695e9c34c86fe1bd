//! What benchmarks stand on: a host with deployd, a host with its peers, one network, and load from outside.
//!
//! Peers have a host of their own without deployd, so that nothing that deployd sets in the kernel helps or hinders
//! them. Only one of the two hosts has load at any time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use deployd_tests::deb;
use deployd_tests::image::{Image, Suite};
use deployd_tests::load::{Load, Options, Pattern, Recording, Sources, Window};
use deployd_tests::machine::{Host, Net};
use deployd_tests::regime::{Reach, Regime};
use deployd_tests::site::Site;
use deployd_tests::timeline::Timeline;

/// Where the app under test listens.
pub(super) const PORT: u16 = 8080;
/// Enough source addresses that no client runs out of ports.
const SOURCES: u8 = 40;
const WITHIN: Duration = Duration::from_secs(30);
/// Requests that prove that a load flows.
const FLOWS: u64 = 500;
/// Debian packages of the proxies that deployd is compared with.
const PROXIES: [&str; 2] = ["nginx-light", "haproxy"];

/// Both hosts.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) ours: Site,
    pub(super) peers: Host,
    /// Whether the proxies could be installed.
    pub(super) proxies: bool,
    sources: Vec<IpAddr>,
}

impl Field {
    /// Boots both hosts.
    pub(super) fn prepare() -> Result<Self> {
        let packages = deb::packages()?;
        let net = Arc::new(Net::create("bench")?);
        let (image, proxies) = match Image::ensure_with(Suite::Bookworm, &PROXIES) {
            Ok(image) => (image, true),
            Err(error) => {
                eprintln!("no proxies to compare with: {error:#}");
                (Image::ensure(Suite::Bookworm)?, false)
            }
        };
        let peers = Host::boot_on(&image, "peers", Arc::clone(&net))?;
        let host = Host::boot_on(&Image::ensure(Suite::Bookworm)?, "ours", Arc::clone(&net))?;
        deb::install(&host, &packages)?;
        let ours = Site { host };
        ours.wait_for_agent()?;
        Ok(Self { ours, peers, proxies, sources: net.add_client_addresses(SOURCES)? })
    }

    /// Removes both.
    pub(super) fn finish(self) -> Result<()> {
        self.ours.host.finish()?;
        self.peers.finish()
    }

    /// Applies load to a port of a host while `work` runs; what clients saw. `work` may start once the load flows.
    pub(super) fn load<T>(
        &self,
        host: &Host,
        port: u16,
        regime: &Regime,
        work: impl FnOnce(&Load) -> Result<T>,
    ) -> Result<(Recording, T)> {
        let reach = Reach::open(host, regime, &self.sources)?;
        let load = Load::start(reach.options(port, regime.eager))?;
        load.wait_flowing(FLOWS, WITHIN)
            .with_context(|| format!("{}:{port} does not answer", host.name()))?;
        let done = work(&load)?;
        let recording = load.stop()?;
        reach.finish()?;
        Ok((recording, done))
    }

    /// Requests per second of 64 clients that use connections by one pattern; a failed request is an error.
    pub(super) fn rate(&self, host: &Host, port: u16, pattern: Pattern, span: Duration) -> Result<f64> {
        let mut options = Options::new(SocketAddr::new(host.address().v4.into(), port));
        options = options.from_netns(host.net().client().clone());
        (options.sources, options.pattern) = (Sources::Of(self.sources.clone()), pattern);
        let load = Load::start(options)?;
        load.wait_flowing(FLOWS, WITHIN)
            .with_context(|| format!("{}:{port} does not answer", host.name()))?;
        let (counted, since) = (load.completed(), std::time::Instant::now());
        std::thread::sleep(span);
        let rate = (load.completed() - counted) as f64 / since.elapsed().as_secs_f64();
        let total = load.stop()?.report(&[]).total;
        anyhow::ensure!(total.failed == 0, "{}:{port} failed requests: {:?}", host.name(), total.kinds);
        Ok(rate)
    }

    /// Makes the next release of an app live and waits until the old one is gone; how it went.
    pub(super) fn swap(&self, app: &App, number: usize) -> Result<(Timeline, Vec<Window>)> {
        app.push(&self.ours, number)?;
        self.ours.wait_until_drained(app.name, WITHIN)?;
        let drained_ns = deployd_tests::load::monotonic_ns();
        let line = Timeline::of_last(&self.ours, app.name)?;
        let windows = line.active(drained_ns);
        Ok((line, windows))
    }

    /// systemd's version on the hosts.
    pub(super) fn systemd(&self) -> Result<String> {
        self.peers.ok("systemctl --version | head -1")
    }
}

/// A fixture app on the host with deployd.
#[derive(Clone, Copy, Debug)]
pub(super) struct App {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) work_us: u32,
    /// Keys of `[deploy]`.
    pub(super) deploy: &'static str,
}

impl App {
    /// Pushes release `number`, which differs from all others by a variable, and follows it to its end.
    pub(super) fn push(&self, site: &Site, number: usize) -> Result<()> {
        let (dir, spec) = self.write(site, number)?;
        site.deploy(&dir, &spec).map(drop).with_context(|| format!("release {number} of {}", self.name))
    }

    /// The same until it is live: it may be watched for longer than anyone waits.
    pub(super) fn push_live(&self, site: &Site, number: usize) -> Result<()> {
        let (dir, spec) = self.write(site, number)?;
        site.ctl(&format!("push {dir} -c {spec}"))?.expect(0).map(drop)
    }

    /// Writes the artifact, once, and the spec of a release; where they are.
    fn write(&self, site: &Site, number: usize) -> Result<(String, String)> {
        let Self { name, port, work_us, deploy } = self;
        let dir = format!("/srv/{name}");
        if number == 1 {
            site.artifact(name)?;
        }
        let spec = format!(
            "app = \"{name}\"\n\n[env]\nWORK_US = \"{work_us}\"\nNUMBER = \"{number}\"\n\n\
             [processes.web]\nexec = \"bin/app web\"\n\n[listen.http]\naddress = \":{port}\"\n\n\
             [checks.health]\npath = \"/health\"\ninterval = \"200ms\"\n\n\
             [deploy]\nwait_timeout = \"20s\"\ndrain_timeout = \"10s\"\n{deploy}\n"
        );
        Ok((dir, site.spec(name, &spec)?))
    }
}

/// The middle value; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The largest value.
pub(super) fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

/// Microseconds as milliseconds.
pub(super) fn ms(us: u32) -> f64 {
    f64::from(us) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_few_values() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(largest(&[1.0, 4.0, 2.0]), Some(4.0));
    }
}
