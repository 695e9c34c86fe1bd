//! The vault: an app's secrets on this host, sealed in files that PID 1 opens for the app's processes.
//!
//! | module | |
//! |---|---|
//! | [`bundle`] | a generation's values, and their form inside the credential |
//! | [`merge`] | what a request makes of a generation; every refusal. Pure |
//! | [`seal`] | sealing and opening, by `systemd-creds` as a unit of PID 1 |
//!
//! A value is in the agent's memory only while it is set, and while a push needs a file of its own for it. A
//! generation is on disk before the database speaks of it, and stays until no release needs it.

pub mod bundle;
pub mod merge;
pub mod seal;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Timestamp};
use deployd_api::release::ReleaseDocument;
use deployd_api::secret::SecretsRequest;
use deployd_api::spec::Spec;
use deployd_core::secrets::{BUNDLE, Form, Sealed, folder};
use tokio::sync::Mutex;

use crate::effects::{on_disk, step_failed};
use crate::host::systemd::Systemd;
use crate::store::secrets::{SecretRecord, Versions, versions};
use crate::store::{Store, atomic};
use crate::supervisor::store_failed;

use bundle::Bundle;
use seal::Sealer;

/// The vault of this host.
#[derive(Debug)]
pub struct Vault {
    store: Store,
    sealer: Sealer,
    apps_dir: PathBuf,
    /// Held while generations of an app are made or removed: one unit of it seals at a time.
    work: StdMutex<BTreeMap<AppName, Arc<Mutex<()>>>>,
}

impl Vault {
    /// The vault of the apps below this folder. Without PID 1 only plain files can be read and written.
    pub fn new(store: Store, systemd: Option<Systemd>, apps_dir: PathBuf, form: Form) -> Self {
        Self { store, sealer: Sealer::new(systemd, form), apps_dir, work: StdMutex::default() }
    }

    /// How new generations are written.
    pub fn form(&self) -> Form {
        self.sealer.form()
    }

    /// What is known of an app's secrets; those that were unset, too.
    pub async fn records(&self, app: &AppName) -> Result<Vec<SecretRecord>, ErrorBody> {
        self.store.secrets(app).await.map_err(|e| store_failed(&e))
    }

    /// The versions that a release gets now.
    pub async fn versions(&self, app: &AppName) -> Result<Versions, ErrorBody> {
        Ok(versions(&self.records(app).await?))
    }

    /// Of these versions, those that this host cannot deliver: their generation was never here, or is gone.
    pub async fn missing(&self, app: &AppName, wanted: &Versions) -> Result<Versions, ErrorBody> {
        let forms = [self.form(), other(self.form())];
        let here = self.sealed(app, wanted).is_none_or(|sealed| {
            let path = |form| Sealed { form, ..sealed.clone() }.bundle();
            forms.into_iter().any(|form| Path::new(&path(form)).symlink_metadata().is_ok())
        });
        if here {
            return Ok(Versions::new());
        }
        let now = self.versions(app).await?;
        let differs = wanted.iter().filter(|(name, version)| now.get(*name) != Some(*version));
        Ok(differs.map(|(name, version)| (name.clone(), *version)).collect())
    }

    /// Sets and unsets, all or nothing. `spec` is that of the live release, if there is one.
    pub async fn change(
        &self,
        app: &AppName,
        request: &SecretsRequest,
        by: &str,
        at: Timestamp,
        spec: Option<&Spec>,
    ) -> Result<(), ErrorBody> {
        let _work = self.of(app).lock_owned().await;
        let records = self.records(app).await?;
        let now = versions(&records);
        let current = match self.sealed(app, &now) {
            Some(sealed) => match self.open(app, &sealed).await {
                Ok(bundle) => bundle,
                // Nothing of what is lost would stay.
                Err(_) if merge::replaces_all(&now, request) => Bundle::default(),
                Err(lost) => return Err(lost),
            },
            None => Bundle::default(),
        };
        let merged = merge::merge(app, &current, &records, request, spec)?;
        if merged.changes.is_empty() {
            return Ok(());
        }
        let records: Vec<SecretRecord> = merged
            .changes
            .into_iter()
            .map(|change| SecretRecord {
                name: change.name,
                version: change.version,
                set: at,
                by: by.to_owned(),
                removed: change.removed,
                recovery: change.recovery,
            })
            .collect();
        if let Some(sealed) = self.sealed(app, &merged.versions) {
            self.write(app, &sealed.bundle(), BUNDLE, &merged.bundle.to_json()).await?;
        }
        self.store.put_secrets(app, records).await.map_err(|e| store_failed(&e))
    }

    /// Makes everything ready that units of this release load: called before its plan.
    pub async fn prepare(&self, app: &AppName, document: &ReleaseDocument) -> Result<(), ErrorBody> {
        let Some(sealed) = self.sealed(app, &document.secrets) else { return Ok(()) };
        let _work = self.of(app).lock_owned().await;
        let missing: Vec<_> = sealed
            .credentials(document)
            .into_iter()
            .filter(|c| Path::new(&c.path).symlink_metadata().is_err())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let bundle = self.open(app, &sealed).await?;
        for credential in missing {
            if credential.id == BUNDLE {
                self.write(app, &credential.path, BUNDLE, &bundle.to_json()).await?;
            } else if let Some(value) = bundle.get(&credential.id) {
                self.write(app, &credential.path, &credential.id, value.reveal()).await?;
            }
        }
        Ok(())
    }

    /// Removes the generations that are neither current nor of one of these releases; answers how many files.
    pub async fn prune<'a>(
        &self,
        app: &AppName,
        releases: impl Iterator<Item = &'a ReleaseDocument>,
    ) -> Result<usize, ErrorBody> {
        let _work = self.of(app).lock_owned().await;
        let now = self.versions(app).await?;
        let of = |versions| deployd_core::secrets::generation(versions);
        let mut keep: BTreeSet<String> = releases.filter_map(|r| of(&r.secrets)).collect();
        keep.extend(of(&now));
        let folder = self.folder(app);
        on_disk(move || remove_others(&folder, &keep)).await?.map_err(|e| step_failed(&e))
    }

    /// The app goes: `remove` takes its files away, and nobody sets a secret of it until both are gone. The files
    /// first: without rows nobody would know of those that stayed.
    pub async fn forget<T>(
        &self,
        app: &AppName,
        remove: impl Future<Output = Result<T, ErrorBody>>,
    ) -> Result<T, ErrorBody> {
        let _work = self.of(app).lock_owned().await;
        let removed = remove.await?;
        self.store.forget_secrets(app).await.map_err(|e| store_failed(&e))?;
        Ok(removed)
    }

    /// The lock of an app's generations.
    fn of(&self, app: &AppName) -> Arc<Mutex<()>> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        // Whose work is done is forgotten: a name is nobody's yet that sets secrets before its first push.
        work.retain(|_, lock| Arc::strong_count(lock) > 1);
        work.entry(app.clone()).or_default().clone()
    }

    fn folder(&self, app: &AppName) -> PathBuf {
        PathBuf::from(folder(&self.apps_dir.to_string_lossy(), app))
    }

    fn sealed(&self, app: &AppName, versions: &Versions) -> Option<Sealed> {
        Sealed::of(&self.apps_dir.to_string_lossy(), app, versions, self.form())
    }

    /// The values of a generation, in whichever form it stands here.
    async fn open(&self, app: &AppName, sealed: &Sealed) -> Result<Bundle, ErrorBody> {
        for form in [sealed.form, other(sealed.form)] {
            let path = Sealed { form, ..sealed.clone() }.bundle();
            if Path::new(&path).symlink_metadata().is_err() {
                continue;
            }
            let plain =
                self.sealer.open(app, form, BUNDLE, Path::new(&path)).await.map_err(|e| e.to_body(app))?;
            return Bundle::from_json(&plain).ok_or_else(|| unreadable(app, &path));
        }
        let message = format!("this host has no secrets of {app} in the versions that are asked for");
        let hint = format!("set what is missing and push again: deployd-ctl secrets set NAME -a {app}");
        Err(ErrorBody::new(ErrorCode::SecretMissing, message, hint))
    }

    /// Seals into a file that only root reads.
    async fn write(&self, app: &AppName, path: &str, id: &str, plain: &[u8]) -> Result<(), ErrorBody> {
        let sealed = self.sealer.seal(app, id, plain).await.map_err(|e| e.to_body_of(app, path))?;
        let path = PathBuf::from(path);
        let work = move || {
            make_folder(&path)?;
            atomic::write(&path, &sealed, 0o600)
        };
        on_disk(work).await?.map_err(|e| step_failed(&e))
    }
}

const fn other(form: Form) -> Form {
    match form {
        Form::Sealed => Form::Plain,
        Form::Plain => Form::Sealed,
    }
}

fn unreadable(app: &AppName, path: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::SecretUnreadable,
        format!("the secrets of {app} in {path} are not what deployd wrote there"),
        format!("set them again, all of them in one call: deployd-ctl secrets set NAME… -a {app}"),
    )
}

/// The app's folder may not be there yet: secrets can be set before the first push.
fn make_folder(file: &Path) -> Result<(), atomic::AtomicError> {
    let Some(folder) = file.parent() else { return Ok(()) };
    let make = |folder: &Path, mode| {
        let made = std::fs::DirBuilder::new().mode(mode).create(folder);
        match made {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(atomic::AtomicError::Write { path: folder.to_owned(), source: e })
            }
            _ => Ok(()),
        }
    };
    if let Some(app) = folder.parent() {
        make(app, 0o750)?;
    }
    make(folder, 0o700)
}

fn remove_others(folder: &Path, keep: &BTreeSet<String>) -> Result<usize, atomic::AtomicError> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let generation = name.split('.').next().unwrap_or_default();
        if !keep.contains(generation) {
            atomic::remove(&entry.path())?;
            removed += 1;
        }
    }
    if keep.is_empty() {
        // Only when nothing else is in them: the app's own folder may be all that is left of it.
        for empty in [Some(folder), folder.parent()].into_iter().flatten() {
            drop(std::fs::remove_dir(empty));
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
