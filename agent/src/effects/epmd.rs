//! The host's epmd: a unit and a program that no app owns and every app with a BEAM release may need.
//!
//! The plan says when it is wanted and when not. What another app wants by now only the host can tell: a plan
//! may be older than that app.

use std::path::Path;

use deployd_api::error::ErrorBody;
use deployd_api::ids::AppName;
use deployd_core::action::UnitFile;
use deployd_core::facts::Epmd;
use deployd_core::units;

use super::RealHost;
use super::failure::step_failed;
use super::files::{self, blocking, io_failed};
use crate::driver::Done;
use crate::store::atomic;

/// Programs are everybody's to read and run.
const PROGRAM_MODE: u32 = 0o755;

impl RealHost {
    /// Makes what is missing. PID 1 starts it for the first instance that asks for it.
    pub(super) async fn ensure_epmd(
        &self,
        source: &str,
        program: &str,
        unit: &UnitFile,
    ) -> Result<Done, ErrorBody> {
        let _alone = self.epmd.lock().await;
        let (source, program, unit) = (source.to_owned(), program.to_owned(), unit.clone());
        blocking(move || ensure(Path::new(&source), Path::new(&program), &unit)).await?
    }

    /// Stops and removes it, unless somebody else asks for it.
    pub(super) async fn remove_epmd(&self, app: &AppName, program: &str) -> Result<Done, ErrorBody> {
        let _alone = self.epmd.lock().await;
        if others_want_it(app)? {
            return Ok(Done::note("another app needs it"));
        }
        self.systemd.stop(units::EPMD).await.map_err(|e| step_failed(&e))?;
        self.systemd.reset_failed(units::EPMD).await.map_err(|e| step_failed(&e))?;
        files::remove(&[units::path(units::EPMD), program.to_owned()])?;
        if let Some(folder) = Path::new(program).parent() {
            // Only when empty; it holds nothing else.
            drop(std::fs::remove_dir(folder));
        }
        Ok(Done::default())
    }
}

fn ensure(source: &Path, program: &Path, unit: &UnitFile) -> Result<Done, ErrorBody> {
    if !program.exists() {
        let bytes = std::fs::read(source).map_err(|e| io_failed("read", source, &e))?;
        files::make_parent(program).map_err(|e| e.failure)?;
        atomic::write(program, &bytes, PROGRAM_MODE).map_err(|e| step_failed(&e))?;
    }
    if Path::new(&unit.path).exists() {
        return Ok(Done::default());
    }
    files::write(std::slice::from_ref(unit)).map_err(|e| e.failure)?;
    Ok(Done::default())
}

/// Who needs it, for the planner.
pub(super) fn needed(app: &AppName) -> Result<Epmd, ErrorBody> {
    if !Path::new(&units::path(units::EPMD)).exists() {
        return Ok(Epmd::Missing);
    }
    Ok(if others_want_it(app)? { Epmd::Shared } else { Epmd::Unshared })
}

/// Whether a template of another app asks for it.
fn others_want_it(app: &AppName) -> Result<bool, ErrorBody> {
    let folder = Path::new(units::UNIT_DIR);
    let failed = |e| io_failed("read", folder, &e);
    let own = format!("deployd-{}-", app.unit_part());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("deployd-") || name.starts_with(&own) || !name.ends_with("@.service") {
            continue;
        }
        // One that goes meanwhile asks for nothing.
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if text.lines().any(|line| line == units::epmd_wanted()) {
            return Ok(true);
        }
    }
    Ok(false)
}
