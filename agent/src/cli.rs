//! The command line of the agent: run, check-config, enroll, journal.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use deployd_api::ids::{AppName, DeploymentId, HostName};

use crate::boot;
use crate::config::{CONFIG_FILE, Settings};
use crate::driver::clock;
use crate::store::Store;
use crate::tls::{TLS_DIR, TlsError, enroll};
use crate::view::story;

/// The root agent of deployd: stages releases and swaps them without losing a connection.
#[derive(Debug, Parser)]
#[command(name = "deployd", version, arg_required_else_help = false)]
struct Cli {
    /// The config file, which must be there; additions are read from the folder `agent.d` beside it
    /// [default: /etc/deployd/agent.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (what the unit does; the default).
    Run,
    /// Check the config and print what is in force, with the source of each value.
    CheckConfig {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make this host one of a fleet: its key and certificate, for callers over the network.
    Enroll {
        #[command(subcommand)]
        command: EnrollCommand,
    },
    /// Read the journal of deployments.
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
}

#[derive(Debug, Subcommand)]
enum EnrollCommand {
    /// Print the request for a certificate that the fleet's CA signs. The key is made here, once, and stays here.
    Request {
        /// The host's name in the fleet: web1.
        name: HostName,
    },
    /// Take in the answer from standard input: the host's certificate, the CA's, and the list of revoked ones (PEM).
    Install,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Tell one deployment as a story: the last of an app, or one by its id.
    Show {
        /// An app, or a deployment's id.
        which: String,
        /// The records as they stand, one JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

/// Parses and runs.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = config_file(cli.config).and_then(|config| match cli.command {
        None | Some(Command::Run) => boot::run(&config),
        Some(Command::CheckConfig { json }) => check_config(&config, json),
        Some(Command::Enroll { command: EnrollCommand::Request { name } }) => enroll_request(&name),
        Some(Command::Enroll { command: EnrollCommand::Install }) => enroll_install(),
        Some(Command::Journal { command: JournalCommand::Show { which, json } }) => {
            show_journal(&config, &which, json)
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Without a name a file that is missing is an empty one; who names one means one that is there.
fn config_file(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let Some(path) = named else { return Ok(PathBuf::from(CONFIG_FILE)) };
    let found = std::fs::metadata(&path).with_context(|| format!("--config {}", path.display()))?;
    anyhow::ensure!(found.is_file(), "--config {}: not a file", path.display());
    Ok(path)
}

fn check_config(config: &std::path::Path, json: bool) -> anyhow::Result<()> {
    let effective = Settings::load(config)?;
    if json {
        println!("{:#}", effective.to_json());
    } else {
        print!("{effective}");
    }
    Ok(())
}

fn enroll_request(name: &HostName) -> anyhow::Result<()> {
    print!("{}", enroll::request(Path::new(TLS_DIR), name).map_err(explained)?);
    Ok(())
}

fn enroll_install() -> anyhow::Result<()> {
    let mut bundle = String::new();
    let mut input = std::io::stdin().lock().take(enroll::BUNDLE_MAX);
    input.read_to_string(&mut bundle).context("failed to read the answer from standard input")?;
    let info = enroll::install(Path::new(TLS_DIR), &bundle, clock::now()).map_err(explained)?;
    let ends = std::time::UNIX_EPOCH + Duration::from_millis(info.not_after.0);
    println!("certificate {} is installed, valid until {}", info.serial, httpdate::fmt_http_date(ends));
    println!("next: systemctl restart deployd.socket deployd.service");
    Ok(())
}

fn explained(e: TlsError) -> anyhow::Error {
    anyhow::anyhow!("{}\nnext: {}", e.told(), e.next())
}

fn show_journal(config: &std::path::Path, which: &str, json: bool) -> anyhow::Result<()> {
    let settings = Settings::load(config)?.settings;
    let store = Store::open_read_only(&settings.state_dir).context("failed to open the journal")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let app = which.parse::<AppName>().ok();
        let mut row = match &app {
            Some(app) => store.recent(app, 1).await?.into_iter().next(),
            None => None,
        };
        if row.is_none()
            && let Ok(id) = which.parse::<DeploymentId>()
        {
            row = store.get(&id).await?;
        }
        let row = row.with_context(|| {
            format!("there is no deployment of an app or with an id `{which}`; deployd-ctl --local status --all lists the apps")
        })?;
        let rows = store.load(&row.new.id).await?;
        if json {
            for row in &rows {
                println!("{}", row.record);
            }
        } else {
            let story = story::tell(&row, &rows).map_err(|e| anyhow::anyhow!("{e}"))?;
            print!("{story}");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_is_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        assert_eq!(config_file(None).unwrap(), PathBuf::from(CONFIG_FILE));
        let missing = config_file(Some(file.clone())).unwrap_err();
        assert!(format!("{missing:#}").contains("agent.toml: No such file"), "{missing:#}");
        assert!(config_file(Some(dir.path().to_owned())).is_err());
        crate::store::atomic::write(&file, b"", 0o644).unwrap();
        assert_eq!(config_file(Some(file.clone())).unwrap(), file);
    }
}
