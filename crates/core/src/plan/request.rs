//! What is asked of a host.

use std::collections::BTreeSet;

use deployd_api::deployment::Migrate;
use deployd_api::ids::{Digest, Label, ProcessName};
use deployd_api::needs::Needs;
use deployd_api::release::{Origin, ReleaseDocument};
use deployd_api::spec::Strategy;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make this release live.
    Push(Box<Push>),
    /// Make an earlier release live again.
    Rollback {
        /// Which; default: what the live one replaced.
        to: Option<Label>,
    },
    /// Start what was stopped.
    Start,
    /// Stop on purpose.
    Stop,
    /// New processes of the same release.
    Restart,
    /// Take the app off the host.
    Remove,
}

/// A release that is to be live, and what of it runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// Which release it is: the digest of the full document, the same on every host.
    pub digest: Digest,
    /// What this host plans, keeps and runs of it.
    pub document: ReleaseDocument,
    /// The label that it has on every host; default: that of a release which is kept, or the next one.
    pub label: Option<Label>,
    /// Overrides the spec's strategy.
    pub strategy: Option<Strategy>,
    /// Whether this is the host that migrates.
    pub migrate: Migrate,
    /// What its programs need of a host, as far as the caller looked.
    pub needs: Needs,
    /// Who, from what.
    pub origin: Origin,
}

impl Push {
    /// A release of which all processes run here, or only these.
    pub fn new(document: ReleaseDocument, processes: Option<&[ProcessName]>) -> Self {
        let digest = document.digest();
        let document = match processes {
            Some(processes) => ReleaseDocument { spec: document.spec.only(processes), ..document },
            None => document,
        };
        Self {
            digest,
            document,
            label: None,
            strategy: None,
            migrate: Migrate::Here,
            needs: Needs::default(),
            origin: Origin::default(),
        }
    }

    /// The strategy that it would go by.
    pub fn strategy(&self) -> Strategy {
        self.strategy.unwrap_or(self.document.spec.deploy.strategy)
    }

    /// The same push without what a person can mend elsewhere: to tell what it would do.
    #[must_use]
    pub fn unobstructed(&self) -> Self {
        let mut push = self.clone();
        push.needs = Needs::default();
        push.label = None;
        let secrets = &push.document.spec.secrets;
        let missing: BTreeSet<_> = secrets.required.iter().chain(&secrets.files).cloned().collect();
        for name in missing {
            push.document.secrets.entry(name).or_insert(0);
        }
        push
    }
}
