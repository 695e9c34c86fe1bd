//! What a recording says: totals, latencies in and outside windows, and per window whether there was load at all.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sample::{Kind, NO_RELEASE, Recording, Sample};

/// The grain at which "there was load" is judged.
const SLOT_NS: u64 = 10_000_000;

/// A span of `CLOCK_MONOTONIC`, for example one swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// First nanosecond.
    pub start_ns: u64,
    /// Last nanosecond.
    pub end_ns: u64,
}

impl Window {
    fn holds(&self, time: u64) -> bool {
        (self.start_ns..=self.end_ns).contains(&time)
    }
}

/// The time in which a release may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reign {
    /// The first line of its bodies.
    pub line: String,
    /// From when it may.
    pub from_ns: u64,
    /// Until when.
    pub until_ns: u64,
}

/// Latencies of right answers, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50_us: u32,
    /// 99 %.
    pub p99_us: u32,
    /// 99.9 %.
    pub p999_us: u32,
    /// The longest.
    pub max_us: u32,
}

impl Latency {
    fn of(mut values: Vec<u32>) -> Self {
        values.sort_unstable();
        let at = |per_mille: usize| {
            let rank = (values.len() * per_mille).div_ceil(1000);
            values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { p50_us: at(500), p99_us: at(990), p999_us: at(999), max_us: at(1000) }
    }
}

/// A part of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// All requests.
    pub requests: u64,
    /// All that are not `Ok`.
    pub failed: u64,
    /// Sent again once, whatever came of it.
    pub retried: u64,
    /// How many of each kind; kinds that did not happen are absent.
    pub kinds: BTreeMap<Kind, u64>,
    /// Latencies of the `Ok` ones.
    pub latency: Latency,
}

impl Part {
    fn of<'a>(samples: impl Iterator<Item = &'a Sample>) -> Self {
        let mut part = Self::default();
        let mut latencies = Vec::new();
        for sample in samples {
            part.requests += 1;
            part.retried += u64::from(sample.retried);
            *part.kinds.entry(sample.kind).or_default() += 1;
            if sample.kind == Kind::Ok {
                latencies.push(sample.latency_us);
            } else {
                part.failed += 1;
            }
        }
        part.latency = Latency::of(latencies);
        part
    }
}

/// One window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WindowReport {
    /// Which.
    pub window: Window,
    /// Requests in flight at any moment of it.
    pub requests: u64,
    /// Failed ones of them.
    pub failed: u64,
    /// Part of its 10 ms slots in which a request was started or ended: 1 is load all the time.
    pub load_present: f64,
    /// Longest time in it without a right answer, in milliseconds.
    pub longest_silence_ms: f64,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The whole run.
    pub total: Part,
    /// Requests in flight at any moment of any window.
    pub inside: Part,
    /// The others.
    pub outside: Part,
    /// Each window, in the order of time.
    pub windows: Vec<WindowReport>,
    /// Right answers per release.
    pub releases: BTreeMap<String, u64>,
}

impl Recording {
    /// Analyses the run; `windows` must not overlap.
    pub fn report(&self, windows: &[Window]) -> Report {
        let mut ordered = windows.to_vec();
        ordered.sort_unstable_by_key(|window| window.start_ns);
        let mut meters: Vec<Meter> = ordered.iter().copied().map(Meter::new).collect();
        let mut inside = vec![false; self.samples.len()];
        for (sample, inside) in self.samples.iter().zip(&mut inside) {
            let first = ordered.partition_point(|window| window.end_ns < sample.start_ns);
            for meter in
                meters[first..].iter_mut().take_while(|meter| meter.window.start_ns <= sample.end_ns())
            {
                meter.take(sample);
                *inside = true;
            }
        }
        let part = |wanted: bool| {
            let chosen = self.samples.iter().zip(&inside).filter(move |(_, inside)| **inside == wanted);
            Part::of(chosen.map(|(sample, _)| sample))
        };
        Report {
            total: Part::of(self.samples.iter()),
            inside: part(true),
            outside: part(false),
            windows: meters.into_iter().map(Meter::into_report).collect(),
            releases: self.count_releases(),
        }
    }

    /// Answers of a release outside its time, and of releases that have none: right bodies from the wrong process.
    /// A request counts as in time when any moment of it is.
    pub fn out_of_time(&self, reigns: &[Reign]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.release != NO_RELEASE) {
            let line = self.releases.get(usize::from(sample.release)).map_or("?", String::as_str);
            let in_time = reigns.iter().any(|reign| {
                reign.line == line && sample.end_ns() >= reign.from_ns && sample.start_ns <= reign.until_ns
            });
            if !in_time {
                *counts.entry(line.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    fn count_releases(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.release != NO_RELEASE) {
            if let Some(name) = self.releases.get(usize::from(sample.release)) {
                *counts.entry(name.clone()).or_default() += 1;
            }
        }
        counts
    }
}

/// Measures one window; samples come in the order of their ends.
struct Meter {
    window: Window,
    requests: u64,
    failed: u64,
    slots: Vec<bool>,
    last_answer_ns: u64,
    silence_ns: u64,
}

impl Meter {
    fn new(window: Window) -> Self {
        let length = window.end_ns.saturating_sub(window.start_ns);
        let slots = vec![false; (length / SLOT_NS) as usize + 1];
        Self { window, requests: 0, failed: 0, slots, last_answer_ns: window.start_ns, silence_ns: 0 }
    }

    fn take(&mut self, sample: &Sample) {
        self.requests += 1;
        self.failed += u64::from(sample.kind != Kind::Ok);
        for time in [sample.start_ns, sample.end_ns()] {
            if self.window.holds(time) {
                self.slots[((time - self.window.start_ns) / SLOT_NS) as usize] = true;
            }
        }
        if sample.kind == Kind::Ok && self.window.holds(sample.end_ns()) {
            self.silence_ns = self.silence_ns.max(sample.end_ns().saturating_sub(self.last_answer_ns));
            self.last_answer_ns = sample.end_ns();
        }
    }

    fn into_report(self) -> WindowReport {
        let silence = self.silence_ns.max(self.window.end_ns.saturating_sub(self.last_answer_ns));
        let present = self.slots.iter().filter(|slot| **slot).count();
        WindowReport {
            window: self.window,
            requests: self.requests,
            failed: self.failed,
            load_present: present as f64 / self.slots.len() as f64,
            longest_silence_ms: silence as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sample(start_ms: u64, latency_ms: u32, kind: Kind) -> Sample {
        let release = if kind == Kind::Ok { 0 } else { NO_RELEASE };
        Sample {
            start_ns: start_ms * MS,
            latency_us: latency_ms * 1000,
            kind,
            release,
            reused: false,
            retried: false,
        }
    }

    #[test]
    fn splits_a_run_into_inside_and_outside() {
        let samples = vec![
            sample(0, 5, Kind::Ok),
            sample(98, 4, Kind::Ok),
            sample(120, 5, Kind::Reset),
            sample(150, 10, Kind::Ok),
            sample(300, 1, Kind::Ok),
        ];
        let recording = Recording { releases: vec!["shop v1".to_owned()], samples };
        let report = recording.report(&[Window { start_ns: 100 * MS, end_ns: 199 * MS }]);
        assert_eq!((report.total.requests, report.inside.requests, report.outside.requests), (5, 3, 2));
        assert_eq!((report.inside.failed, report.inside.kinds[&Kind::Reset]), (1, 1));
        let window = &report.windows[0];
        // Slots with a start or an end: 100-109, 120-129, 150-159, 160-169 of ten.
        assert!((window.load_present - 0.4).abs() < 1e-9, "{window:?}");
        // Answers at 102 and 160.
        assert!((window.longest_silence_ms - 58.0).abs() < 1e-9, "{window:?}");
        assert_eq!(report.releases["shop v1"], 4);
    }

    #[test]
    fn an_answer_out_of_its_release_s_time_is_found() {
        let of = |release: u8, start_ms: u64| Sample { release, ..sample(start_ms, 2, Kind::Ok) };
        let samples = vec![of(0, 10), of(1, 99), of(0, 120), of(0, 131), of(1, 50), of(2, 60)];
        let releases = ["shop v1", "shop v2", "shop v3"].map(str::to_owned).to_vec();
        let reign = |line: &str, from: u64, until: u64| Reign {
            line: line.to_owned(),
            from_ns: from * MS,
            until_ns: until * MS,
        };
        let reigns = [reign("shop v1", 0, 130), reign("shop v2", 100, 1000)];
        // v1 after its end, v2 before its push began, v3 at any time.
        let wrong = Recording { releases, samples }.out_of_time(&reigns);
        let wanted = [("shop v1", 1), ("shop v2", 1), ("shop v3", 1)];
        assert_eq!(wrong, wanted.map(|(line, count)| (line.to_owned(), count)).into());
    }

    #[test]
    fn a_window_without_load_says_so() {
        let report = Recording::default().report(&[Window { start_ns: 0, end_ns: 50 * MS }]);
        assert!(report.windows[0].load_present.abs() < 1e-9);
        assert!((report.windows[0].longest_silence_ms - 50.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latency = Latency::of((1..=1000).collect());
        assert_eq!((latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us), (500, 990, 999, 1000));
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
