//! Short-lived units: migrations, hooks, checks, users.
//!
//! PID 1 runs the command, so that our death does not cut it. Its output goes to a *file*, not to a pipe
//! of ours, for the same reason; without a file it goes to the journal. The unit stays (`RemainAfterExit=`)
//! until its end was read; one that an agent left which died is dealt with by the next call ([`Leftover`]).
//! Words and environment of a unit are readable by every user of the host: never put a secret there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use zbus::Variant;

use super::job::Ask;
use super::proxy::Property as BusProperty;
use super::unit::{Pending, UnitState};
use super::{JobResult, Systemd, SystemdError};

/// How much of the end of a command's output is read back.
pub const OUTPUT_TAIL_BYTES: u64 = 64 * 1024;
/// How long after SIGTERM a command that timed out is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long PID 1 gets to forget a unit that has ended.
const FORGETS: Duration = Duration::from_millis(50);
/// How much longer than the command's own timeout we wait for PID 1 to say how it ended.
const GRACE: Duration = Duration::from_secs(30);

/// A command to run as a unit of its own.
#[derive(Debug, Clone, Default)]
pub struct TransientSpec {
    /// The command; the first word is an absolute path.
    pub words: Vec<String>,
    /// Who runs it; root when `None`.
    pub user: Option<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// More properties of the service, by their D-Bus names and types.
    pub properties: Vec<Property>,
    /// Bytes for its standard input.
    pub stdin: Option<Vec<u8>>,
    /// Where its output goes: an absolute path, made anew with mode 0600. `None` is the journal.
    pub output: Option<PathBuf>,
    /// How long it may run; 0 is for ever.
    pub timeout: Duration,
}

/// A property of a transient unit.
#[derive(Debug, Clone)]
pub struct Property {
    /// Its D-Bus name, such as `MemoryMax`.
    pub name: String,
    /// Its value.
    pub value: PropertyValue,
}

impl Property {
    /// A property with this value.
    pub fn new(name: &str, value: PropertyValue) -> Self {
        Self { name: name.to_owned(), value }
    }
}

/// The D-Bus types that properties of services have.
#[derive(Debug, Clone)]
pub enum PropertyValue {
    /// `s`
    Text(String),
    /// `as`
    List(Vec<String>),
    /// `b`
    Flag(bool),
    /// `t`: sizes, and times in microseconds
    Number(u64),
    /// `u`: modes
    Small(u32),
    /// `i`: signals, priorities
    Signed(i32),
    /// `(bas)`: system calls and address families; true is an allow list
    Filter(bool, Vec<String>),
    /// `a(sb)`: files that may be missing (true)
    Files(Vec<(String, bool)>),
    /// `a(ss)`: credentials
    Pairs(Vec<(String, String)>),
    /// `h`: a descriptor that PID 1 gets
    Descriptor(Arc<OwnedFd>),
    /// `a(ssbt)`: bind mounts: source, target, may be missing, flags
    Mounts(Vec<(String, String, bool, u64)>),
}

impl<'a> From<&'a PropertyValue> for Variant<'a> {
    fn from(value: &'a PropertyValue) -> Self {
        match value {
            PropertyValue::Text(v) => Variant::new(v.as_str()),
            PropertyValue::List(v) => Variant::new(v.clone()),
            PropertyValue::Flag(v) => Variant::new(*v),
            PropertyValue::Number(v) => Variant::new(*v),
            PropertyValue::Small(v) => Variant::new(*v),
            PropertyValue::Signed(v) => Variant::new(*v),
            PropertyValue::Filter(allow, list) => Variant::new((*allow, list.clone())),
            PropertyValue::Files(v) => Variant::new(v.clone()),
            PropertyValue::Pairs(v) => Variant::new(v.clone()),
            PropertyValue::Mounts(v) => Variant::new(v.clone()),
            PropertyValue::Descriptor(fd) => Variant::new(zbus::Fd::from(fd.as_fd())),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status. 200 to 243 are PID 1's own: it could not be started.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
    /// It ran longer than its timeout.
    TimedOut,
    /// PID 1 never started it.
    NotStarted,
}

/// What became of a transient unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransientOutcome {
    /// How it ended.
    pub ended: Ended,
    /// PID 1's word for it: `success`, `exit-code`, `oom-kill`.
    pub result: String,
    /// The end of its output; empty when that went to the journal.
    pub output: String,
    /// The id of its run, to find it in the journal.
    pub invocation_id: String,
}

impl TransientSpec {
    /// The properties of the service, as PID 1 takes them.
    pub(super) fn bus_properties<'a>(&'a self, unit: &'a str) -> Vec<BusProperty<'a>> {
        let program = self.words.first().map_or("", String::as_str);
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let timeout = if self.timeout.is_zero() { u64::MAX } else { micros(self.timeout) };
        let mut all: Vec<BusProperty<'a>> = vec![
            ("Description", Variant::new(unit)),
            ("Type", Variant::new("oneshot")),
            ("RemainAfterExit", Variant::new(true)),
            ("TimeoutStartUSec", Variant::new(timeout)),
            ("TimeoutStopUSec", Variant::new(micros(STOP_TIMEOUT))),
            // `$` in a word is the command's own: PID 1 replaces nothing.
            ("ExecStartEx", Variant::new(vec![(program, words, vec!["no-env-expand"])])),
        ];
        if let Some(user) = &self.user {
            all.push(("User", Variant::new(user.as_str())));
        }
        if !self.env.is_empty() {
            let env: Vec<String> = self.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
            all.push(("Environment", Variant::new(env)));
        }
        if let Some(stdin) = &self.stdin {
            all.push(("StandardInput", Variant::new("data")));
            all.push(("StandardInputData", Variant::new(stdin.clone())));
        }
        if let Some(path) = &self.output {
            let path = path.to_string_lossy().into_owned();
            all.push(("StandardOutputFileToAppend", Variant::new(path)));
        }
        all.extend(self.properties.iter().map(|p| (p.name.as_str(), Variant::from(&p.value))));
        all
    }
}

/// What to do with a unit of the same name that is there already: an agent that died left it, or a caller that
/// did not wait for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// It is stopped, then the command runs; a caller that goes away stops it, too. For what only looks.
    Stop,
    /// It is finished, then the command runs: it must not be cut, and twice does no harm.
    Finish,
}

impl Systemd {
    /// Runs a command as the unit `name` (`….service`) to its end, reads how it ended, and removes the unit
    /// and the file of its output.
    ///
    /// When we die, the command runs on; the next call with this name begins with what is left.
    pub async fn run_transient(
        &self,
        name: &str,
        spec: &TransientSpec,
        leftover: Leftover,
    ) -> Result<TransientOutcome, SystemdError> {
        let mut stops = (leftover == Leftover::Stop).then(|| StopAtDrop::new(self, name));
        let deadline = Instant::now() + STOP_TIMEOUT + GRACE;
        loop {
            let _output = spec.output.as_deref().map(OutputFile);
            match self.run_once(name, spec).await {
                Err(error) if error.is_unit_exists() && Instant::now() < deadline => {
                    tracing::info!(unit = name, "a unit of this name was left: it ends first");
                    match leftover {
                        Leftover::Stop => self.clear(name).await?,
                        Leftover::Finish => drop(self.collect_transient(name, None, spec.timeout).await),
                    }
                    // PID 1 forgets a unit a moment after its end.
                    tokio::time::sleep(FORGETS).await;
                }
                other => {
                    if let Some(stops) = stops.take() {
                        stops.disarm();
                    }
                    if other.is_err() && leftover == Leftover::Stop {
                        drop(self.clear(name).await);
                    }
                    return other;
                }
            }
        }
    }

    /// Runs a command as the unit `name` to its end, once in a boot: one that is there, running or ended, is not run
    /// again but waited for. The unit stays, with how it ended, until [`Self::clear`].
    pub async fn run_kept(&self, name: &str, spec: &TransientSpec) -> Result<TransientOutcome, SystemdError> {
        match self.run_job(Ask::Transient(spec), name).await {
            Err(error) if error.is_unit_exists() => {
                tracing::info!(unit = name, "it was begun before: waiting for its end");
            }
            begun => drop(begun?),
        }
        self.ended(name, None, spec.timeout).await
    }

    async fn run_once(&self, name: &str, spec: &TransientSpec) -> Result<TransientOutcome, SystemdError> {
        if let Some(path) = &spec.output {
            create_output(path).map_err(|source| SystemdError::Output { path: path.clone(), source })?;
        }
        let job = self.run_job(Ask::Transient(spec), name).await?;
        if self.unit(name).await?.is_none() {
            return Err(SystemdError::Vanished { unit: name.to_owned(), job });
        }
        self.collect_transient(name, spec.output.as_deref(), spec.timeout).await
    }

    /// Stops a unit and forgets how it ended.
    pub async fn clear(&self, name: &str) -> Result<(), SystemdError> {
        self.stop(name).await?;
        self.reset_failed(name).await
    }

    /// Starts a command as the unit `name` and leaves it to PID 1 when it says that it is ready
    /// (`Type=notify`): then this returns, with what it said of itself. The unit is gone when it ends.
    pub async fn hand_over(&self, name: &str, spec: &TransientSpec) -> Result<Option<String>, SystemdError> {
        let mut spec = spec.clone();
        let mut property = |name: &str, value| spec.properties.push(Property::new(name, value));
        property("Type", PropertyValue::Text("notify".to_owned()));
        property("CollectMode", PropertyValue::Text("inactive-or-failed".to_owned()));
        property("RemainAfterExit", PropertyValue::Flag(false));
        let job = self.run_job(Ask::Transient(&spec), name).await?;
        if job != JobResult::Done {
            return Err(SystemdError::NotReady { unit: name.to_owned(), job });
        }
        Ok(self.unit(name).await?.map(|u| u.status_text).filter(|text| !text.is_empty()))
    }

    /// Waits until a unit does not start any more: it is ready, has ended or is gone. True when it is ready.
    pub async fn settled(&self, name: &str, patience: Duration) -> Result<bool, SystemdError> {
        let settled = |u: Option<&UnitState>| u.is_none_or(|u| u.active_state != "activating");
        let state = self.wait_until(name, settled, Instant::now() + patience).await?;
        Ok(state.is_some_and(|u| u.is_active()))
    }

    /// Waits for the end of a unit that an earlier life of ours started and that was to go on, and removes it.
    pub async fn finish(&self, name: &str) -> Result<TransientOutcome, SystemdError> {
        self.collect_transient(name, None, Duration::ZERO).await
    }

    /// Waits until the unit `name`, started by [`Self::run_transient`], has ended, reads how, and removes it.
    async fn collect_transient(
        &self,
        name: &str,
        output: Option<&Path>,
        timeout: Duration,
    ) -> Result<TransientOutcome, SystemdError> {
        let outcome = self.ended(name, output, timeout).await?;
        self.clear(name).await?;
        Ok(outcome)
    }

    /// Waits until a transient unit has ended, and reads how.
    async fn ended(
        &self,
        name: &str,
        output: Option<&Path>,
        timeout: Duration,
    ) -> Result<TransientOutcome, SystemdError> {
        let patience = if timeout.is_zero() { Duration::from_hours(24 * 365) } else { timeout + GRACE };
        let ended = |unit: Option<&UnitState>| {
            unit.is_none_or(|u| {
                u.job == Pending::Nothing && !matches!(u.active_state.as_str(), "activating" | "deactivating")
            })
        };
        let state = self.wait_until(name, ended, Instant::now() + STOP_TIMEOUT + patience).await?;
        let Some(state) = state else {
            return Err(SystemdError::Vanished { unit: name.to_owned(), job: JobResult::Other });
        };
        let output = output
            .map(read_tail)
            .transpose()
            .map_err(|(path, source)| SystemdError::Output { path, source })?;
        Ok(TransientOutcome {
            ended: ended_as(&state),
            result: state.result,
            output: output.unwrap_or_default(),
            invocation_id: state.invocation_id,
        })
    }
}

fn ended_as(state: &UnitState) -> Ended {
    match state.exec_main_code {
        _ if state.result == "timeout" => Ended::TimedOut,
        libc::CLD_EXITED => Ended::Exited(state.exec_main_status),
        libc::CLD_KILLED | libc::CLD_DUMPED => Ended::Killed(state.exec_main_status),
        _ => Ended::NotStarted,
    }
}

/// Removes the file of a command's output, whatever became of the command.
struct OutputFile<'a>(&'a Path);

impl Drop for OutputFile<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.0.display(), %error, "an output file could not be removed");
        }
    }
}

/// Stops a unit that nobody waits for any more. When we end ourselves, the next start does.
struct StopAtDrop {
    systemd: Systemd,
    unit: String,
    runtime: Option<tokio::runtime::Handle>,
}

impl StopAtDrop {
    fn new(systemd: &Systemd, unit: &str) -> Self {
        let runtime = Some(tokio::runtime::Handle::current());
        Self { systemd: systemd.clone(), unit: unit.to_owned(), runtime }
    }

    /// Its end was waited for.
    fn disarm(mut self) {
        self.runtime = None;
    }
}

impl Drop for StopAtDrop {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let (systemd, unit) = (self.systemd.clone(), std::mem::take(&mut self.unit));
        runtime.spawn(async move {
            if let Err(error) = systemd.clear(&unit).await {
                tracing::warn!(unit, %error, "a command that nobody waits for could not be stopped");
            }
        });
    }
}

fn create_output(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

fn read_tail(path: &Path) -> Result<String, (PathBuf, io::Error)> {
    let read = || {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(OUTPUT_TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(OUTPUT_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_err(|e| (path.to_owned(), e))
}
