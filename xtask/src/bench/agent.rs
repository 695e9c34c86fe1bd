//! `bench agent`: what the agent takes for itself: memory, CPU at rest, its start, its size, and the time that it
//! adds to a deployment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use deployd_tests::deb;
use deployd_tests::image::{Image, Suite};
use deployd_tests::machine::Host;
use deployd_tests::site::Site;
use deployd_tests::timeline::Timeline;
use serde_json::{Value, json};

use super::Size;
use super::rig::{App, PORT, largest, median};

/// Ports of the twenty apps.
const FIRST_PORT: u16 = 9200;
const DEPLOY: &str = "min_healthy = \"0s\"\nmonitor = \"0s\"";
/// How long the agent is left alone before its memory and CPU are read.
const REST: Duration = Duration::from_secs(3);
/// The artifact of the measured deployments beside the program: files of 1 MB.
const FILES: usize = 100;

pub(super) fn run(size: Size) -> Result<Value> {
    let packages = deb::packages()?;
    let host = Host::boot(&Image::ensure(Suite::Bookworm)?, "ours")?;
    deb::install(&host, &packages)?;
    let site = Site { host };
    site.wait_for_agent()?;
    let (runs, idle) = size.pick((5, Duration::from_secs(15)), (15, Duration::from_mins(1)));

    let starts: Vec<f64> = (0..runs).map(|_| start_ms(&site)).collect::<Result<_>>()?;
    std::thread::sleep(REST);
    let empty = rss_mb(&site)?;
    let overhead: Vec<f64> = overheads(&site, runs)?;
    for (name, port) in APP_NAMES.into_iter().zip(FIRST_PORT..) {
        App { name, port, work_us: 0, deploy: DEPLOY }.push(&site, 1)?;
    }
    std::thread::sleep(REST);
    let full = rss_mb(&site)?;
    let cpu = cpu_percent(&site, idle)?;
    // What a restart needs with all of them: recovery reads every app.
    let restart = start_ms(&site)?;
    let size_mb = |path: &str| -> Result<f64> {
        Ok(std::fs::metadata(site.host.outside(path)).with_context(|| path.to_owned())?.len() as f64 / 1e6)
    };
    let result = json!({
        "rss_mb_0apps": empty,
        "rss_mb_20apps": full,
        "cpu_percent_idle": cpu,
        "start_ms": median(&starts),
        "start_ms_20apps": restart,
        "agent_mb": size_mb("/usr/bin/deployd")?,
        "ctl_mb": size_mb("/usr/bin/deployd-ctl")?,
        "overhead_ms_p50": median(&overhead),
        "overhead_ms_max": largest(&overhead),
        "artifact_mb": FILES,
        "runs": runs,
        "systemd": site.host.ok("systemctl --version | head -1")?,
    });
    site.host.finish()?;
    Ok(result)
}

const APP_NAMES: [&str; 20] = [
    "app-a", "app-b", "app-c", "app-d", "app-e", "app-f", "app-g", "app-h", "app-i", "app-j", "app-k",
    "app-l", "app-m", "app-n", "app-o", "app-p", "app-q", "app-r", "app-s", "app-t",
];

/// From the exec of the agent to its readiness, by systemd's clock.
fn start_ms(site: &Site) -> Result<f64> {
    site.host.ok("systemctl restart deployd.service")?;
    site.wait_for_agent()?;
    active_ms(site, "deployd.service")
}

/// From a unit's exec to its readiness.
fn active_ms(site: &Site, unit: &str) -> Result<f64> {
    let time = |key: &str| -> Result<f64> {
        let text = site.host.ok(&format!("systemctl show -p {key} --value {unit}"))?;
        text.parse().with_context(|| format!("{key} of {unit} is {text:?}"))
    };
    Ok((time("ActiveEnterTimestampMonotonic")? - time("ExecMainStartTimestampMonotonic")?) / 1000.0)
}

fn rss_mb(site: &Site) -> Result<f64> {
    let status = site.host.read_file(&format!("/proc/{}/status", site.agent_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? * 1024.0 / 1e6)
}

/// Time on a CPU, in per cent of one. The unit's cgroup counts it, for threads come and go.
fn cpu_percent(site: &Site, span: Duration) -> Result<f64> {
    let microseconds = || -> Result<f64> {
        let stat = site.host.ok("cat /sys/fs/cgroup/system.slice/deployd.service/cpu.stat")?;
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(used.context("no usage_usec in cpu.stat")?.parse()?)
    };
    let (before, since) = (microseconds()?, Instant::now());
    std::thread::sleep(span);
    Ok((microseconds()? - before) / since.elapsed().as_micros() as f64 * 100.0)
}

/// From an accepted push to all new connections, less the app's own start, of an artifact of 100 MB in which one
/// small file changes each time.
fn overheads(site: &Site, runs: usize) -> Result<Vec<f64>> {
    let app = App { name: "shop", port: PORT, work_us: 0, deploy: DEPLOY };
    site.artifact(app.name)?;
    let folder = format!("/srv/{}/data", app.name);
    // Random, so that nothing about it is easy.
    site.host.ok(&format!(
        "mkdir -p {folder}; for n in $(seq {FILES}); do head -c 1000000 /dev/urandom >{folder}/$n; done"
    ))?;
    let mut overheads = Vec::new();
    for number in 1..=runs + 1 {
        site.host.write_file(&format!("/srv/{}/version", app.name), format!("{number}\n"), 0o644)?;
        app.push(site, number)?;
        site.wait_until_drained(app.name, Duration::from_secs(30))?;
        let line = Timeline::of_last(site, app.name)?;
        let full = line.full_ns().context("the traffic never moved")?;
        let took = full.saturating_sub(line.accepted_ns) as f64 / 1e6;
        let own = active_ms(site, &format!("deployd-{}-web-v{number}@1.service", app.name))?;
        // The first one has all files to take in.
        if number > 1 {
            overheads.push(took - own);
        }
    }
    Ok(overheads)
}
