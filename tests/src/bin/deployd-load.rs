//! The load generator as a command: for benchmarks and for a look by hand. Suites use the library.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use deployd_tests::load::{Load, Options, Pattern, Recording, Sources};

/// Applies HTTP load and prints what became of every request, as one JSON object.
#[derive(Debug, Parser)]
#[command(name = "deployd-load")]
struct Args {
    /// Where to: `127.0.0.1:8080`, `[::1]:8080`
    #[arg(required_unless_present = "read")]
    target: Option<SocketAddr>,
    /// How long, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Number of clients
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// How clients use connections
    #[arg(long, value_enum, default_value = "half")]
    pattern: PatternArg,
    /// Pause between an answer and the next request, in milliseconds
    #[arg(long, default_value_t = 0.0)]
    think_ms: f64,
    /// An accepted first line of the body; repeat for several; none: all are
    #[arg(long)]
    accept: Vec<String>,
    /// Exact length of a right body
    #[arg(long)]
    body_len: Option<usize>,
    /// Source addresses in turn (a loopback target gets 127.1.x.y unless this is given)
    #[arg(long)]
    source: Vec<IpAddr>,
    /// Path to request
    #[arg(long, default_value = "/")]
    path: String,
    /// Keep every sample in this file
    #[arg(long)]
    write: Option<PathBuf>,
    /// Only analyse a file made by `--write`
    #[arg(long, conflicts_with = "target")]
    read: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PatternArg {
    Half,
    KeepAlive,
    New,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let recording = match (&args.read, args.target) {
        (Some(file), _) => Recording::read(file)?,
        (None, Some(target)) => apply(&args, target)?,
        (None, None) => anyhow::bail!("no target"),
    };
    if let Some(file) = &args.write {
        recording.write(file)?;
    }
    println!("{}", serde_json::to_string_pretty(&recording.report(&[]))?);
    Ok(())
}

fn apply(args: &Args, target: SocketAddr) -> Result<Recording> {
    let mut options = Options::new(target);
    options.clients = args.clients;
    options.pattern = match args.pattern {
        PatternArg::Half => Pattern::Half,
        PatternArg::KeepAlive => Pattern::KeepAlive,
        PatternArg::New => Pattern::NewConnection,
    };
    options.think = Duration::from_secs_f64(args.think_ms / 1000.0);
    options.accept.clone_from(&args.accept);
    options.body_len = args.body_len;
    options.path.clone_from(&args.path);
    if !args.source.is_empty() {
        options.sources = Sources::Of(args.source.clone());
    }
    let load = Load::start(options)?;
    thread::sleep(Duration::from_secs_f64(args.seconds));
    load.stop()
}
