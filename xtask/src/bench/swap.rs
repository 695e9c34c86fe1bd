//! `bench swap`: what clients lose and wait for while a release replaces another, in three regimes, against four
//! other ways to do it and against a control that only starts the same process.
//!
//! In each round every way has load of its own, one after the other, so that a slow minute hits all alike.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use deployd_tests::load::{Recording, Window, monotonic_ns};
use deployd_tests::regime::Regime;
use deployd_tests::site::fixture;
use serde_json::{Map, Value, json};

use super::Size;
use super::peers::{Peers, Way};
use super::rig::{App, Field, PORT, largest, median, ms};

/// No waits of its own: what is measured is the swap.
const DEPLOY: &str = "min_healthy = \"0s\"\nmonitor = \"0s\"";
/// Replacements that a control gets to lose something.
const CONTROL_CAP: usize = 50;
/// The process that the control starts beside the app: the fixture as the app's unit runs it, on a port of its own.
const TWIN: &str = "[Service]\nType=notify\nUser=nobody\nEnvironment=ADDRESS=127.0.0.1:9100\n\
                    ExecStart=/srv/twin/app web\n";

/// What one regime adds up to.
#[derive(Default)]
struct Sum {
    swaps: usize,
    requests: u64,
    failed: u64,
    retried: u64,
    steady_p99: Vec<f64>,
    swap_p99: Vec<f64>,
    swap_p999: Vec<f64>,
    control_p999: Vec<f64>,
    to_full: Vec<f64>,
    peers: Vec<Peer>,
}

/// One way in one round, or in all.
#[derive(Clone, Copy)]
struct Peer {
    way: Way,
    swaps: usize,
    failed: u64,
}

pub(super) fn run(size: Size) -> Result<Value> {
    let field = Field::prepare()?;
    field.ours.host.write_file("/srv/twin/app", std::fs::read(fixture()?)?, 0o755)?;
    field.ours.host.write_file("/etc/systemd/system/twin.service", TWIN, 0o644)?;
    field.ours.host.ok("systemctl daemon-reload")?;
    let (rounds, swaps) = size.pick((2, 2), (6, 5));
    let mut regimes = Map::new();
    let (mut all, mut number) = (0, 0);
    for regime in &Regime::ALL {
        let begun = Instant::now();
        let app = App { name: "shop", port: PORT, work_us: regime.work_us, deploy: DEPLOY };
        number += 1;
        app.push(&field.ours, number)?;
        let mut peers = Peers::start(&field.peers, regime.work_us, field.proxies)?;
        let mut sum = Sum::default();
        for _ in 0..rounds {
            let window = ours(&field, regime, &app, &mut number, swaps, &mut sum)?;
            control(&field, regime, window, swaps, &mut sum)?;
            for way in Way::ALL.into_iter().filter(|way| field.proxies || !way.is_proxy()) {
                peer(&field, regime, &mut peers, way, swaps, &mut sum)?;
            }
        }
        all += sum.swaps;
        regimes.insert(regime.key.to_owned(), sum.verified(regime)?);
        eprintln!(
            "{:<6} {} swaps, {} failed, {:.0} s",
            regime.key,
            sum.swaps,
            sum.failed,
            begun.elapsed().as_secs_f64()
        );
    }
    let systemd = field.systemd()?;
    field.finish()?;
    Ok(json!({ "swaps": all, "regimes": regimes, "runs": rounds, "systemd": systemd }))
}

/// Swaps by deployd. Returns how long one took, for the control.
fn ours(
    field: &Field,
    regime: &Regime,
    app: &App,
    number: &mut usize,
    swaps: usize,
    sum: &mut Sum,
) -> Result<Duration> {
    let mut windows = Vec::new();
    let (recording, ()) = field.load(&field.ours.host, PORT, regime, |load| {
        for _ in 0..swaps {
            *number += 1;
            let (line, active) = field.swap(app, *number)?;
            sum.to_full.extend(line.healthy_to_full_ms());
            windows.extend(active);
            load.wait_flowing(300, Duration::from_secs(30))?;
        }
        // Time to compare with.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    })?;
    let report = recording.report(&windows);
    sum.swaps += swaps;
    sum.requests += report.total.requests;
    sum.failed += report.total.failed;
    sum.retried += report.total.retried;
    sum.steady_p99.push(ms(report.outside.latency.p99_us));
    sum.swap_p99.push(ms(report.inside.latency.p99_us));
    sum.swap_p999.push(ms(report.inside.latency.p999_us));
    let total: u64 = windows.iter().map(|window| window.end_ns - window.start_ns).sum();
    Ok(Duration::from_nanos(total / swaps as u64))
}

/// The same process starts and ends beside the app at the same moments; no traffic moves.
fn control(field: &Field, regime: &Regime, window: Duration, swaps: usize, sum: &mut Sum) -> Result<()> {
    let host = &field.ours.host;
    let mut windows = Vec::new();
    let (recording, ()): (Recording, ()) = field.load(host, PORT, regime, |load| {
        for _ in 0..swaps {
            let (start_ns, begun) = (monotonic_ns(), Instant::now());
            host.ok("systemctl start twin.service")?;
            std::thread::sleep(window.saturating_sub(begun.elapsed()));
            host.ok("systemctl stop twin.service")?;
            windows.push(Window { start_ns, end_ns: monotonic_ns() });
            load.wait_flowing(300, Duration::from_secs(30))?;
        }
        Ok(())
    })?;
    let report = recording.report(&windows);
    ensure!(report.total.failed == 0, "requests fail without any swap: {:?}", report.total.kinds);
    sum.control_p999.push(ms(report.inside.latency.p999_us));
    Ok(())
}

/// Replacements by another way. One that must lose gets more of them until it has.
fn peer(
    field: &Field,
    regime: &Regime,
    peers: &mut Peers<'_>,
    way: Way,
    swaps: usize,
    sum: &mut Sum,
) -> Result<()> {
    let may_go_on = way.is_control() && sum.of(way).is_none_or(|peer| peer.failed == 0);
    let (recording, done) = field.load(&field.peers, way.port(), regime, |load| {
        let mut done = 0;
        while done < swaps || (may_go_on && load.failed() == 0 && done < CONTROL_CAP) {
            peers.replace(way)?;
            load.wait_flowing(300, Duration::from_secs(30))?;
            done += 1;
        }
        Ok(done)
    })?;
    sum.peers.push(Peer { way, swaps: done, failed: recording.report(&[]).total.failed });
    Ok(())
}

impl Sum {
    /// All rounds of one way; `None` when it did not run.
    fn of(&self, way: Way) -> Option<Peer> {
        let rounds = self.peers.iter().filter(|peer| peer.way == way).copied();
        rounds.reduce(|a, b| Peer { way, swaps: a.swaps + b.swaps, failed: a.failed + b.failed })
    }

    /// The regime's keys; an error when the positive controls lost nothing, for then nothing is shown.
    fn verified(&self, regime: &Regime) -> Result<Value> {
        for way in Way::ALL.into_iter().filter(|way| way.is_control()) {
            let peer = self.of(way).with_context(|| format!("{way:?} did not run"))?;
            ensure!(
                peer.failed > 0,
                "{}: {way:?} lost nothing in {} swaps: this run proves nothing",
                regime.name,
                peer.swaps
            );
        }
        let mut value = json!({
            "swaps": self.swaps,
            "requests": self.requests,
            "failed": self.failed,
            "retried": self.retried,
            "p99_steady_ms": median(&self.steady_p99),
            "p99_swap_ms": median(&self.swap_p99),
            "p999_control_ms": median(&self.control_p999),
            "p999_swap_ms": median(&self.swap_p999),
            "p999_ratio": median(&self.swap_p999).zip(median(&self.control_p999)).map(|(a, b)| a / b),
            "healthy_to_full_ms_p50": median(&self.to_full),
            "healthy_to_full_ms_max": largest(&self.to_full),
        });
        for way in Way::ALL {
            value[format!("{}_failed", way.key())] = json!(self.of(way).map(|peer| peer.failed));
            value[format!("{}_swaps", way.key())] = json!(self.of(way).map(|peer| peer.swaps));
        }
        Ok(value)
    }
}
