//! The command line, as clap definitions and nothing else. What a verb does is in `commands`.

mod exec;
mod hosts;
mod init;
mod pki;
mod rollout;
mod secrets;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use deployd_api::ids::{AppName, Label};
use deployd_api::spec::{Millis, Selector, Strategy, parse_duration};

pub(crate) use exec::{Console, Exec, Place, RunOnce};
pub(crate) use hosts::{Hosts, HostsAdd, HostsCommand};
pub(crate) use pki::{Pki, PkiCommand, PkiInit, PkiIssue};
pub(crate) use secrets::{Given, Secrets, SecretsCommand};

pub(crate) use rollout::{Rollout, RolloutCommand};

/// Deploys apps to hosts without losing a connection.
#[derive(Debug, Parser)]
#[command(name = "deployd-ctl", version, disable_help_subcommand = true)]
#[command(after_help = "A fleet is driven from anywhere; --local drives the host that this runs on.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of every command")]
pub(crate) struct Global {
    /// Talk to the agent of this host
    #[arg(long, global = true)]
    pub(crate) local: bool,
    /// Only these hosts: a host, a group, or a label as key=value
    #[arg(short = 'H', long = "host", global = true, value_name = "SELECTOR", conflicts_with = "local")]
    pub(crate) only: Vec<Selector>,
    /// The hosts [default: fleet.toml, beside the spec or above]
    #[arg(long, global = true, value_name = "FILE", env = "DEPLOYD_FLEET", hide_env = true)]
    pub(crate) fleet: Option<PathBuf>,
    /// Who you are [default: identity.pem of DEPLOYD_HOME]
    #[arg(long, global = true, value_name = "FILE", env = "DEPLOYD_IDENTITY", hide_env_values = true)]
    #[arg(hide_env = true)]
    pub(crate) identity: Option<IdentityArg>,
    /// The app [default: the one of the spec]
    #[arg(short, long, global = true, value_name = "APP")]
    pub(crate) app: Option<AppName>,
    /// The spec [default: deployd.toml]
    #[arg(short, long, global = true, value_name = "FILE", env = "DEPLOYD_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Only what is true at the end, and what undoes it
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Every step
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Path of the agent's socket.
    #[arg(long, global = true, hide = true, env = "DEPLOYD_SOCKET", hide_env = true)]
    #[arg(default_value = deployd_api::LOCAL_SOCKET)]
    pub(crate) socket: PathBuf,
    /// Hosts by the sockets of their agents, as through a tunnel.
    #[arg(long, global = true, hide = true, env = "DEPLOYD_SOCKETS", hide_env = true)]
    #[arg(value_name = "HOST=PATH", value_delimiter = ',')]
    pub(crate) sockets: Vec<HostSocket>,
    /// Name of this host in what is printed.
    #[arg(long, global = true, hide = true, env = "DEPLOYD_HOST_NAME", hide_env = true)]
    pub(crate) host_name: Option<String>,
    /// How a deployment is shown.
    #[arg(long, global = true, hide = true, value_enum, default_value_t = Progress::Auto)]
    pub(crate) progress: Progress,
}

/// A path, or a whole identity as one line: the latter has a key in it, and is not printed.
#[derive(Clone)]
pub(crate) struct IdentityArg(pub(crate) String);

impl std::str::FromStr for IdentityArg {
    type Err = std::convert::Infallible;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Debug for IdentityArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityArg")
    }
}

/// A host and where its agent listens.
#[derive(Debug, Clone)]
pub(crate) struct HostSocket {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl std::str::FromStr for HostSocket {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, path) = s.split_once('=').ok_or("write HOST=PATH")?;
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // For people.
    Text,
    // JSON on stdout.
    Json,
}

impl Global {
    /// The spec's file.
    pub(crate) fn spec(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from("deployd.toml"))
    }
}

/// How a deployment is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    // Live on a terminal, lines elsewhere.
    Auto,
    // A table that is drawn again.
    Live,
    // One line a finished step.
    Lines,
}

pub(crate) use init::Init;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a deployd.toml for the project in this folder
    Init(Init),
    /// Make a folder the live release
    Push(Push),
    /// Show what a push would do, and change nothing
    Plan(Plan),
    /// Show what runs
    Status(Status),
    /// List releases, or clear a bad one
    Releases(Releases),
    /// Make an earlier release live again
    Rollback(Rollback),
    /// Show what the app wrote
    Logs(Logs),
    /// Start a stopped app
    Start,
    /// Stop serving
    Stop,
    /// Replace the running processes by new ones of the same release
    Restart,
    /// Undo the deployment that runs now
    Abort,
    /// Show how a push over many hosts stands, go on with it, or take it back
    Rollout(Rollout),
    /// Take the app off the host
    Remove(Remove),
    /// Look for what is wrong with the host
    Doctor,
    /// Add, list, check and remove the hosts of the fleet
    Hosts(Hosts),
    /// Set, remove and list the app's secrets
    Secrets(Secrets),
    /// Run a command, or a shell, beside the live release
    Exec(Exec),
    /// Open the console of the release, or a shell
    Console(Console),
    /// Run a command that goes on when this ends
    Run(RunOnce),
    /// Identities: who may do what, and the CA of the fleet
    Pki(Pki),
    /// Explain a verb, all of them, or the keys of the spec
    Help(Help),
    /// Print completions for a shell
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Every app of the hosts, also in the folder of one
    #[arg(long, conflicts_with = "app")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Help {
    /// What to explain
    #[arg(value_name = "VERB|all|spec")]
    pub(crate) topic: Vec<String>,
    /// Every verb, in groups
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// What both push and plan take.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The files of the release, a folder or a tar file [default: artifact of `[build]`, or .]
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Instead of the strategy of the spec
    #[arg(long, value_parser = strategy, value_name = "rolling|immediate")]
    pub(crate) strategy: Option<Strategy>,
    /// Do not run the build of the spec: take what it made before
    #[arg(long)]
    pub(crate) no_build: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    #[command(flatten)]
    pub(crate) what: Plan,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Do not ask before the first push of an app
    #[arg(long)]
    pub(crate) yes: bool,
    /// Leave out hosts that do not answer (exit 6); they catch up with the next push
    #[arg(long)]
    pub(crate) skip_offline: bool,
    /// Only if the hosts are still as `plan` found them
    #[arg(long, value_name = "TOKEN")]
    pub(crate) plan: Option<String>,
}

/// How long a deployment is followed.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Until it has all traffic, or until it was watched as well
    #[arg(long = "wait", value_enum, default_value_t = WaitFor::Live)]
    pub(crate) until: WaitFor,
    /// Do not wait at all
    #[arg(long, conflicts_with = "until")]
    pub(crate) detach: bool,
    /// How long to wait for another deployment of the app to end
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    pub(crate) lease_timeout: Millis,
}

/// When a command has what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    // All new connections go to the release, and it stayed healthy.
    Live,
    // It was watched and committed; the old release may still drain.
    Committed,
}

#[derive(Debug, Args)]
pub(crate) struct Releases {
    #[command(subcommand)]
    pub(crate) command: Option<ReleasesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleasesCommand {
    /// Allow a release again that undid itself
    Clear {
        /// Which
        #[arg(value_name = "vN")]
        label: Label,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Which [default: the one that the live release replaced]
    #[arg(value_name = "vN")]
    pub(crate) to: Option<Label>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as lines come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is younger: 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) since: Option<Millis>,
    /// Only this level and worse
    #[arg(long, value_enum)]
    pub(crate) level: Option<Level>,
    /// Only this one: web@1, web, or web1/web@1 of one host
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// Only this release
    #[arg(long, value_name = "vN")]
    pub(crate) release: Option<Label>,
    /// At most so many lines of the past [default: 100; with --since all]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) lines: Option<u32>,
}

/// Levels by name; the numbers are those of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub(crate) enum Level {
    // 3 and below.
    Error = 3,
    // 4.
    Warn = 4,
    // 6.
    Info = 6,
    // 7.
    Debug = 7,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "rolling" => Ok(Strategy::Rolling),
        "immediate" => Ok(Strategy::Immediate),
        "bluegreen" | "canary" | "hot" => Err(format!("`{text}` is not built yet in this version")),
        _ => Err("write rolling or immediate".to_owned()),
    }
}
