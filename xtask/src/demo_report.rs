//! What the demo ends with: the requests that clients made of each host, in and outside of deployments, and the
//! verdicts.

use anyhow::{Result, ensure};
use deployd_tests::load::{Latency, Part, Report};
use serde_json::{Value, json};

use crate::demo::Deployed;

/// What the clients of a host saw.
pub(crate) struct Measured {
    /// The host.
    pub(crate) host: String,
    /// The load, cut by the time in which deployd did something there.
    pub(crate) report: Report,
}

/// Everything that was measured.
pub(crate) struct Outcome {
    /// The deployments in order; the first had no load yet.
    pub(crate) deployed: Vec<Deployed>,
    /// One for each host.
    pub(crate) measured: Vec<Measured>,
    /// The release that serves everywhere at the end.
    pub(crate) live: String,
}

impl Outcome {
    /// The table.
    pub(crate) fn print(&self) {
        println!();
        println!(
            "{:<22} {:>10} {:>7} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "REQUESTS", "ALL", "FAILED", "RETRIED", "P50", "P99", "P99.9", "LONGEST"
        );
        for Measured { host, report } in &self.measured {
            row(&format!("{host} in deployments"), &report.inside);
            row(&format!("{host} outside"), &report.outside);
        }
        println!();
        for Measured { host, report } in &self.measured {
            let served: Vec<String> =
                report.releases.iter().map(|(name, count)| format!("{name} {count}")).collect();
            println!("{host} answered  {}", served.join(", "));
        }
        let verdicts: Vec<String> = self
            .deployed
            .iter()
            .map(|done| format!("{} {} on {}", done.what, done.expected, done.verdicts.len()))
            .collect();
        println!("verdicts  {}", verdicts.join(", "));
        println!("longest   {:.1} ms without an answer to anyone, in a deployment", self.silence_ms());
        println!(
            "\n{} of {} requests failed over {} swaps and a rollback of a bad release; {} serves on {} hosts.",
            self.sum(|part| part.failed),
            self.sum(|part| part.requests),
            self.swaps(),
            self.live,
            self.measured.len()
        );
        for Measured { host, report } in self.measured.iter().filter(|one| one.report.total.failed > 0) {
            println!("kinds on {host}: {:?}", report.total.kinds);
        }
    }

    fn sum(&self, of: impl Fn(&Part) -> u64) -> u64 {
        self.measured.iter().map(|one| of(&one.report.total)).sum()
    }

    /// How often the traffic of a host moved under load.
    fn swaps(&self) -> usize {
        let under_load = self.deployed.iter().skip(1);
        under_load.flat_map(|done| &done.verdicts).filter(|verdict| *verdict == "committed").count()
    }

    fn silence_ms(&self) -> f64 {
        let windows = self.measured.iter().flat_map(|one| &one.report.windows);
        windows.map(|window| window.longest_silence_ms).fold(0.0, f64::max)
    }

    /// The worst host's figure: percentiles of several loads cannot be added up.
    fn worst(&self, part: impl Fn(&Report) -> &Part, of: impl Fn(&Latency) -> u32) -> f64 {
        let worst = self.measured.iter().map(|one| of(&part(&one.report).latency)).max();
        f64::from(worst.unwrap_or_default()) / 1000.0
    }

    /// The last line of `--json`. Latencies are those of the worst host.
    pub(crate) fn json(&self) -> Value {
        let verdicts: Vec<&Vec<String>> = self.deployed.iter().map(|done| &done.verdicts).collect();
        json!({
            "hosts": self.measured.len(),
            "swaps": self.swaps(),
            "requests": self.sum(|part| part.requests),
            "failed": self.sum(|part| part.failed),
            "retried": self.sum(|part| part.retried),
            "p50_steady_ms": self.worst(|report| &report.outside, |latency| latency.p50_us),
            "p50_swap_ms": self.worst(|report| &report.inside, |latency| latency.p50_us),
            "p99_steady_ms": self.worst(|report| &report.outside, |latency| latency.p99_us),
            "p99_swap_ms": self.worst(|report| &report.inside, |latency| latency.p99_us),
            "p999_steady_ms": self.worst(|report| &report.outside, |latency| latency.p999_us),
            "p999_swap_ms": self.worst(|report| &report.inside, |latency| latency.p999_us),
            "longest_silence_ms": self.silence_ms(),
            "live": self.live,
            "verdicts": verdicts,
        })
    }

    /// Fails unless what was promised is what happened.
    pub(crate) fn verify(&self) -> Result<()> {
        for done in &self.deployed {
            let right = done.verdicts.iter().all(|verdict| verdict == done.expected);
            ensure!(right, "{}: {:?}, not {}", done.what, done.verdicts, done.expected);
        }
        ensure!(self.live == "v1", "{} serves at the end", self.live);
        for Measured { host, report } in &self.measured {
            for (release, wanted) in [("shop v1", true), ("shop v2", true), ("shop v3", false)] {
                let answered = report.releases.get(release).is_some_and(|count| *count > 0);
                ensure!(answered == wanted, "{release} answered requests on {host}: {answered}");
            }
            ensure!(report.total.failed == 0, "requests failed on {host}: {:?}", report.total.kinds);
        }
        Ok(())
    }
}

fn row(name: &str, part: &Part) {
    let ms = |us: u32| format!("{:.1} ms", f64::from(us) / 1000.0);
    let latency = part.latency;
    println!(
        "{name:<22} {:>10} {:>7} {:>8} {:>9} {:>9} {:>9} {:>9}",
        part.requests,
        part.failed,
        part.retried,
        ms(latency.p50_us),
        ms(latency.p99_us),
        ms(latency.p999_us),
        ms(latency.max_us)
    );
}
