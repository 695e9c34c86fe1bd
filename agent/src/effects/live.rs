//! What of the config may change while the agent runs. Whoever plans or answers takes it once, whole.

use std::sync::{Arc, PoisonError, RwLock};

/// The values in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunable {
    /// The host's name.
    pub name: String,
    /// Its region.
    pub region: Option<String>,
    /// How many good releases are kept.
    pub keep: usize,
    /// Bytes that a push must leave free.
    pub disk_reserve: u64,
}

/// Where they are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live(Arc<RwLock<Arc<Tunable>>>);

impl Live {
    /// With these values.
    pub fn new(values: Tunable) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(values))))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<Tunable> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts others in force.
    pub fn set(&self, values: Tunable) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(values);
    }
}
