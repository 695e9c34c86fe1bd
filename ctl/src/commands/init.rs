//! `init`: writes the first `deployd.toml`, says what it took from where, and what to do next. Needs no agent.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use deployd_api::spec::parse_project;
use serde::Serialize;

use crate::cli::{Global, Init};
use crate::error::CtlError;
use crate::fleet;
use crate::init::{self, Check, Draft};
use crate::pki::{Home, home};
use crate::printer::Printer;
use crate::table::wrap;

/// Column at which texts begin.
const INDENT: usize = 10;

/// What was done, for programs.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    file: String,
    app: &'a str,
    project: &'a str,
    notes: &'a [String],
    /// What still has to be filled in.
    fill_in: Vec<String>,
    next: &'a [String],
}

pub(crate) fn run(args: &Init, global: &Global, printer: &Printer) -> Result<(), CtlError> {
    let path = global.spec();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let old = refuse_existing(&path, args)?;
    // A file that has errors has its own command: hosts check tells them.
    let fleet = fleet::find(global).ok();
    let groups = fleet.map(|fleet| fleet.groups().into_iter().map(str::to_owned).collect());
    let draft = init::draft(folder, global.app.as_ref(), groups);
    let text = draft.render();
    write(&path, folder, &text, old.as_deref()).map_err(|e| CtlError::Usage {
        message: format!("cannot write {}: {e}; nothing was changed", path.display()),
        hint: "run it in a folder that you may write".to_owned(),
    })?;
    let file = path.display().to_string();
    let fill_in = parse_project(&text).err().map(|e| e.render(&file)).unwrap_or_default();
    let fill_in: Vec<String> = fill_in.lines().map(str::to_owned).collect();
    let next = next(&draft, &fill_in, &file);
    let app = draft.app.as_deref().unwrap_or_default();
    if printer.is_json() {
        let (project, notes) = (draft.project.as_str(), draft.notes.as_slice());
        return printer.json(&Answer { file, app, project, notes, fill_in, next: &next });
    }
    explain(printer, &draft, old.as_deref());
    for line in &fill_in {
        section(printer, "fill in", line);
    }
    let end = if fill_in.is_empty() { "" } else { ", with places to fill in" };
    printer.data(&format!("{file} is written for {app}{end}."))?;
    let headings = std::iter::once("next: ").chain(std::iter::repeat("then: "));
    next.iter().zip(headings).try_for_each(|(line, heading)| printer.data(&format!("{heading}{line}")))
}

/// Where the file that is in the way will be kept, if one is and may be replaced.
fn refuse_existing(path: &Path, args: &Init) -> Result<Option<PathBuf>, CtlError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    let (shown, old) = (path.display(), PathBuf::from(old));
    if args.force {
        return Ok(Some(old));
    }
    Err(CtlError::Usage {
        message: format!("{shown} exists; nothing was changed"),
        hint: format!(
            "edit it, or write it anew: deployd-ctl init --force (the old one is kept as {})",
            old.display()
        ),
    })
}

/// Whole or not at all; a file that came meanwhile is not overwritten.
fn write(path: &Path, folder: &Path, text: &str, old: Option<&Path>) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    match old {
        Some(old) => {
            // A copy, so that there is a spec at every moment.
            fs::copy(path, old)?;
            file.persist(path)?;
        }
        None => drop(file.persist_noclobber(path)?),
    }
    fs::File::open(folder)?.sync_all()
}

fn explain(printer: &Printer, draft: &Draft, old: Option<&Path>) {
    let found = if draft.is_unknown() { "no kind of project that is known" } else { &draft.project };
    section(printer, "found", found);
    if let Some((command, artifact)) = &draft.build {
        section(printer, "build", &format!("{command} → {artifact}"));
    }
    for process in &draft.processes {
        section(printer, &process.name, &process.exec);
    }
    match &draft.check {
        Some(Check::Path { path, from }) => section(printer, "check", &format!("GET {path}, {from}")),
        Some(Check::Root) => section(printer, "check", "GET / answers 200-399; no health path was found"),
        Some(Check::Tcp) => {
            section(printer, "check", "tcp: neither a health path nor / was found in its routes");
        }
        None => {}
    }
    if !draft.secrets.is_empty() {
        section(printer, "secrets", &draft.secrets.join(", "));
    }
    draft.notes.iter().for_each(|note| section(printer, "note", note));
    if let Some(old) = old {
        section(printer, "kept", &format!("the old file as {}", old.display()));
    }
}

fn section(printer: &Printer, heading: &str, text: &str) {
    let mut heading = heading;
    for line in wrap(text, 100 - INDENT) {
        printer.talk(format!("{heading:<INDENT$}{line}").trim_end());
        heading = "";
    }
}

/// The commands that lead to the app being live.
fn next(draft: &Draft, fill_in: &[String], file: &str) -> Vec<String> {
    let app = draft.app.as_deref().unwrap_or_default();
    let mut next = Vec::new();
    if !fill_in.is_empty() {
        next.push(format!("edit {file}"));
    }
    if draft.groups.is_none() {
        if !Home::find().is_ok_and(|home| home.has(home::CA) || home.has(home::IDENTITY)) {
            next.push("deployd-ctl pki init (once, for all your hosts)".to_owned());
        }
        next.push("deployd-ctl hosts add NAME --ssh root@ADDRESS (each host, once)".to_owned());
    }
    next.extend(draft.secrets.iter().map(|name| format!("deployd-ctl secrets set {name} -a {app}")));
    next.push("deployd-ctl push".to_owned());
    next
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn init(folder: &Path, arguments: &[&str]) -> Result<(), CtlError> {
        let file = folder.join("deployd.toml");
        let all = ["deployd-ctl", "-q", "init", "-c", file.to_str().unwrap()];
        let cli = Cli::try_parse_from(all.iter().chain(arguments)).unwrap();
        let Command::Init(args) = &cli.command else { panic!("{:?}", cli.command) };
        run(args, &cli.global, &Printer::new(&cli.global))
    }

    #[test]
    fn it_never_overwrites_and_force_keeps_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        init(dir.path(), &["-a", "shop"]).unwrap();
        assert!(read("deployd.toml").contains("app = \"shop\""));
        fs::write(dir.path().join("deployd.toml"), "mine").unwrap();
        let refused = init(dir.path(), &[]).unwrap_err().to_body();
        assert!(refused.message.contains("exists; nothing was changed"), "{refused:?}");
        assert!(refused.hint.contains("init --force"), "{refused:?}");
        assert_eq!(read("deployd.toml"), "mine");
        init(dir.path(), &["--force", "-a", "shop"]).unwrap();
        assert_eq!(read("deployd.toml.old"), "mine");
        assert!(read("deployd.toml").contains("app = \"shop\""));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
    }
}
