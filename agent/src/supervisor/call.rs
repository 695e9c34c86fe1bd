//! What comes with a request: whose it is, and under which conditions it is carried out.

use deployd_api::ids::{DeploymentId, Digest};
use deployd_api::release::Origin;

use super::Claim;

/// A call that changes an app.
#[derive(Debug, Clone)]
pub struct Call {
    /// Client-made id of the deployment: a repeat is answered with the same one.
    pub id: DeploymentId,
    /// Who, from what.
    pub origin: Origin,
    /// The lease that it is made under.
    pub lease: Option<Claim>,
    /// The app's state that a plan saw: another one is refused.
    pub expect: Option<Digest>,
}

impl Call {
    /// A call without conditions.
    pub fn new(id: DeploymentId, origin: Origin) -> Self {
        Self { id, origin, lease: None, expect: None }
    }
}
