//! `bench push`: bytes and time until a release is on a host, against `rsync -az` and `tar | zstd | ssh tar -x` with the
//! same files, from the same machine, to a host of the same kind.
//!
//! Ours is timed as a person sees it, `deployd-ctl push --wait live` of an app that starts at once, so its seconds have
//! planning, fsync, a start, a check and the switch in them; peers copy only. Bytes are counted at the host's own
//! interface, in both directions.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use deployd_tests::fleet::{Fleet, PROJECT, Project, received, sent};
use deployd_tests::image::Suite;
use deployd_tests::machine::Host;
use deployd_tests::pki::Authority;
use deployd_tests::shop::Spec;
use serde_json::{Value, json};

use super::Size;
use super::rig::median;

/// What stands for an artifact of a few dozen megabytes: libraries of the operator's own system, which are as easy to
/// compress as anybody's.
const SOURCE: &str = "/usr/lib/erlang/lib /usr/lib/elixir/lib";
const DIST: &str = "/root/shop/dist";
const PEER: &str = "/srv/peer";
/// Where ssh multiplexes nothing: each run is a new connection, as in CI.
const SSH: &str = "ssh -o ControlMaster=no -o BatchMode=yes";

/// What is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// The host has nothing.
    First,
    /// The host has all of it.
    Unchanged,
    /// One small file differs.
    Small,
}

impl Case {
    const ALL: [Self; 3] = [Self::First, Self::Unchanged, Self::Small];

    fn key(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unchanged => "unchanged",
            Self::Small => "small",
        }
    }
}

/// How files get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Ours,
    Rsync,
    Tar,
}

/// One run.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    bytes: f64,
    seconds: f64,
    client_cpu: f64,
    agent_cpu: f64,
}

type Runs = BTreeMap<Way, Vec<Run>>;

pub(super) fn run(size: Size) -> Result<Value> {
    let runs = size.pick(3, 15);
    let authority = Authority::new("the bench's")?;
    // One host for ours, one for the peers, as alike as can be.
    let fleet = Fleet::by_hand(&[Suite::Bookworm, Suite::Bookworm], &authority)?;
    let field = Field { fleet };
    field.prepare()?;
    let mut cases = serde_json::Map::new();
    for case in Case::ALL {
        let mut measured = Runs::new();
        for number in 1..=runs {
            field.play(case, number, &mut measured)?;
        }
        cases.insert(case.key().to_owned(), told(&measured));
    }
    cases.insert("rebuilt".to_owned(), Value::Null);
    let result = json!({
        "cases": cases,
        "packages": Value::Null,
        "median_bytes_ratio": Value::Null,
        "artifact_mb": field.megabytes()?,
        "artifact_files": field.files()?,
        "runs": runs,
        "systemd": field.ours().ok("systemctl --version | head -1")?,
        "rsync": field.fleet.ops.host.ok("rsync --version | head -1")?,
        "zstd": field.fleet.ops.host.ok("zstd --version")?,
    });
    field.fleet.finish()?;
    Ok(result)
}

/// The operator's machine, our host, and the peers' host.
struct Field {
    fleet: Fleet,
}

impl Field {
    fn ours(&self) -> &Host {
        &self.fleet.hosts[0]
    }

    fn peer(&self) -> &Host {
        &self.fleet.hosts[1]
    }

    fn project() -> Project {
        Project::default()
            .with(|spec: Spec| spec.key("deploy", "min_healthy", "0s").key("deploy", "monitor", "0s"))
    }

    /// The artifact, and an inventory with our host only.
    fn prepare(&self) -> Result<()> {
        let ops = &self.fleet.ops.host;
        Self::project().write(&self.fleet, "0")?;
        ops.ok(&format!("mkdir -p {DIST}/lib && cp -rL {SOURCE} {DIST}/lib/ 2>/dev/null; du -sm {DIST}"))?;
        let text = format!("[hosts.web1]\naddress = \"{}\"\ngroups = [\"web\"]\n", self.ours().address().v4);
        ops.write_file(&format!("{PROJECT}/fleet.toml"), text, 0o644)
    }

    fn megabytes(&self) -> Result<u64> {
        let line = self.fleet.ops.host.ok(&format!("du -sm --apparent-size {DIST}"))?;
        Ok(line.split_whitespace().next().context("no size")?.parse()?)
    }

    fn files(&self) -> Result<u64> {
        Ok(self.fleet.ops.host.ok(&format!("find {DIST} -type f | wc -l"))?.trim().parse()?)
    }

    /// One run of each way, in turn, each from the same beginning.
    fn play(&self, case: Case, number: usize, measured: &mut Runs) -> Result<()> {
        let ops = &self.fleet.ops.host;
        match case {
            Case::First => {
                // Ours forgets the app and its files, the peer's folder goes.
                self.fleet.ops.ctl("remove -a shop --yes")?;
                self.peer().ok(&format!("rm -rf {PEER} && mkdir {PEER}"))?;
            }
            Case::Unchanged => {}
            Case::Small => {
                ops.ok(&format!("echo {}-{number} >{DIST}/version", case.key()))?;
            }
        }
        for way in [Way::Ours, Way::Rsync, Way::Tar] {
            if way == Way::Tar && case == Case::First {
                // It has no base: the first time and every other are one.
                self.peer().ok(&format!("rm -rf {PEER} && mkdir {PEER}"))?;
            }
            let run = self.measure(way).with_context(|| format!("{way:?}, {case:?}, run {number}"))?;
            measured.entry(way).or_default().push(run);
            if way != Way::Ours {
                self.require_same(way)?;
            }
        }
        Ok(())
    }

    fn measure(&self, way: Way) -> Result<Run> {
        let (host, line) = match way {
            Way::Ours => (self.ours(), "deployd-ctl push --yes".to_owned()),
            Way::Rsync => (self.peer(), format!("rsync -az --delete -e '{SSH}' {DIST}/ root@web2:{PEER}/")),
            Way::Tar => {
                let far = format!("zstd -dc | tar -x -C {PEER}");
                (self.peer(), format!("tar -c -C {DIST} . | zstd -q -T0 | {SSH} root@web2 '{far}'"))
            }
        };
        let (rx, tx) = (received(host)?, sent(host)?);
        let agent = if way == Way::Ours { agent_cpu(host)? } else { 0.0 };
        // The shell's own `times` has its children in its second line.
        let timed = format!(
            "set -o pipefail; {line} >/run/bench.out 2>&1 || {{ cat /run/bench.out; exit 1; }}; times"
        );
        let begun = Instant::now();
        let called = self.fleet.ops.run(&timed)?.expect(0)?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = received(host)? - rx + sent(host)? - tx;
        let agent_cpu = if way == Way::Ours { agent_cpu(host)? - agent } else { 0.0 };
        let client_cpu = children_cpu(&called.stdout).context("no times")?;
        Ok(Run { bytes: bytes as f64, seconds, client_cpu, agent_cpu })
    }

    /// A peer that copied something else is no peer.
    fn require_same(&self, way: Way) -> Result<()> {
        let sum = "find . -type f -print0 | sort -z | xargs -0 cat | sha256sum";
        let near = self.fleet.ops.host.ok(&format!("cd {DIST} && {sum}"))?;
        let far = self.peer().ok(&format!("cd {PEER} && {sum}"))?;
        ensure!(near == far, "{way:?} copied something else");
        Ok(())
    }
}

/// The medians of a case.
fn told(measured: &Runs) -> Value {
    let of = |way: Way, value: fn(&Run) -> f64| -> Option<f64> {
        median(&measured.get(&way)?.iter().map(value).collect::<Vec<_>>())
    };
    json!({
        "ours_bytes": of(Way::Ours, |run| run.bytes),
        "rsync_bytes": of(Way::Rsync, |run| run.bytes),
        "tarzstd_bytes": of(Way::Tar, |run| run.bytes),
        "ours_s": of(Way::Ours, |run| run.seconds),
        "rsync_s": of(Way::Rsync, |run| run.seconds),
        "tarzstd_s": of(Way::Tar, |run| run.seconds),
        "ctl_cpu_s": of(Way::Ours, |run| run.client_cpu),
        "rsync_cpu_s": of(Way::Rsync, |run| run.client_cpu),
        "tarzstd_cpu_s": of(Way::Tar, |run| run.client_cpu),
        "agent_cpu_s": of(Way::Ours, |run| run.agent_cpu),
        "runs": measured.values().map(Vec::len).min(),
    })
}

/// Seconds of CPU that the agent has used since it started; its cgroup counts them.
fn agent_cpu(host: &Host) -> Result<f64> {
    let stat = host.ok("cat /sys/fs/cgroup/system.slice/deployd.service/cpu.stat")?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(used.context("no usage_usec in cpu.stat")?.parse::<f64>()? / 1e6)
}

/// User and system seconds of the children, from the second line of bash's `times`: `0m1.234s 0m0.056s`.
fn children_cpu(text: &str) -> Option<f64> {
    let line = text.lines().filter(|line| line.contains('m') && line.ends_with('s')).nth(1)?;
    let seconds = |word: &str| -> Option<f64> {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    line.split_whitespace().map(seconds).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_children_are_read() {
        let told = "0m0.001s 0m0.002s\n1m2.500s 0m0.250s\n";
        assert_eq!(children_cpu(told), Some(62.75));
        assert_eq!(children_cpu("nothing"), None);
    }
}
