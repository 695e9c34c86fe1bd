//! `cargo xtask bench NAME`: a benchmark, its results as JSON, and one page of all of them.
//!
//! Every benchmark runs on real hosts, ours and its peers in turn within one run, and reports medians. It fails
//! when its positive control did not: a figure from a rig that cannot show a loss is worth nothing.

mod agent;
mod datapath;
mod page;
mod peers;
mod push;
mod rig;
mod swap;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use deployd_tests::package::{repository, target_dir};
use serde_json::{Value, json};

use crate::machine;

/// Options of a benchmark.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which benchmark
    #[arg(value_enum, required_unless_present = "report")]
    name: Option<Name>,
    /// The last line is one JSON object
    #[arg(long)]
    json: bool,
    /// About two minutes instead of a full run
    #[arg(long)]
    quick: bool,
    /// Only write the page of all results that are there
    #[arg(long, conflicts_with_all = ["name", "quick"])]
    report: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Requests lost and delayed while a release replaces another, against other ways
    Swap,
    /// Requests per second through a listener of ours, against proxies
    Datapath,
    /// What the agent itself takes: memory, CPU, time
    Agent,
    /// Bytes and time until a release is on a host, against rsync and tar over ssh
    Push,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// About two minutes.
    Quick,
    /// As long as it takes.
    Full,
}

impl Size {
    fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

pub(crate) fn bench(args: &Args) -> Result<()> {
    let folder = target_dir().join("bench");
    let Some(name) = args.name else {
        println!("{}", page::write(&folder)?.display());
        return Ok(());
    };
    machine::check_hosts_possible()?;
    machine::ensure_programs(machine::Purpose::Hosts)?;
    let size = if args.quick { Size::Quick } else { Size::Full };
    let (word, mut result) = match name {
        Name::Swap => ("swap", swap::run(size)?),
        Name::Datapath => ("datapath", datapath::run(size)?),
        Name::Agent => ("agent", agent::run(size)?),
        Name::Push => ("push", push::run(size)?),
    };
    result["bench"] = json!(word);
    result["quick"] = json!(args.quick);
    add_circumstances(&mut result)?;
    let file = keep(&folder, word, &result)?;
    if args.json {
        println!("{result}");
    } else {
        println!("{result:#}\n{}", file.display());
    }
    Ok(())
}

/// What the figures depend on besides the code.
fn add_circumstances(result: &mut Value) -> Result<()> {
    let first_line = |program: &str, words: &[&str]| -> Result<String> {
        let output = Command::new(program).args(words).current_dir(repository()).output();
        let output = output.with_context(|| format!("failed to run {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    let commit = first_line("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    result["commit"] = if commit.is_empty() { Value::Null } else { json!(commit) };
    result["cores"] = json!(std::thread::available_parallelism()?.get());
    result["kernel"] = json!(first_line("uname", &["-r"])?);
    result["load_average"] = json!(fs::read_to_string("/proc/loadavg")?.split(' ').next());
    Ok(())
}

fn keep(folder: &PathBuf, word: &str, result: &Value) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let file = folder.join(format!("{word}.json"));
    fs::write(&file, format!("{result:#}\n"))
        .with_context(|| format!("failed to write {}", file.display()))?;
    Ok(file)
}
