//! `cargo xtask`: the project's commands. Each is a file; what hosts and packages are is in `deployd-tests`.

mod bench;
mod core_purity;
mod demo;
mod demo_report;
mod docs;
mod machine;
mod run;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All that must pass, cheapest first, suites on real hosts last
    Test(test::Args),
    /// Shows a release replacing another under load, on three real systemd hosts
    Demo(demo::Args),
    /// Runs a benchmark
    Bench(bench::Args),
    /// Builds the release binaries and both Debian packages
    Package,
    /// Writes the generated pages of docs/reference
    Docs {
        /// Only compare: fail when a page is out of date, or does not name what there is
        #[arg(long)]
        check: bool,
    },
    /// Proves that crates/core depends on nothing that does I/O
    CheckCore,
}

fn main() -> ExitCode {
    match carry_out(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<()> {
    match command {
        Command::Test(args) => test::test(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Package => package(),
        Command::Docs { check } => docs::docs(check),
        Command::CheckCore => core_purity::check(),
    }
}

fn package() -> Result<()> {
    machine::ensure_programs(machine::Purpose::Packages)?;
    let packages = deployd_tests::package::build_packages()?;
    println!("{}\n{}", packages.agent.display(), packages.ctl.display());
    Ok(())
}
