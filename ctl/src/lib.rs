//! The command line that drives agents: those of a fleet over TLS, or that of its own host (`--local`).
//!
//! | by subject | modules |
//! |---|---|
//! | what was asked | [`cli`] (definitions only), [`foreign`] (verbs of other tools), [`project`] (spec, app, git) |
//! | where, and as whom | [`fleet`] (`fleet.toml`), [`pki`] (identity, CA), [`enrol`] (from a bare host to one of the fleet) |
//! | doing it | [`commands`] (a file a verb), [`rollout`] (many hosts), [`build`] (its line, its folder or tar file), [`artifact`] (folder → manifest, stream), [`needs`] (will it run there), [`init`] (the first spec), [`client`], [`follow`] |
//! | saying it | [`printer`] (streams), [`progress`] (a deployment as it goes), [`failure`], [`hint`], [`table`], [`human`], [`certificates`] |
//! | explaining itself | [`help`] (verbs, examples, keys of the spec, completions) |
//! | ending | [`error`] |
//!
//! Invariants: ctl holds no truth (the agent finishes or undoes its part alone); data goes to stdout and
//! talk to stderr, by [`printer`] only; every end has one exit code.

mod artifact;
mod build;
mod certificates;
mod cli;
mod client;
mod command_stream;
mod commands;
mod enrol;
mod error;
mod failure;
mod fanout;
mod fleet;
mod follow;
mod foreign;
mod help;
mod hint;
mod human;
mod init;
mod needs;
mod pki;
mod printer;
mod progress;
mod project;
mod rollout;
mod table;

use std::ffi::OsString;

use deployd_api::exit::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Cli;
use crate::commands::Context;
use crate::error::CtlError;
use crate::printer::Printer;

/// Runs one command line to its exit code: one of ours, or that of a command that ran on a host.
pub fn run(arguments: &[OsString]) -> std::process::ExitCode {
    hint::set_reach(hint::Reach::of(foreign::is_local(arguments)));
    let cli = match help::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error, arguments).into(),
    };
    let printer = Printer::new(&cli.global);
    if let Some(outcome) = help::answer(&cli.command, &cli.global, &printer) {
        return outcome.map_or_else(|error| printer.end_with(&error), |()| ExitCode::Ok).into();
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CtlError::Runtime)
        .and_then(|runtime| {
            let outcome = runtime.block_on(run_until_interrupted(&cli, &printer));
            // A reader that hangs in a file must not keep a command that has ended.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(code) => code.into(),
        Err(error) => printer.end_with(&error).into(),
    }
}

/// Help and version go to stdout with exit 0; everything else is a usage error.
fn refuse_arguments(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if let Some(answer) = foreign::answer(error, arguments) {
        eprintln!("{answer}");
        return ExitCode::Usage;
    }
    // Nothing is left to do when even this cannot be written.
    let _ = error.print();
    if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok }
}

/// The command, or the end by Ctrl-C (or the SIGTERM of a cancelled job): hosts go on without us. What is held
/// on hosts is given back on every way out; a second signal does not wait for that.
async fn run_until_interrupted(cli: &Cli, printer: &Printer) -> Result<u8, CtlError> {
    let context = Context::new(&cli.global, printer);
    let mut stop = Stop::new()?;
    let outcome = tokio::select! {
        outcome = commands::run(&context, &cli.command) => {
            outcome.map(|code| context.status.get().unwrap_or(code as u8))
        }
        () = stop.asked() => Err(context.interrupted()),
    };
    tokio::select! {
        () = context.release() => {}
        () = stop.asked() => {}
    }
    outcome
}

/// The signals that end a command.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, CtlError> {
        let listen = |kind| signal(kind).map_err(CtlError::Runtime);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Ends with the next of them.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
