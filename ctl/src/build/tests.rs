//! Builds of a shell, folders and tar files.

use deployd_api::spec::parse_project;

use super::*;
use crate::cli::Cli;

struct Folder(TempDir);

impl Folder {
    fn new(build: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = format!("app = \"shop\"\n{build}\n[processes.web]\nexec = \"bin/web\"\n");
        fs::write(dir.path().join("deployd.toml"), spec).unwrap();
        Self(dir)
    }

    fn make(&self, named: Option<&str>, building: Building) -> Result<Artifact, CtlError> {
        let spec = self.0.path().join("deployd.toml");
        let project = parse_project(&fs::read_to_string(&spec).unwrap()).unwrap();
        let named = named.map(|name| self.0.path().join(name));
        let cli = <Cli as clap::Parser>::try_parse_from(["deployd-ctl", "-q", "doctor"]).unwrap();
        let printer = Printer::new(&cli.global);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(make(&printer, &project, &spec, named.as_deref(), building))
    }

    fn refused(&self, named: Option<&str>, building: Building) -> ErrorBody {
        let body = self.make(named, building).unwrap_err().to_body();
        assert!(!body.hint.is_empty());
        body
    }
}

const BUILD: &str = "[build]\ncommand = \"mkdir -p out && echo hello > out/file\"\nartifact = \"out\"";

#[test]
fn the_build_runs_in_the_folder_of_the_spec() {
    let folder = Folder::new(BUILD);
    let artifact = folder.make(None, Building::Run).unwrap();
    assert_eq!(artifact.root, folder.0.path().join("out"));
    assert_eq!(fs::read_to_string(artifact.root.join("file")).unwrap(), "hello\n");
    assert!(artifact.built.unwrap().command.starts_with("mkdir"));
}

#[test]
fn a_failed_build_tells_its_status_and_its_last_lines() {
    let folder = Folder::new("[build]\ncommand = \"echo one; echo two >&2; exit 3\"\nartifact = \"out\"");
    let body = folder.refused(None, Building::Run);
    assert_eq!(body.code, ErrorCode::BuildFailed);
    assert!(body.message.contains("exit status 3"), "{}", body.message);
    let log: Vec<&str> = body.causes.iter().filter(|(h, _)| h == "log").map(|(_, l)| l.as_str()).collect();
    assert_eq!(log, ["one", "two"]);
    let folder = Folder::new("[build]\ncommand = \"kill -KILL $$\"\nartifact = \"out\"");
    assert!(folder.refused(None, Building::Run).message.contains("SIGKILL"));
}

/// A daemon that the build leaves behind keeps the pipe open; it is not waited for.
#[test]
fn what_the_build_leaves_running_is_not_waited_for() {
    let folder =
        Folder::new("[build]\ncommand = \"mkdir out; sleep 1000 & echo $! > out/pid\"\nartifact = \"out\"");
    let artifact = folder.make(None, Building::Run).unwrap();
    let pid = fs::read_to_string(artifact.root.join("pid")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn what_is_missing_is_told_with_what_to_do() {
    let folder = Folder::new(BUILD);
    let body = folder.refused(None, Building::Skip);
    assert!(body.message.ends_with("it was not built yet"), "{}", body.message);
    assert!(folder.refused(Some("else"), Building::Run).hint.starts_with("name the folder"));
    assert!(!folder.0.path().join("out").exists(), "a named folder is not built");
    let folder = Folder::new("[build]\ncommand = \"true\"\nartifact = \"out\"");
    let body = folder.refused(None, Building::Run);
    assert!(body.message.starts_with("the build went well"), "{}", body.message);
    assert!(body.hint.contains("[build] artifact"), "{}", body.hint);
    fs::write(folder.0.path().join("out"), "a file").unwrap();
    assert!(folder.refused(None, Building::Run).message.contains("neither a folder nor a tar file"));
}

#[test]
fn a_tar_file_is_unpacked_for_as_long_as_it_is_needed() {
    let folder = Folder::new(
        "[build]\ncommand = \"mkdir o; echo x > o/f; tar czf a.tar.gz -C o .\"\nartifact = \"a.tar.gz\"",
    );
    let artifact = folder.make(None, Building::Run).unwrap();
    let root = artifact.root.clone();
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "x\n");
    drop(artifact);
    assert!(!root.exists());
}

#[test]
fn what_killed_pushes_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["artifact-old", "kept"] {
        fs::create_dir_all(dir.path().join(name).join("x")).unwrap();
    }
    sweep(dir.path(), SystemTime::UNIX_EPOCH);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "they are in use");
    sweep(dir.path(), SystemTime::now() + LEFT_AFTER);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
}
