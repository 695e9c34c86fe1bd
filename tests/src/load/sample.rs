//! One request as it went, and a whole run as a compact file (16 bytes a request).

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// How a request ended. Everything but `Ok` is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// A complete, right response in time.
    Ok = 0,
    /// `ECONNREFUSED`, or unreachable.
    Refused = 1,
    /// Reset before any response byte.
    Reset = 2,
    /// Ended in an orderly way before any response byte.
    Closed = 3,
    /// Ended or reset after a response byte.
    Cut = 4,
    /// Not complete within the time limit.
    Timeout = 5,
    /// Status 500 to 599.
    ServerError = 6,
    /// Complete, but less than a whole right body.
    Short = 7,
    /// Complete, but not HTTP as expected, or not the body of an accepted release.
    Foreign = 8,
    /// The request could not be tried from here.
    Local = 9,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::Cut,
        Self::Timeout,
        Self::ServerError,
        Self::Short,
        Self::Foreign,
        Self::Local,
    ];
}

/// Marks a sample without a known release.
pub(super) const NO_RELEASE: u8 = u8::MAX;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was started, `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Until its end, in microseconds.
    pub latency_us: u32,
    /// How it ended.
    pub kind: Kind,
    /// Index into [`Recording::releases`], or 255.
    pub release: u8,
    /// Sent on a connection that had served a request before.
    pub reused: bool,
    /// Sent again once, because the reused connection had ended.
    pub retried: bool,
}

impl Sample {
    /// When it ended.
    pub fn end_ns(&self) -> u64 {
        self.start_ns + u64::from(self.latency_us) * 1000
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.start_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.latency_us.to_le_bytes());
        bytes[12] = self.kind as u8;
        bytes[13] = self.release;
        bytes[14] = u8::from(self.reused) | (u8::from(self.retried) << 1);
        bytes
    }

    fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let (start, rest) = bytes.split_first_chunk::<8>()?;
        let (latency, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            start_ns: u64::from_le_bytes(*start),
            latency_us: u32::from_le_bytes(*latency),
            kind: *Kind::ALL.get(usize::from(rest[0]))?,
            release: rest[1],
            reused: rest[2] & 1 != 0,
            retried: rest[2] & 2 != 0,
        })
    }
}

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// First lines of bodies; samples name them by index.
    pub releases: Vec<String>,
    /// In the order in which they ended.
    pub samples: Vec<Sample>,
}

const MAGIC: &[u8; 8] = b"dpload01";

impl Recording {
    /// Writes the run to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        let mut out = BufWriter::new(file);
        let names = serde_json::to_vec(&self.releases)?;
        out.write_all(MAGIC)?;
        out.write_all(&u32::try_from(names.len())?.to_le_bytes())?;
        out.write_all(&names)?;
        for sample in &self.samples {
            out.write_all(&sample.to_bytes())?;
        }
        out.flush().with_context(|| format!("failed to write {}", path.display()))
    }

    /// Reads a run back.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        let mut bytes = Vec::new();
        BufReader::new(file).read_to_end(&mut bytes)?;
        Self::from_bytes(&bytes).with_context(|| format!("{} is not a load recording", path.display()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let rest = bytes.strip_prefix(MAGIC).context("wrong first bytes")?;
        let (length, rest) = rest.split_first_chunk::<4>().context("ends in its header")?;
        let length = u32::from_le_bytes(*length) as usize;
        if rest.len() < length || !(rest.len() - length).is_multiple_of(16) {
            bail!("ends in the middle of a record");
        }
        let (names, records) = rest.split_at(length);
        let (records, _) = records.as_chunks::<16>();
        let samples = records.iter().map(|bytes| Sample::from_bytes(*bytes)).collect::<Option<_>>();
        Ok(Self { releases: serde_json::from_slice(names)?, samples: samples.context("unknown kind")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_survives_its_file() {
        let samples = Kind::ALL
            .iter()
            .enumerate()
            .map(|(index, kind)| Sample {
                start_ns: 1 << (index + 40),
                latency_us: u32::MAX - index as u32,
                kind: *kind,
                release: if *kind == Kind::Ok { 1 } else { NO_RELEASE },
                reused: index % 2 == 0,
                retried: index % 3 == 0,
            })
            .collect();
        let recording = Recording { releases: vec!["shop v1".to_owned(), "shop v2".to_owned()], samples };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("run");
        recording.write(&path).expect("written");
        assert_eq!(Recording::read(&path).expect("read"), recording);
        let mut bytes = std::fs::read(&path).expect("bytes");
        bytes.pop();
        assert!(Recording::from_bytes(&bytes).is_err(), "a truncated file is refused");
    }
}
