//! `cargo xtask demo`: three real hosts and an operator's machine, one app, a release that replaces another under load,
//! one that fails, and the way back, over mTLS. The first thing that a visitor runs: it prints a line for each step, and
//! ends with what clients saw.
//!
//! It drives deployd as a person would (ssh once, then `deployd-ctl` on a machine of its own). An outcome that is not
//! the promised one makes it fail; nothing is printed that was not measured.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use deployd_tests::deb;
use deployd_tests::fleet::{Fleet, PROJECT, Project, loads};
use deployd_tests::image::{Image, Suite};
use deployd_tests::load::{Load, Window, monotonic_ns};
use deployd_tests::machine as hosts;
use deployd_tests::shop::Spec;
use deployd_tests::site::fixture;
use deployd_tests::timeline::Timeline;

use crate::demo_report::{Measured, Outcome};
use crate::machine;

const APP: &str = "shop";
/// Two of the newer Debian, one of the older: a fleet as it is.
const HOSTS: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Trixie];
/// Exit codes of ctl, which are documented.
const LIVE: i32 = 0;
const ROLLED_BACK: i32 = 4;
/// How long the load flows undisturbed between two deployments, so that there is something to compare with.
const STEADY: Duration = Duration::from_secs(3);
/// What the old release may take to finish its connections, and a margin.
const SETTLED: Duration = Duration::from_mins(1);

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The last line is one JSON object
    #[arg(long)]
    json: bool,
    /// Leave the hosts up and say how to reach them
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
        "A release replaces another on three real systemd hosts, under load. Ctrl-C ends it and cleans up.\n"
    );
    let fleet = prepare()?;
    let outcome = play(&fleet)?;
    outcome.print();
    let reach = args.keep.then(|| how_to_reach(&fleet));
    if args.keep {
        fleet.keep()?;
    } else {
        fleet.finish()?;
    }
    println!("\n{}", reach.unwrap_or_else(|| "The hosts are gone again; --keep leaves them up.".to_owned()));
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

/// Everything up to a fleet.
fn prepare() -> Result<Fleet> {
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
    HOSTS.iter().try_for_each(|suite| Image::ensure(*suite).map(drop))?;
    let fleet = Fleet::bare(&HOSTS)?;
    let mut systems = Vec::new();
    for host in &fleet.hosts {
        systems.push(host.ok(". /etc/os-release; echo \"Debian $VERSION_ID\"")?);
    }
    tell("boot", &format!("web1, web2, web3 ({}), and ops", systems.join(", ")), begun.elapsed());

    let begun = Instant::now();
    fleet.install_ctl()?;
    fleet.ops.ctl("pki init")?.expect(LIVE)?;
    tell("pki", "pki init: an authority for this fleet, and its first operator", begun.elapsed());
    let begun = Instant::now();
    fleet.ops.ctl(&fleet.add_words())?.expect(LIVE)?;
    tell("enrol", "hosts add, by ssh: the agent on each host, a key that never leaves it", begun.elapsed());
    Ok(fleet)
}

/// One push or rollback.
pub(crate) struct Deployed {
    /// `push v2`.
    pub(crate) what: &'static str,
    /// What the journals of its hosts have as its verdict.
    pub(crate) verdicts: Vec<String>,
    /// What it must be on each of them.
    pub(crate) expected: &'static str,
    /// When deployd did something, by host.
    pub(crate) windows: Vec<Vec<Window>>,
}

/// What is deployed, and what must come of it.
struct Scene {
    verb: &'static str,
    what: &'static str,
    words: &'static str,
    code: i32,
    expected: &'static str,
    /// How many hosts it reaches: one that fails ends at the first.
    reaches: usize,
}

const ALL: usize = HOSTS.len();
const FIRST: Scene = Scene {
    verb: "deploy",
    what: "push v1",
    words: "push --yes --wait committed",
    code: LIVE,
    expected: "committed",
    reaches: ALL,
};
const SECOND: Scene = Scene { verb: "push", what: "push v2", words: "push --wait committed", ..FIRST };
const BAD: Scene = Scene {
    verb: "push",
    what: "push v3",
    words: "push",
    code: ROLLED_BACK,
    expected: "rolled-back",
    reaches: 1,
};
const BACK: Scene =
    Scene { verb: "rollback", what: "rollback to v1", words: "rollback v1 --wait committed", ..FIRST };

/// The deployments, and the load over all but the first.
fn play(fleet: &Fleet) -> Result<Outcome> {
    let mut done = Vec::new();
    project("").write(fleet, "one")?;
    done.push(act(fleet, &[], &FIRST)?);
    let loads = start_loads(fleet)?;
    std::thread::sleep(STEADY);
    project("").write(fleet, "two")?;
    done.push(act(fleet, &loads, &SECOND)?);
    std::thread::sleep(STEADY);
    project("1").write(fleet, "three")?;
    done.push(act(fleet, &loads, &BAD)?);
    std::thread::sleep(STEADY);
    done.push(act(fleet, &loads, &BACK)?);
    std::thread::sleep(STEADY);
    let mut measured = Vec::new();
    for ((load, host), index) in loads.into_iter().zip(&fleet.hosts).zip(0..) {
        let windows: Vec<Window> =
            done[1..].iter().filter_map(|one| one.windows.get(index)).flatten().copied().collect();
        measured.push(Measured { host: host.name().to_owned(), report: load.stop()?.report(&windows) });
    }
    let live = fleet.wait_settled(APP, SETTLED)?.one_release()?;
    Ok(Outcome { deployed: done, measured, live })
}

/// What a person would write, with short waits.
fn project(fail_health: &str) -> Project {
    Project::default().with(|spec: Spec| {
        let spec = spec.key("deploy", "wait_timeout", "3s").key("deploy", "monitor", "1s");
        if fail_health.is_empty() { spec } else { spec.env("FAIL_HEALTH", fail_health) }
    })
}

/// Carries out one deployment, waits until the fleet is calm, and tells what happened.
fn act(fleet: &Fleet, loads: &[Load], scene: &Scene) -> Result<Deployed> {
    let begun = Instant::now();
    let count = || (loads.iter().map(Load::completed).sum(), loads.iter().map(Load::failed).sum());
    let before: (u64, u64) = count();
    fleet.ops.ctl(scene.words)?.expect(scene.code).with_context(|| scene.what.to_owned())?;
    let took = begun.elapsed();
    fleet.wait_settled(APP, SETTLED)?;
    let settled_ns = monotonic_ns();
    let lines: Vec<Timeline> = fleet.hosts[..scene.reaches]
        .iter()
        .map(|host| Timeline::of_host(host, APP))
        .collect::<Result<_>>()?;
    let slowest = lines.iter().filter_map(Timeline::healthy_to_full_ms).fold(0.0, f64::max);
    let verdicts: Vec<String> = lines.iter().map(|line| line.verdict.clone()).collect();
    let text = if scene.expected == "rolled-back" {
        format!("{}: rolled-back on the first host: its check answers 503; others untouched", scene.what)
    } else {
        format!(
            "{}: {} on {} hosts, all new connections {slowest:.0} ms after a check",
            scene.what, scene.expected, scene.reaches
        )
    };
    tell(scene.verb, &text, took);
    if !loads.is_empty() {
        let (completed, failed) = count();
        println!("{:<9} meanwhile {} requests, {} failed", "", completed - before.0, failed - before.1);
    }
    let windows = lines.iter().map(|line| line.active(settled_ns)).collect();
    Ok(Deployed { what: scene.what, verdicts, expected: scene.expected, windows })
}

/// Clients of each host, on another machine's side of the network. A body of v3 would count as failed.
fn start_loads(fleet: &Fleet) -> Result<Vec<Load>> {
    let begun = Instant::now();
    let loads = loads(fleet, &["shop v1", "shop v2"])?;
    let count = || loads.iter().map(Load::completed).sum::<u64>();
    let (counted, since) = (count(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let rate = (count() - counted) as f64 / since.elapsed().as_secs_f64();
    ensure!(loads.iter().all(|load| load.failed() == 0), "requests fail before anything is deployed");
    let text =
        format!("clients of all hosts, half keep their connection, half open new ones: {rate:.0} requests/s");
    tell("load", &text, begun.elapsed());
    Ok(loads)
}

fn how_to_reach(fleet: &Fleet) -> String {
    let leader = fleet.ops.host.leader_pid();
    let address = fleet.hosts[0].address().v4;
    format!(
        "The hosts stay up until `cargo xtask demo --down`:\n\
         \x20 the operator's shell  nsenter -t {leader} -a sh -c 'cd {PROJECT} && exec bash'     then: deployd-ctl status\n\
         \x20 the app               nsenter --net={} curl http://{address}:8080/",
        fleet.client().as_path().display()
    )
}
