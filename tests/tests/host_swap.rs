//! A release replaces another under load, again and again, and no request fails: a fast app, an app whose queue is
//! never empty, and clients 40 ms away. In the same run, on the same load and program, positive controls must lose.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::control::{Control, Way};
use deployd_tests::effort::Effort;
use deployd_tests::image::Suite;
use deployd_tests::load::{Load, Options, Priority, Report, Sources, Window, monotonic_ns};
use deployd_tests::site::{Site, shop};
use deployd_tests::tun::Relay;

/// Swaps in one recording: it knows 255 releases at most, and a long run need not be held in memory.
const BATCH: usize = 50;
/// Replacements that a control gets to lose something.
const CONTROL_CAP: usize = 50;
/// So quick that a swap is nothing but a swap.
const DEPLOY: &str = "min_healthy = \"0s\"\nmonitor = \"0s\"";
/// In so many 10 ms slots of a swap there must have been load.
const PRESENT: f64 = 0.95;
/// Pause of a client between two requests: so requests begin at any moment, and not only when one is answered.
const THINK: Duration = Duration::from_millis(40);
const ONE_WAY: Duration = Duration::from_millis(20);
const WITHIN: Duration = Duration::from_secs(30);

/// Under which conditions releases are swapped.
struct Regime {
    name: &'static str,
    env: &'static [(&'static str, &'static str)],
    clients: usize,
    far: bool,
}

const FAST: Regime = Regime { name: "fast app", env: &[], clients: 512, far: false };
/// 3,333 requests a second at most: a third of what the clients would send, so that its queue is never empty.
const BUSY: Regime = Regime { name: "busy queue", env: &[("WORK_US", "300")], clients: 512, far: false };
const FAR: Regime = Regime { name: "40 ms RTT", env: &[], clients: 256, far: true };

#[test]
fn a_fast_app() -> Result<()> {
    run(&FAST, Suite::Bookworm)
}

#[test]
fn a_busy_queue() -> Result<()> {
    run(&BUSY, Suite::Trixie)
}

#[test]
fn clients_40_ms_away() -> Result<()> {
    run(&FAR, Suite::Bookworm)
}

/// 50 swaps on one Debian release; a full run does 1,000, half of them on each.
fn run(regime: &Regime, suite: Suite) -> Result<()> {
    match Effort::of_this_run() {
        Effort::Default => swap(regime, suite, 50),
        Effort::Full => Suite::ALL.into_iter().try_for_each(|suite| swap(regime, suite, 500)),
    }
}

/// What all swaps of a regime add up to.
#[derive(Default)]
struct Sum {
    swaps: usize,
    requests: u64,
    failed: u64,
    retried: u64,
    inside: u64,
    silence_ms: f64,
    present: f64,
    p999_us: (u32, u32),
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.present = if self.swaps == 0 { 1.0 } else { self.present };
        self.swaps += report.windows.len();
        self.requests += report.total.requests;
        self.failed += report.total.failed;
        self.retried += report.total.retried;
        self.inside += report.inside.requests;
        for window in &report.windows {
            self.silence_ms = self.silence_ms.max(window.longest_silence_ms);
            self.present = self.present.min(window.load_present);
        }
        let (outside, inside) = (report.outside.latency.p999_us, report.inside.latency.p999_us);
        self.p999_us = (self.p999_us.0.max(outside), self.p999_us.1.max(inside));
    }
}

fn swap(regime: &Regime, suite: Suite, count: usize) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let relay = if regime.far {
        Some(Relay::between(site.host.net().client(), &site.host.netns(), ONE_WAY)?)
    } else {
        None
    };
    let options = options(regime, &site, relay.as_ref())?;
    let artifacts = [site.artifact("one")?, site.artifact("two")?];
    push(&site, regime, &artifacts, 1)?;

    let mut sum = Sum::default();
    let mut next = 2;
    while sum.swaps < count {
        let numbers = next..next + BATCH.min(count - sum.swaps);
        next = numbers.end;
        sum.add(&batch(&site, regime, &artifacts, &options, numbers)?);
    }
    site.require_silent_doctor()?;

    let control = Control::install(&site.host, regime.env)?;
    let naive = control.run(Way::NaiveClose, &options, CONTROL_CAP)?;
    let restart = control.run(Way::Restart, &options, CONTROL_CAP)?;
    control.finish()?;
    println!(
        "{} on {}: {} swaps, {} requests ({} in swaps), {} failed, {} retried, load in {:.1} % of the slots \
         of the emptiest swap, longest silence {:.0} ms, p99.9 {:.1} ms outside and {:.1} ms in swaps; controls: \
         naive close {} failed of {} in {} swaps, systemctl restart {} of {} in {}",
        regime.name,
        suite.name(),
        sum.swaps,
        sum.requests,
        sum.inside,
        sum.failed,
        sum.retried,
        sum.present * 100.0,
        sum.silence_ms,
        f64::from(sum.p999_us.0) / 1000.0,
        f64::from(sum.p999_us.1) / 1000.0,
        naive.failed,
        naive.requests,
        naive.swaps,
        restart.failed,
        restart.requests,
        restart.swaps,
    );
    if let Some(relay) = relay {
        relay.finish()?;
    }
    site.host.finish()
}

/// The load of a regime; answers of whatever release are told apart by their label.
fn options(regime: &Regime, site: &Site, relay: Option<&Relay>) -> Result<Options> {
    let net = site.host.net();
    let (ip, sources) = match relay {
        Some(relay) => (Relay::HOST, relay.sources().to_vec()),
        None => (site.host.address().v4, net.add_client_addresses(8)?),
    };
    let mut options = Options::new(SocketAddr::new(ip.into(), 8080)).from_netns(net.client().clone());
    options.sources = Sources::Of(sources);
    options.clients = regime.clients;
    options.think = THINK;
    options.priority = Priority::BeforeOthers;
    Ok(options)
}

/// Swaps to the releases of these numbers under one recording, and requires that nothing fails.
fn batch(
    site: &Site,
    regime: &Regime,
    artifacts: &[String],
    options: &Options,
    numbers: std::ops::Range<usize>,
) -> Result<Report> {
    let lines: Vec<String> = (numbers.start - 1..numbers.end).map(|n| format!("shop v{n}")).collect();
    let mut options = options.clone();
    options.accept.clone_from(&lines);
    let load = Load::start(options)?;
    load.wait_flowing(1000, WITHIN)?;
    let mut windows = Vec::new();
    for number in numbers {
        let start_ns = monotonic_ns();
        push(site, regime, artifacts, number)?;
        site.wait_until_drained("shop", WITHIN)?;
        windows.push(Window { start_ns, end_ns: monotonic_ns() });
        if load.failed() > 0 {
            break;
        }
    }
    let recording = load.stop()?;
    let report = recording.report(&windows);
    ensure!(report.total.failed == 0, "{}: {} failed: {:?}", regime.name, report.total.failed, report.total);
    for (number, window) in report.windows.iter().enumerate() {
        ensure!(
            window.load_present >= PRESENT,
            "{}: swap {number} had too little load: {window:?}",
            regime.name
        );
    }
    for line in &lines {
        let answers = report.releases.get(line).copied().unwrap_or_default();
        ensure!(answers > 0, "{}: nobody saw {line}: {:?}", regime.name, report.releases);
    }
    Ok(report)
}

/// Pushes release `number`: the other artifact than before, and another environment.
fn push(site: &Site, regime: &Regime, artifacts: &[String], number: usize) -> Result<()> {
    let text = number.to_string();
    let mut env = regime.env.to_vec();
    env.push(("NUMBER", &text));
    let spec = site.spec("shop", &shop(&env, DEPLOY, ""))?;
    site.deploy(&artifacts[number % artifacts.len()], &spec)
        .map(drop)
        .with_context(|| format!("release {number} on a {}", regime.name))
}
