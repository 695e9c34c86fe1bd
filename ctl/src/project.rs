//! What the current folder says: the spec, the app, the git commit, and who we are.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use deployd_api::ids::{AppName, DeploymentId};
use deployd_api::release::Origin;
use deployd_api::spec::{self, Project, Spec};

use crate::cli::Global;
use crate::error::CtlError;

/// Reads all that `deployd.toml` says.
pub(crate) fn read_project(global: &Global) -> Result<Project, CtlError> {
    let path = global.spec();
    let file = path.display();
    let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound if global.config.is_none() => CtlError::Usage {
            message: "there is no deployd.toml in this folder".to_owned(),
            hint: "write one for the project here: deployd-ctl init; or name the file: -c FILE".to_owned(),
        },
        _ => CtlError::Usage {
            message: format!("cannot read the spec {file}: {e}"),
            hint: "run it in the folder of deployd.toml, or name the file: -c FILE".to_owned(),
        },
    })?;
    let project = spec::parse_project(&text).map_err(|e| CtlError::Spec(e.render(&file.to_string())))?;
    match &global.app {
        Some(app) if *app != project.spec.app => Err(CtlError::Usage {
            message: format!("-a says {app}, and {file} is the spec of {}", project.spec.app),
            hint: "leave -a out, or name another spec: -c FILE".to_owned(),
        }),
        _ => Ok(project),
    }
}

/// The spec alone.
pub(crate) fn read_spec(global: &Global) -> Result<Spec, CtlError> {
    read_project(global).map(|project| project.spec)
}

/// What is at hand, for a verb that may do without. One of another app is none; one that was named must be there.
pub(crate) fn find_project(global: &Global) -> Result<Option<Project>, CtlError> {
    if global.config.is_none() && !global.spec().exists() {
        return Ok(None);
    }
    if global.config.is_some() || global.app.is_none() {
        return read_project(global).map(Some);
    }
    Ok(read_project(global).ok())
}

/// The app that a command means, if one is clear. A spec that was named must be there.
pub(crate) fn find_app(global: &Global) -> Result<Option<AppName>, CtlError> {
    if global.config.is_some() {
        return read_spec(global).map(|spec| Some(spec.app));
    }
    if global.app.is_some() {
        return Ok(global.app.clone());
    }
    if !global.spec().exists() {
        return Ok(None);
    }
    read_spec(global).map(|spec| Some(spec.app))
}

/// Where a table of the spec stands, as `FILE:LINE`, if it is written as a table.
pub(crate) fn place_of(global: &Global, table: &str) -> Option<String> {
    let path = global.spec();
    let text = fs::read_to_string(&path).ok()?;
    let line = text.lines().position(|line| line.split('#').next().is_some_and(|l| l.trim() == table))?;
    Some(format!("{}:{}", path.display(), line + 1))
}

/// The app that a command needs.
pub(crate) fn need_app(global: &Global) -> Result<AppName, CtlError> {
    find_app(global)?.ok_or_else(|| CtlError::Usage {
        message: "which app?".to_owned(),
        hint: "add -a APP, or run it in the folder of deployd.toml".to_owned(),
    })
}

/// Who does it, from what.
pub(crate) fn origin() -> Origin {
    let name = |key| std::env::var(key).ok().filter(|v| !v.is_empty());
    let by = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(name);
    Origin { by: by.unwrap_or_else(account), git: git_commit() }
}

/// The account that runs this, from the host's own list: a static binary has no other.
fn account() -> String {
    let uid = nix::unistd::getuid().to_string();
    let list = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

/// `8c1f2ab`, with `+dirty`; `None` outside a repository or without git.
fn git_commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    Some(if dirty { format!("{commit}+dirty") } else { commit }).filter(|c| !c.is_empty())
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A new id for a call that changes something.
pub(crate) fn new_id() -> Result<DeploymentId, CtlError> {
    let mut bytes = [0; 16];
    let read = |mut file: fs::File| io::Read::read_exact(&mut file, &mut bytes);
    fs::File::open("/dev/urandom").and_then(read).map_err(CtlError::Runtime)?;
    Ok(DeploymentId::from_random(bytes))
}
