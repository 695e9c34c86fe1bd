//! What is in force of the host's TLS folder. A change is taken over as a whole or not at all, without touching the
//! listener: the next handshake uses it, and callers who are no longer good are cut.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use deployd_api::ids::{HostName, Timestamp};
use deployd_api::status::{Finding, Severity};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::TlsError;
use super::material::{Expired, Loaded, Material};

/// A certificate that ends sooner is told by `doctor`.
const ENDS_SOON_MS: u64 = 14 * DAY_MS;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing has changed.
    Same,
    /// It is in force.
    New,
}

/// What is in force. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    now: watch::Sender<Option<Arc<Loaded>>>,
    /// Why the files as they are now are not in force.
    problem: Mutex<Option<String>>,
    /// Held while files are replaced: two callers' certificates do not mix.
    writing: tokio::sync::Mutex<()>,
}

impl Trust {
    /// With what the folder holds. Without a certificate nobody is served; what is wrong is told.
    pub fn open(dir: &Path, now: Timestamp) -> Self {
        let (sender, _) = watch::channel(None);
        let inner = Inner {
            dir: dir.to_owned(),
            now: sender,
            problem: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        };
        let trust = Self(Arc::new(inner));
        // What is wrong is in the journal and among what doctor finds.
        drop(trust.reload(now));
        trust
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// To be held while the files are replaced.
    pub async fn writing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.writing.lock().await
    }

    /// Looks at the files again. What does not fit together leaves in force what is.
    pub fn reload(&self, now: Timestamp) -> Result<Reloaded, TlsError> {
        let looked = self.look(now);
        let mut problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok(done) => {
                *problem = None;
                Ok(done)
            }
            Err(e) => {
                let told = e.told();
                // Every event of a folder looks again: the same words once.
                if problem.as_ref() != Some(&told) {
                    error!(error = %told, "the TLS files are not good: what was in force stays");
                }
                *problem = Some(told);
                Err(e)
            }
        }
    }

    fn look(&self, now: Timestamp) -> Result<Reloaded, TlsError> {
        let Some(material) = Material::read(&self.0.dir)? else {
            return match self.current() {
                None => Ok(Reloaded::Same),
                Some(_) => Err(TlsError::NotEnrolled { path: self.0.dir.clone() }),
            };
        };
        if self.current().is_some_and(|current| current.material == material) {
            return Ok(Reloaded::Same);
        }
        let loaded = material.load(now, Expired::Told)?;
        let (host, serial) = (&loaded.host, loaded.certificate.info().serial);
        info!(%host, %serial, revoked = loaded.revoked.serials.len(), "certificates are in force");
        if loaded.revoked.next.is_some_and(|next| next < now) {
            warn!("the list of revoked certificates is past its time; it stays in force");
        }
        self.0.now.send_replace(Some(Arc::new(loaded)));
        Ok(Reloaded::New)
    }

    /// What is in force; `None` on a host that is not enrolled.
    pub fn current(&self) -> Option<Arc<Loaded>> {
        self.0.now.borrow().clone()
    }

    /// Changes when something else is in force.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Loaded>>> {
        self.0.now.subscribe()
    }

    /// The name in the host's certificate.
    pub fn host(&self) -> Option<HostName> {
        self.current().map(|loaded| loaded.host.clone())
    }

    /// What a person should do something about.
    pub fn findings(&self, now: Timestamp) -> Vec<Finding> {
        let problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = Vec::new();
        let dir = self.0.dir.display().to_string();
        if let Some(why) = problem {
            let in_force = if self.current().is_some() {
                "what was in force stays"
            } else {
                "nobody can call over the network"
            };
            let next =
                "enrol the host again (deployd-ctl hosts add), or mend the files; they are read at once";
            found.push(finding(Severity::Error, "tls_invalid", &dir, format!("{why}; {in_force}"), next));
        }
        if let Some(loaded) = self.current() {
            found.extend(aging(&loaded, &dir, now));
        }
        found
    }
}

fn aging(loaded: &Loaded, dir: &str, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    let left = loaded.certificate.not_after.since_ms(now);
    let renew = "deployd-ctl pki renew, or deployd-ctl hosts add with the same name, gives it a new one";
    if left == 0 {
        let what = "the host's certificate has expired: ctl refuses to talk to it".to_owned();
        found.push(finding(Severity::Error, "certificate_ends", dir, what, renew));
    } else if left < ENDS_SOON_MS {
        let what = format!("the host's certificate ends in {} days", left / DAY_MS);
        found.push(finding(Severity::Warn, "certificate_ends", dir, what, renew));
    }
    if loaded.is_revoked {
        let what = "the host's certificate is revoked: ctl refuses to talk to it".to_owned();
        found.push(finding(Severity::Error, "tls_invalid", dir, what, renew));
    }
    if loaded.revoked.next.is_some_and(|next| next < now) {
        let what = "the list of revoked certificates is past its time; it is still in force".to_owned();
        let next = "deployd-ctl pki renew makes a new one and sends it to every host";
        found.push(finding(Severity::Warn, "crl_expired", dir, what, next));
    }
    found
}

fn finding(severity: Severity, code: &str, subject: &str, what: String, next: &str) -> Finding {
    Finding { severity, code: code.to_owned(), subject: subject.to_owned(), what, next: next.to_owned() }
}
