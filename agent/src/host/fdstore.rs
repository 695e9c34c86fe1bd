//! Keeps borrowed descriptors over restarts of the agent, in PID 1's store for our unit.
//!
//! The unit needs `FileDescriptorStoreMax=` and `NotifyAccess=main`. `FDPOLL=0` is essential: without it PID 1
//! drops a listener as soon as somebody shuts it down. Order is not kept, names are: each descriptor goes by
//! its socket unit's name. What is lost is borrowed again; the store is never the only way back.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;

use super::listener::Listener;
use super::sockopt;

/// What failed with the descriptor store.
#[derive(Debug, thiserror::Error)]
pub enum FdStoreError {
    /// A message to PID 1.
    #[error("failed to {attempt} the descriptor of {unit}")]
    Notify {
        /// What was attempted.
        attempt: &'static str,
        /// The socket unit.
        unit: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What PID 1 passed at start.
    #[error("failed to take back stored descriptors")]
    Collect(#[source] io::Error),
}

/// Names have at most 255 characters.
const NAME_MAX: usize = 255;

/// Stores a listener under its socket unit's name. Without systemd around, nothing happens.
pub fn keep(unit: &str, listener: &Listener) -> Result<(), FdStoreError> {
    let name = store_name(unit);
    let state = [NotifyState::FdStore, NotifyState::FdName(&name), NotifyState::Custom("FDPOLL=0")];
    let sent = sd_notify::notify_with_fds(&state, &[listener.as_fd()]);
    sent.map_err(|source| FdStoreError::Notify { attempt: "store", unit: unit.to_owned(), source })
}

/// Removes what is stored under a socket unit's name. PID 1 closes it soon after, not at once.
pub fn forget(unit: &str) -> Result<(), FdStoreError> {
    let name = store_name(unit);
    let sent = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    sent.map_err(|source| FdStoreError::Notify { attempt: "remove", unit: unit.to_owned(), source })
}

/// What came back from the store.
#[derive(Debug, Default)]
pub struct Collected {
    /// Listeners by the name of [`store_name`].
    pub listeners: HashMap<String, Listener>,
    /// Listeners of the agent's own socket unit, for callers over the network.
    pub api: Vec<std::net::TcpListener>,
    /// Names of what was dropped: not listening any more, or a second one of its name.
    pub dropped: Vec<String>,
}

/// The name that `deployd.socket` gives its descriptors. No unit of an app has it: theirs end in `.socket`.
const API: &str = "api";

/// Takes back every stored descriptor, and takes those of the agent's own socket. Call it once, first thing in `main`, before any descriptor is opened.
pub fn collect() -> Result<Collected, FdStoreError> {
    let mut collected = Collected::default();
    for (number, name) in sd_notify::listen_fds_with_names().map_err(FdStoreError::Collect)? {
        let listener = sockopt::adopt_passed(number).and_then(|fd| Listener::adopt(fd).ok());
        match listener {
            Some(listener) if name == API => collected.api.push(OwnedFd::from(listener).into()),
            Some(listener) if !collected.listeners.contains_key(&name) => {
                collected.listeners.insert(name, listener);
            }
            _ => collected.dropped.push(name),
        }
    }
    Ok(collected)
}

/// The name that a socket unit's listener is stored under: PID 1 forbids `:` and control characters.
pub fn store_name(unit: &str) -> String {
    let clean = |c: char| if c == ':' || c.is_control() || !c.is_ascii() { '_' } else { c };
    unit.chars().map(clean).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_socket_units_stay_as_they_are() {
        assert_eq!(store_name("deployd-shop-http-v42.2.socket"), "deployd-shop-http-v42.2.socket");
        assert_eq!(store_name("a:b\nc"), "a_b_c");
        assert_eq!(store_name(&"x".repeat(300)).len(), NAME_MAX);
    }
}
