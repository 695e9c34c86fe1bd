//! `cargo xtask test`: every check, cheapest first; nextest last, so that its summary is the last thing printed.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};
use deployd_tests::deb::FOLDER_VARIABLE;
use deployd_tests::effort::{FULL_VARIABLE, SEED_VARIABLE, fresh_seed};
use deployd_tests::package;

use crate::core_purity;
use crate::machine::{self, Purpose};
use crate::run::{cargo, run};

/// Test binaries with this prefix boot hosts.
const HOST_SUITES: &str = "binary(/^host_/)";
const OTHER_TESTS: &str = "not binary(/^host_/)";

/// Options of the checks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Everything that needs no host
    #[arg(long, conflicts_with = "full")]
    fast: bool,
    /// Whole matrices instead of samples
    #[arg(long)]
    full: bool,
    /// Only tests whose name contains this; skips all other checks
    filter: Option<String>,
}

/// Runs the checks.
pub(crate) fn test(args: &Args) -> Result<()> {
    let purpose = if args.fast { Purpose::Checks } else { Purpose::Hosts };
    if !args.fast && args.filter.is_none() {
        // A machine that cannot boot hosts is found out at once, not after all other checks.
        machine::check_hosts_possible()?;
    }
    machine::ensure_nextest()?;
    let Some(filter) = &args.filter else {
        machine::ensure_programs(purpose)?;
        static_checks()?;
        nextest(args, OTHER_TESTS, "unit tests", None)?;
        return if args.fast { Ok(()) } else { hosts(args) };
    };
    machine::ensure_programs(Purpose::Checks)?;
    let here = any_match(OTHER_TESTS, filter)?;
    let on_hosts = !args.fast && any_match(HOST_SUITES, filter)?;
    anyhow::ensure!(here || on_hosts, "no test has `{filter}` in its name: `cargo nextest list` shows all");
    if on_hosts {
        machine::check_hosts_possible()?;
        machine::ensure_programs(purpose)?;
    }
    if here {
        nextest(args, OTHER_TESTS, "unit tests", None)?;
    }
    if on_hosts { hosts(args) } else { Ok(()) }
}

fn hosts(args: &Args) -> Result<()> {
    eprintln!("==> packages");
    let packages = package::build_packages()?;
    let folder = packages.agent.parent().context("a package is in a folder")?.to_owned();
    eprintln!("==> Debian roots");
    machine::prepare_hosts()?;
    nextest(args, HOST_SUITES, "suites on real hosts", Some(&folder))
}

/// Whether a test of `set` has `filter` in its name. What nextest lists, it would run.
fn any_match(set: &str, filter: &str) -> Result<bool> {
    let mut command = cargo("nextest list --workspace --locked --cargo-quiet --message-format oneline");
    command.args(["--filterset", set, filter]).stderr(std::process::Stdio::inherit());
    let output = command.output().context("failed to run cargo nextest")?;
    anyhow::ensure!(output.status.success(), "the tests could not be listed ({})", output.status);
    Ok(!output.stdout.trim_ascii().is_empty())
}

fn static_checks() -> Result<()> {
    run("format", &mut cargo("fmt --all --check"))?;
    run("clippy", &mut cargo("clippy --workspace --all-targets --locked --quiet -- -D warnings"))?;
    eprintln!("==> core is pure");
    core_purity::check()?;
    crate::docs::docs(true)?;
    // Private items are documented too, so links to them lead somewhere.
    let mut doc = cargo("doc --workspace --no-deps --document-private-items --locked --quiet");
    run("documentation", doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))?;
    run("examples in the documentation", &mut cargo("test --workspace --doc --locked --quiet"))
}

/// One nextest run over the tests of `set`. A run in which no test matches is an error.
fn nextest(args: &Args, set: &str, what: &str, packages: Option<&std::path::Path>) -> Result<()> {
    let mut command: Command = cargo("nextest run --workspace --locked --cargo-quiet");
    command.args(["--no-tests=fail", "--filterset", set]);
    if let Some(filter) = &args.filter {
        command.arg(filter);
    }
    if args.full {
        command.args(["--profile", "full"]).env(FULL_VARIABLE, "1");
    }
    if let Some(folder) = packages {
        command.env(FOLDER_VARIABLE, folder);
    }
    let seed = env::var(SEED_VARIABLE).unwrap_or_else(|_| fresh_seed().to_string());
    eprintln!("    {SEED_VARIABLE}={seed}");
    // A backtrace into the test runner says less than the chain of errors, and hides it.
    // Property tests go by the same seed.
    command.env("PROPTEST_RNG_SEED", &seed).env(SEED_VARIABLE, seed).env("RUST_LIB_BACKTRACE", "0");
    // Nothing is printed after a success: the summary stays last.
    eprintln!("==> {what}");
    let status = command.status().context("failed to run cargo nextest")?;
    anyhow::ensure!(status.success(), "{what} failed ({status})");
    Ok(())
}
