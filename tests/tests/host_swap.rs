//! A release replaces another under load, again and again, and no request fails: a fast app, an app whose queue is
//! never empty, and clients 40 ms away. In the same run, on the same load and program, positive controls must lose.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::control::{Control, Way};
use deployd_tests::effort::Effort;
use deployd_tests::image::Suite;
use deployd_tests::load::{Load, Options, Priority, Reign, Report, Window, monotonic_ns};
use deployd_tests::regime::{Reach, Regime};
use deployd_tests::site::{Site, shop};

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
const WITHIN: Duration = Duration::from_secs(30);

/// What the kernel does with the queue of a listener that closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SafetyNet {
    /// It moves it to another listener of the port: what the package asks for.
    AsInstalled,
    /// It resets it. A default run has only this: swaps must not need the net, and the controls do not have it.
    Off,
}

impl SafetyNet {
    fn set(self, site: &Site) -> Result<()> {
        let value = u8::from(self == Self::AsInstalled);
        site.host.ok(&format!("sysctl --quiet --write net.ipv4.tcp_migrate_req={value}")).map(drop)
    }
}

#[test]
fn a_fast_app() -> Result<()> {
    run(&Regime::FAST, 0)
}

#[test]
fn a_busy_queue() -> Result<()> {
    run(&Regime::BUSY, 1)
}

#[test]
fn clients_40_ms_away() -> Result<()> {
    run(&Regime::FAR, 2)
}

/// 50 swaps on one Debian release, on which the seed decides; a full run does 1,000, half of them on each.
fn run(regime: &Regime, case: usize) -> Result<()> {
    let effort = Effort::of_this_run();
    effort.suites(case).into_iter().try_for_each(|suite| swap(regime, suite, effort.pick(50, 500)))
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
    let reach = Reach::open(&site.host, regime, &site.host.net().add_client_addresses(8)?)?;
    let mut options = reach.options(8080, regime.paced);
    (options.think, options.priority) = (THINK, Priority::BeforeOthers);
    let artifacts = [site.artifact("one")?, site.artifact("two")?];
    push(&site, regime, &artifacts, 1)?;
    let installed = site.host.ok("cat /proc/sys/net/ipv4/tcp_migrate_req")?;
    ensure!(installed == "1", "tcp_migrate_req is {installed} as installed");

    let mut sum = Sum::default();
    let mut next = 2;
    while sum.swaps < count {
        // Every other batch of a full run; the only one of a default run is without.
        let odd = (sum.swaps / BATCH) % 2 == 1;
        if odd { SafetyNet::AsInstalled } else { SafetyNet::Off }.set(&site)?;
        let numbers = next..next + BATCH.min(count - sum.swaps);
        next = numbers.end;
        sum.add(&batch(&site, regime, &artifacts, &options, numbers)?);
    }
    site.require_silent_doctor()?;

    SafetyNet::Off.set(&site)?;
    let mut control = Control::install(&site.host, &[("WORK_US", &regime.work_us.to_string())])?;
    let naive = control.run(Way::NaiveClose, &options, CONTROL_CAP)?;
    let restart = control.run(Way::Restart, &options, CONTROL_CAP)?;
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
    reach.finish()?;
    site.host.finish()
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
    let stale = recording.out_of_time(&reigns(&lines, &windows));
    ensure!(stale.is_empty(), "{}: answers of releases that were gone or not there: {stale:?}", regime.name);
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

/// When each release may answer: from the start of its own swap until nothing of it drains in the next one. So in a
/// swap only the old and the new one may, and between two swaps only the one that is live.
fn reigns(lines: &[String], windows: &[Window]) -> Vec<Reign> {
    let from = |index: usize| index.checked_sub(1).and_then(|own| windows.get(own));
    let reign = |(index, line): (usize, &String)| Reign {
        line: line.clone(),
        from_ns: from(index).map_or(0, |own| own.start_ns),
        until_ns: windows.get(index).map_or(u64::MAX, |next| next.end_ns),
    };
    // A batch that ended early has no time for the releases that never came.
    lines.iter().take(windows.len() + 1).enumerate().map(reign).collect()
}

/// Pushes release `number`: the other artifact than before, and another environment.
fn push(site: &Site, regime: &Regime, artifacts: &[String], number: usize) -> Result<()> {
    let text = number.to_string();
    let work = regime.work_us.to_string();
    let env = [("WORK_US", work.as_str()), ("NUMBER", text.as_str())];
    let spec = site.spec("shop", &shop(&env, DEPLOY, ""))?;
    site.deploy(&artifacts[number % artifacts.len()], &spec)
        .map(drop)
        .with_context(|| format!("release {number} on a {}", regime.name))
}
