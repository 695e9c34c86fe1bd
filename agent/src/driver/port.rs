//! The one narrow way from a plan to a host.

use std::time::Duration;

use deployd_api::error::ErrorBody;
use deployd_core::action::Action;
use deployd_core::state::Change;

use super::record::SharedState;

/// What an action may know besides itself.
#[derive(Debug, Clone)]
pub struct Run {
    /// How long ago the step was first begun: a watch that a crash interrupted goes on, not anew.
    pub elapsed: Duration,
    /// What the host knows of the app now.
    pub state: SharedState,
}

/// What an action found.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// For people.
    pub note: Option<String>,
    /// What only the effect could tell: a record of its own, before the outcome.
    pub learned: Option<Change>,
}

impl Done {
    /// Done, with something to tell.
    pub fn note(text: impl Into<String>) -> Self {
        Self { note: Some(text.into()), learned: None }
    }
}

/// Carries actions out. Each is idempotent: see [`Action`].
pub trait Port: Send + Sync + 'static {
    /// Carries one action out.
    fn apply(&self, action: &Action, run: &Run) -> impl Future<Output = Result<Done, ErrorBody>> + Send;
}

impl<P: Port> Port for std::sync::Arc<P> {
    async fn apply(&self, action: &Action, run: &Run) -> Result<Done, ErrorBody> {
        P::apply(self, action, run).await
    }
}
