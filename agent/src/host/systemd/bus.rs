//! One connection to the system bus that comes back by itself.
//!
//! A restart of dbus-daemon closes it, a `daemon-reexec` makes PID 1 leave the bus for a moment. Both are
//! ordinary: calls that met one are *lost*, not failed, and [`super`] looks at the unit or job again. It
//! must never hand out a connection on which PID 1 was not asked to send signals.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use zbus::{Connection, fdo};

use super::proxy;

/// How long an operation waits for the bus and PID 1 to come back before it fails.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);
/// First pause between two tries to connect; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two tries: PID 1 is back within a second or two.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long one call may take. A reload on a busy host takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Bus {
    current: Mutex<Option<Connection>>,
}

impl Bus {
    /// The live connection, or a new one. Retries until `deadline`.
    pub(super) async fn connection(&self, deadline: Instant) -> zbus::Result<Connection> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        *current = None;
        let mut backoff = Backoff::new(deadline);
        loop {
            match open().await {
                Ok(connection) => {
                    *current = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) if is_lost(&error) && backoff.pause().await => {
                    tracing::debug!(%error, "system bus is not there yet");
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn open() -> zbus::Result<Connection> {
    let connection = zbus::connection::Builder::system().method_timeout(CALL_TIMEOUT).build().await?;
    proxy::subscribe(&connection).await?;
    Ok(connection)
}

/// Growing pauses up to a deadline.
#[derive(Debug)]
pub(super) struct Backoff {
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, pause: PAUSE_MIN }
    }

    /// Waits, then tells whether another try is due before the deadline.
    pub(super) async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause >= self.deadline {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Whether the bus or PID 1 was away, so that nobody knows if the call arrived.
pub(super) fn is_lost(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => true,
        zbus::Error::FDO(error) => is_lost_fdo(error),
        _ => false,
    }
}

fn is_lost_fdo(error: &fdo::Error) -> bool {
    use fdo::Error as E;
    match error {
        E::ZBus(inner) => is_lost(inner),
        E::ServiceUnknown(_)
        | E::NameHasNoOwner(_)
        | E::NoReply(_)
        | E::IOError(_)
        | E::NoServer(_)
        | E::Timeout(_)
        | E::TimedOut(_)
        | E::Disconnected(_)
        | E::SpawnExecFailed(_)
        | E::SpawnChildExited(_)
        | E::SpawnChildSignaled(_)
        | E::SpawnFailed(_)
        | E::SpawnServiceNotFound(_) => true,
        _ => false,
    }
}
