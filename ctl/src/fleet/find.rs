//! Which file the fleet is: the one that is named, else beside the spec, else above, up to the repository's top.

use std::path::{Path, PathBuf};

use super::{Fleet, answer, invalid};
use crate::cli::Global;
use crate::error::CtlError;

const FILE: &str = "fleet.toml";

/// The fleet of this command.
pub(crate) fn find(global: &Global) -> Result<Fleet, CtlError> {
    if let Some(path) = present(global)? {
        return Fleet::read(&path);
    }
    let current = std::env::current_dir().map_err(CtlError::Runtime)?;
    Err(answer(
        invalid(
            "there is no fleet.toml here",
            "add hosts: deployd-ctl hosts add NAME --ssh root@ADDRESS; or name the file: --fleet FILE, or move it \
             here; or on the host itself: --local",
        )
        .cause("where", format!("{}, and above it up to the top of the repository", current.display())),
    ))
}

/// Its file: the one that is named, whether it is there or not, else the one that is found.
pub(crate) fn present(global: &Global) -> Result<Option<PathBuf>, CtlError> {
    let beside = place_of_new(global);
    if global.fleet.is_some() || beside.exists() {
        return Ok(Some(beside));
    }
    Ok(above(&std::env::current_dir().map_err(CtlError::Runtime)?))
}

/// Where a fleet is written that does not exist yet.
pub(crate) fn place_of_new(global: &Global) -> PathBuf {
    match &global.fleet {
        Some(path) => path.clone(),
        None => global.spec().parent().unwrap_or(Path::new("")).join(FILE),
    }
}

/// The nearest file in the folder or above it, not beyond the top of its repository. Outside of one only the
/// folder itself counts: what lies above could be anybody's.
fn above(folder: &Path) -> Option<PathBuf> {
    let top = folder.ancestors().find(|f| f.join(".git").exists()).unwrap_or(folder);
    let within = folder.ancestors().take_while(|f| f.starts_with(top));
    within.map(|f| f.join(FILE)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_looked_for_up_to_the_top_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let (repository, app) = (dir.path().join("repo"), dir.path().join("repo/apps/shop"));
        fs::create_dir_all(&app).unwrap();
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(above(&app), None, "no repository: only the folder");
        fs::create_dir(repository.join(".git")).unwrap();
        assert_eq!(above(&app), None, "not beyond the top");
        fs::write(repository.join(FILE), "").unwrap();
        assert_eq!(above(&app), Some(repository.join(FILE)));
        fs::write(app.join(FILE), "").unwrap();
        assert_eq!(above(&app), Some(app.join(FILE)));
    }
}
