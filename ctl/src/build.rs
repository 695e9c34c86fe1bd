//! The artifact of a push: the `[build]` line of the spec is run, and then its folder or tar file is taken.
//!
//! | module | does |
//! |---|---|
//! | [`run`] | the line, by `sh -c`, with its output as it comes |
//! | [`unpack`] | a tar file into a temporary folder that it cannot leave |
//!
//! A folder that is named on the command line is taken as it is: then nothing is built.

mod run;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::spec::Project;
use tempfile::TempDir;

use crate::error::CtlError;
use crate::printer::Printer;

/// How temporary folders begin.
const PREFIX: &str = "artifact-";
/// A temporary folder that is older than this was left by a push that was killed.
const LEFT_AFTER: Duration = Duration::from_hours(24);

/// The files of a release, ready to be hashed. Temporary ones go with it.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) root: PathBuf,
    /// The build, if one ran.
    pub(crate) built: Option<Built>,
    _temporary: Option<TempDir>,
}

/// A build that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) command: String,
    pub(crate) took_ms: u64,
}

/// Whether to run the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Building {
    Run,
    Skip,
}

/// Builds, unless told not to or `named` names the files (relative to the current folder), and finds the files.
/// `spec` is the spec's own path: its line and its `artifact` mean the folder of it.
pub(crate) async fn make(
    printer: &Printer,
    project: &Project,
    spec: &Path,
    named: Option<&Path>,
    building: Building,
) -> Result<Artifact, CtlError> {
    let folder = spec.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let app = &project.spec.app;
    let mut built = None;
    if let (None, Building::Run, Some(command)) = (named, building, &project.build.command) {
        let place = spec.display().to_string();
        built = Some(run::run(printer, app, &place, folder, command).await?);
    }
    let path = match (named, &project.build.artifact) {
        (Some(named), _) => named.to_owned(),
        (None, Some(artifact)) => folder.join(artifact),
        // As long as nothing else is said, the current folder is the release.
        (None, None) => PathBuf::from("."),
    };
    let missing = Missing { spec, named: named.is_some(), ran: built.is_some(), project };
    let kind = fs::metadata(&path).map_err(|e| missing.error(&path, &e))?;
    if kind.is_dir() {
        warn_of_sources(printer, &path);
        return Ok(Artifact { root: path, built, _temporary: None });
    }
    if !unpack::is_tar(&path) {
        let message = format!("{} is neither a folder nor a tar file", path.display());
        let hint = "an artifact is a folder, a .tar, a .tar.gz or a .tar.zst";
        return Err(CtlError::Answer(Box::new(ErrorBody::new(ErrorCode::ArtifactInvalid, message, hint))));
    }
    let temporary = temporary_folder().map_err(CtlError::Runtime)?;
    let work = tokio::task::spawn_blocking(move || {
        unpack::unpack(&path, temporary.path()).map(|()| temporary).map_err(|e| unpack::explain(&path, &e))
    });
    let temporary = work.await.map_err(|e| CtlError::Runtime(e.into()))??;
    Ok(Artifact { root: temporary.path().to_owned(), built, _temporary: Some(temporary) })
}

/// What is known when there is no artifact.
struct Missing<'a> {
    spec: &'a Path,
    named: bool,
    ran: bool,
    project: &'a Project,
}

impl Missing<'_> {
    fn error(&self, path: &Path, error: &io::Error) -> CtlError {
        let shown = path.display();
        if error.kind() != io::ErrorKind::NotFound {
            return CtlError::Artifact(crate::artifact::ArtifactError::Read {
                path: path.to_owned(),
                source: io::Error::new(error.kind(), error.to_string()),
            });
        }
        let (message, hint) = if self.named {
            (format!("there is no {shown}"), "name the folder or tar file of the release".to_owned())
        } else if self.ran {
            let message = format!("the build went well and there is no {shown}");
            (
                message,
                format!("mend [build] artifact in {}: where the build puts its result", self.spec.display()),
            )
        } else if self.project.build.command.is_some() {
            let hint = format!("build it: deployd-ctl push without --no-build -a {}", self.project.spec.app);
            (format!("there is no {shown}: it was not built yet"), hint)
        } else {
            let hint = format!("make it, or set command in [build] of {}", self.spec.display());
            (format!("there is no {shown}"), hint)
        };
        let body = ErrorBody::new(ErrorCode::ArtifactInvalid, message, hint);
        CtlError::Answer(Box::new(if self.named {
            body
        } else {
            body.cause("where", format!("{}: [build] artifact", self.spec.display()))
        }))
    }
}

/// What rarely is meant to be in a release. It is no reason to refuse one.
fn warn_of_sources(printer: &Printer, root: &Path) {
    let has = |name: &str| root.join(name).exists();
    if has("mix.exs") && (has("deps") || has("_build")) || has("Cargo.toml") && has("target") {
        let root = root.display();
        printer
            .talk(&format!("note: {root} holds the project's sources; [build] artifact says what to send"));
    }
    if has(".env") {
        printer
            .talk("note: .env becomes part of the release; values for hosts only: deployd-ctl help secrets");
    }
}

/// A new folder of this user only, below the user's cache: `/tmp` may be small, and in memory.
fn temporary_folder() -> io::Result<TempDir> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let folder = cache.unwrap_or_else(std::env::temp_dir).join("deployd");
    fs::create_dir_all(&folder)?;
    sweep(&folder, SystemTime::now() - LEFT_AFTER);
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(&folder)
}

/// Removes what killed pushes left. What cannot be removed is in nobody's way.
fn sweep(folder: &Path, before: SystemTime) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|modified| modified < before);
        if is_ours && is_old {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
