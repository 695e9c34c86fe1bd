//! The descriptors that the agent has borrowed, by `.socket` unit. Losing them loses no connection: they
//! are borrowed again from PID 1, as long as the unit runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::host::listener::Listener;

/// See the module.
#[derive(Debug, Default)]
pub struct Held(Mutex<HashMap<String, Arc<Listener>>>);

impl Held {
    /// What survived a restart of the agent.
    pub fn new(listeners: HashMap<String, Listener>) -> Self {
        Self(Mutex::new(listeners.into_iter().map(|(unit, l)| (unit, Arc::new(l))).collect()))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<String, Arc<Listener>>> {
        // A panic elsewhere leaves the map valid: entries are inserted and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor that still listens.
    pub(super) fn get(&self, unit: &str) -> Option<Arc<Listener>> {
        let held = self.map().get(unit).cloned()?;
        held.is_listening().unwrap_or(false).then_some(held)
    }

    /// Whether what is held under this name was shut down: by us, or by an app, which has the same socket.
    pub(super) fn is_shut(&self, unit: &str) -> bool {
        self.map().get(unit).is_some_and(|held| !held.is_listening().unwrap_or(false))
    }

    pub(super) fn insert(&self, unit: &str, listener: Arc<Listener>) {
        self.map().insert(unit.to_owned(), listener);
    }

    pub(super) fn remove(&self, unit: &str) -> Option<Arc<Listener>> {
        self.map().remove(unit)
    }
}
