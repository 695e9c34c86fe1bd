//! What the demo ends with: the requests that clients made, in and outside of deployments, and the verdicts.

use anyhow::{Result, ensure};
use deployd_tests::load::{Part, Report};
use serde_json::{Value, json};

use crate::demo::Deployed;

/// Everything that was measured.
pub(crate) struct Outcome {
    /// The deployments in order; the first had no load yet.
    pub(crate) deployed: Vec<Deployed>,
    /// The load, cut by the time in which deployd did something.
    pub(crate) report: Report,
    /// The release that serves at the end.
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
        row("in deployments", &self.report.inside);
        row("outside", &self.report.outside);
        row("all", &self.report.total);
        let served: Vec<String> =
            self.report.releases.iter().map(|(name, count)| format!("{name} {count}")).collect();
        println!("\nanswered  {}", served.join(", "));
        let verdicts: Vec<String> =
            self.deployed.iter().map(|done| format!("{} {}", done.what, done.verdict)).collect();
        println!("verdicts  {}", verdicts.join(", "));
        println!("longest   {:.1} ms without an answer to anyone, in a deployment", self.silence_ms());
        let total = &self.report.total;
        println!(
            "\n{} of {} requests failed over {} swaps and a rollback of a bad release; {} serves.",
            total.failed,
            total.requests,
            self.swaps(),
            self.live
        );
        if total.failed > 0 {
            println!("kinds: {:?}", total.kinds);
        }
    }

    /// How often the traffic moved under load.
    fn swaps(&self) -> usize {
        self.deployed[1..].iter().filter(|done| done.verdict == "committed").count()
    }

    fn silence_ms(&self) -> f64 {
        self.report.windows.iter().map(|window| window.longest_silence_ms).fold(0.0, f64::max)
    }

    /// The last line of `--json`.
    pub(crate) fn json(&self) -> Value {
        let verdicts: Vec<&str> = self.deployed.iter().map(|done| done.verdict.as_str()).collect();
        let ms = |us: u32| f64::from(us) / 1000.0;
        json!({
            "hosts": 1,
            "swaps": self.swaps(),
            "requests": self.report.total.requests,
            "failed": self.report.total.failed,
            "retried": self.report.total.retried,
            "p50_steady_ms": ms(self.report.outside.latency.p50_us),
            "p50_swap_ms": ms(self.report.inside.latency.p50_us),
            "p99_steady_ms": ms(self.report.outside.latency.p99_us),
            "p99_swap_ms": ms(self.report.inside.latency.p99_us),
            "p999_steady_ms": ms(self.report.outside.latency.p999_us),
            "p999_swap_ms": ms(self.report.inside.latency.p999_us),
            "longest_silence_ms": self.silence_ms(),
            "live": self.live,
            "verdicts": verdicts,
        })
    }

    /// Fails unless what was promised is what happened.
    pub(crate) fn verify(&self) -> Result<()> {
        for done in &self.deployed {
            ensure!(done.verdict == done.expected, "{}: {}, not {}", done.what, done.verdict, done.expected);
        }
        ensure!(self.live == "v1", "{} serves at the end", self.live);
        for (release, wanted) in [("shop v1", true), ("shop v2", true), ("shop v3", false)] {
            let answered = self.report.releases.get(release).is_some_and(|count| *count > 0);
            ensure!(answered == wanted, "{release} answered requests: {answered}");
        }
        ensure!(self.report.total.failed == 0, "requests failed: {:?}", self.report.total.kinds);
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
