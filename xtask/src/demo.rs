//! `cargo xtask demo`: one real host, one app, a release that replaces another under load, one that fails, and the
//! way back. The first thing that a visitor runs: it prints a line for each step, and ends with what clients saw.
//!
//! It drives deployd as a person would (dpkg, `deployd-ctl --local`). An outcome that is not the promised one makes
//! it fail; nothing is printed that was not measured.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use deployd_tests::deb;
use deployd_tests::image::{Image, Suite};
use deployd_tests::load::{Load, Options, Window, monotonic_ns};
use deployd_tests::machine::{self as hosts, Host};
use deployd_tests::site::{Called, Site, fixture};
use deployd_tests::timeline::Timeline;

use crate::demo_report::Outcome;
use crate::machine;

const APP: &str = "shop";
const PORT: u16 = 8080;
/// Exit codes of ctl, which are documented.
const LIVE: i32 = 0;
const ROLLED_BACK: i32 = 4;
/// How long the load flows undisturbed between two deployments, so that there is something to compare with.
const STEADY: Duration = Duration::from_secs(3);
/// Enough source addresses that no client runs out of ports.
const SOURCES: u8 = 40;
/// What the old release may take to finish its connections, and a margin.
const DRAINED: Duration = Duration::from_secs(20);

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The last line is one JSON object
    #[arg(long)]
    json: bool,
    /// Leave the host up and say how to reach it
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Remove hosts that --keep left
    #[arg(long)]
    down: bool,
}

pub(crate) fn demo(args: &Args) -> Result<()> {
    if args.down {
        // Removing hosts is what makes room: it must not ask for any.
        machine::check_root()?;
        let removed = hosts::remove_kept()?;
        println!("{}", if removed == 0 { "no host was left to remove" } else { "removed what --keep left" });
        return Ok(());
    }
    machine::check_hosts_possible()?;
    println!(
        "A release replaces another on a real systemd host, under load. Ctrl-C ends it and cleans up.\n"
    );
    let site = prepare()?;
    let outcome = play(&site)?;
    outcome.print();
    let reach = args.keep.then(|| how_to_reach(&site.host));
    if args.keep {
        site.host.keep()?;
    } else {
        site.host.finish()?;
    }
    println!("\n{}", reach.unwrap_or_else(|| "The host is gone again; --keep leaves it up.".to_owned()));
    if args.json {
        println!("{}", outcome.json());
    }
    outcome.verify()
}

/// Prints one line for a step that is done, with what it took.
fn tell(verb: &str, what: &str, took: Duration) {
    println!("{verb:<9} {what:<78} {:>6.1} s", took.as_secs_f64());
    // A line that comes late tells nothing.
    let _ = std::io::stdout().flush();
}

/// Everything up to a host on which deployd runs.
fn prepare() -> Result<Site> {
    let begun = Instant::now();
    machine::ensure_programs(machine::Purpose::Hosts)?;
    eprintln!("(building; the first time takes some minutes)");
    let packages = deb::packages()?;
    fixture()?;
    let mut names = Vec::new();
    for file in [&packages.agent, &packages.ctl] {
        let size = std::fs::metadata(file)?.len() as f64 / 1e6;
        let name = file.file_name().context("a package has a name")?.to_string_lossy();
        names.push(format!("{name} {size:.1} MB"));
    }
    tell("build", &names.join(", "), begun.elapsed());

    let begun = Instant::now();
    let image = Image::ensure(Suite::Bookworm)?;
    let host = Host::boot(&image, "demo")?;
    let system =
        host.ok(". /etc/os-release; echo \"Debian $VERSION_ID, $(systemctl --version | head -1)\"")?;
    tell("boot", &format!("{}: {system}, on a network of its own", host.name()), begun.elapsed());

    let begun = Instant::now();
    deb::install(&host, &packages)?;
    let site = Site { host };
    site.wait_for_agent()?;
    let memory = site.host.ok(&format!("ps -o rss= -p {}", site.agent_pid()?))?;
    let memory = memory.trim().parse::<f64>()? / 1024.0;
    let text = format!("dpkg -i; deployd.service is active, {memory:.1} MB of memory");
    tell("install", &text, begun.elapsed());
    Ok(site)
}

/// One deployment under load.
pub(crate) struct Deployed {
    /// `push v2`.
    pub(crate) what: &'static str,
    /// What the journal has as its verdict.
    pub(crate) verdict: String,
    /// What it must be.
    pub(crate) expected: &'static str,
    /// When deployd did something.
    pub(crate) windows: Vec<Window>,
}

/// What is deployed, and what must come of it.
struct Scene {
    verb: &'static str,
    what: &'static str,
    code: i32,
    expected: &'static str,
}

/// The deployments, and the load over all but the first.
fn play(site: &Site) -> Result<Outcome> {
    let mut done = Vec::new();
    let first = Scene { verb: "deploy", what: "push v1", code: LIVE, expected: "committed" };
    done.push(act(site, None, &first, || push(site, "v1", &[]))?);
    let load = start_load(site)?;
    std::thread::sleep(STEADY);
    let second = Scene { verb: "push", what: "push v2", code: LIVE, expected: "committed" };
    done.push(act(site, Some(&load), &second, || push(site, "v2", &[]))?);
    std::thread::sleep(STEADY);
    let third = Scene { verb: "push", what: "push v3", code: ROLLED_BACK, expected: "rolled-back" };
    done.push(act(site, Some(&load), &third, || push(site, "v3", &[("FAIL_HEALTH", "1")]))?);
    std::thread::sleep(STEADY);
    let back = Scene { verb: "rollback", what: "rollback to v1", code: LIVE, expected: "committed" };
    let rollback = || site.ctl(&format!("rollback v1 -a {APP} --wait committed"));
    done.push(act(site, Some(&load), &back, rollback)?);
    std::thread::sleep(STEADY);
    let recording = load.stop()?;
    let windows: Vec<Window> = done[1..].iter().flat_map(|deployed| deployed.windows.clone()).collect();
    Ok(Outcome { deployed: done, report: recording.report(&windows), live: site.live(APP)? })
}

/// Carries out one deployment, waits until the old release is gone, and tells what happened.
fn act(
    site: &Site,
    load: Option<&Load>,
    scene: &Scene,
    call: impl FnOnce() -> Result<Called>,
) -> Result<Deployed> {
    let begun = Instant::now();
    let before = load.map(|load| (load.completed(), load.failed()));
    call()?.expect(scene.code).with_context(|| scene.what.to_owned())?;
    site.wait_until_drained(APP, DRAINED)?;
    let drained_ns = monotonic_ns();
    let line = Timeline::of_last(site, APP)?;
    let mut text = format!("{}: {}", scene.what, line.verdict);
    if let (Some(ms), "committed") = (line.healthy_to_full_ms(), line.verdict.as_str()) {
        text += &format!(", all new connections {ms:.0} ms after its check passed");
    }
    if line.verdict == "rolled-back" {
        text += ": its check answers 503; it never had a connection";
    }
    tell(scene.verb, &text, begun.elapsed());
    if let (Some(load), Some((completed, failed))) = (load, before) {
        let (requests, failed) = (load.completed() - completed, load.failed() - failed);
        println!("{:<9} meanwhile {requests} requests, {failed} failed", "");
    }
    let windows = line.active(drained_ns);
    Ok(Deployed { what: scene.what, verdict: line.verdict, expected: scene.expected, windows })
}

fn push(site: &Site, name: &str, env: &[(&str, &str)]) -> Result<Called> {
    let dir = site.artifact(&format!("{APP}-{name}"))?;
    let spec = site.spec(&format!("{APP}-{name}"), &spec(env))?;
    site.push(&dir, &spec)
}

/// What a person would write, with short waits.
fn spec(env: &[(&str, &str)]) -> String {
    let env = env.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect::<Vec<_>>().concat();
    format!(
        "app = \"{APP}\"\n\n[env]\n{env}\n[processes.web]\nexec = \"bin/app web\"\n\n\
         [listen.http]\naddress = \":{PORT}\"\n\n\
         [checks.health]\npath = \"/health\"\ninterval = \"200ms\"\n\n\
         [deploy]\nwait_timeout = \"3s\"\ndrain_timeout = \"10s\"\nmin_healthy = \"1s\"\nmonitor = \"1s\"\n"
    )
}

/// Clients on another machine's side of the network. A body of v3 would count as failed.
fn start_load(site: &Site) -> Result<Load> {
    let begun = Instant::now();
    let target = std::net::SocketAddr::new(site.host.address().v4.into(), PORT);
    let mut options = Options::new(target).accept(&["shop v1", "shop v2"]);
    options = options.from_netns(site.host.net().client().clone());
    options.sources = deployd_tests::load::Sources::Of(site.host.net().add_client_addresses(SOURCES)?);
    let clients = options.clients;
    let load = Load::start(options)?;
    load.wait_flowing(1000, Duration::from_secs(10))?;
    let (counted, since) = (load.completed(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let rate = (load.completed() - counted) as f64 / since.elapsed().as_secs_f64();
    ensure!(load.failed() == 0, "requests fail before anything is deployed");
    let text =
        format!("{clients} clients, half keep their connection, half open new ones: {rate:.0} requests/s");
    tell("load", &text, begun.elapsed());
    Ok(load)
}

fn how_to_reach(host: &Host) -> String {
    let leader = host.leader_pid();
    let address = host.address().v4;
    format!(
        "The host stays up until `cargo xtask demo --down`:\n\
         \x20 a shell on it    nsenter -t {leader} -a bash     then: deployd-ctl --local status -a {APP}\n\
         \x20 its app          nsenter --net={} curl http://{address}:{PORT}/",
        host.net().client().as_path().display()
    )
}
