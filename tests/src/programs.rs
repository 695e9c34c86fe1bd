//! The programs that suites deploy besides `shop` of [`crate::site`], each as an ordinary user would have it: a folder,
//! a command, and a listener on `$PORT`.
//!
//! All of them answer `/` with `$APP_NAME $APP_VERSION` (the fixture by deployd's own variables, which are the same
//! when a suite counts its pushes), `/health`, `/peer`, and carry `X-Pid`. `tests/apps/README.md` has the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image::{Image, Suite, cache_dir};
use crate::machine::Host;
use crate::package::repository;
use crate::site::Site;

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The fixture's event-driven server: tokio, deployd-handoff.
    Tokio,
    /// The fixture's children that block in accept().
    Prefork,
    /// `node:http`: libuv.
    Node,
    /// `http.server` with a thread a connection.
    Python,
    /// A `mix release`: BEAM.
    Mix,
}

impl Program {
    /// The words of `exec`.
    pub fn exec(self) -> &'static str {
        match self {
            Self::Tokio => "bin/app web",
            Self::Prefork => "bin/app prefork",
            Self::Node => "/usr/bin/node server.js",
            Self::Python => "/usr/bin/python3 server.py",
            Self::Mix => "bin/greeter start",
        }
    }

    /// Puts its files on the host; the folder to push.
    pub fn install(self, site: &Site) -> Result<String> {
        let apps = repository().join("tests/apps");
        let to = format!("/srv/{self:?}").to_lowercase();
        match self {
            Self::Tokio | Self::Prefork => return site.artifact(&format!("{self:?}").to_lowercase()),
            Self::Node => site.host.push_dir(&apps.join("node"), &to)?,
            Self::Python => site.host.push_dir(&apps.join("python"), &to)?,
            Self::Mix => site.host.push_dir(&mix_release()?, &to)?,
        }
        Ok(to)
    }

    /// A spec of the app `shop` with `instances = 2`: `version` is what it says of itself, `listen` the lines of
    /// `[listen.http]`, `env` more variables.
    pub fn spec(self, version: &str, listen: &str, env: &[(&str, &str)]) -> String {
        let lines = env.iter().map(|(name, value)| format!("{name} = \"{value}\"\n"));
        let env = lines.collect::<Vec<_>>().concat();
        format!(
            "app = \"shop\"\n\n[env]\nAPP_NAME = \"shop\"\nAPP_VERSION = \"{version}\"\n{env}\n\
             [processes.web]\nexec = \"{}\"\ninstances = 2\n\n[listen.http]\n{listen}\n\n\
             [checks.health]\npath = \"/health\"\ninterval = \"200ms\"\n\n\
             [deploy]\nwait_timeout = \"30s\"\ndrain_timeout = \"10s\"\nmin_healthy = \"300ms\"\nmonitor = \"300ms\"\n",
            self.exec()
        )
    }
}

/// The `mix release`, built in the oldest root once and cached by the contents of its sources and the root.
fn mix_release() -> Result<PathBuf> {
    let sources = repository().join("tests/apps/mix");
    let image = Image::ensure(Suite::Bookworm)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(image.root().to_string_lossy().as_bytes());
    hash_folder(&sources, &mut hasher)?;
    let folder = cache_dir().join("programs");
    let target = folder.join(format!("mix-{}", &hasher.finalize().to_hex().as_str()[..12]));
    if target.is_dir() {
        return Ok(target);
    }
    let host = Host::boot(&image, "mixbuilder")?;
    host.push_dir(&sources, "/srv/mix")?;
    host.ok("cd /srv/mix && rm -rf _build && MIX_ENV=prod mix release --quiet 2>&1")?;
    fs::create_dir_all(&folder)?;
    let making = tempfile::Builder::new().prefix(".making-mix-").tempdir_in(&folder)?;
    let built = host.outside("/srv/mix/_build/prod/rel/greeter");
    let made = making.path().join("greeter");
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--preserve=mode,links"]).arg(&built).arg(&made);
    ensure!(copy.status().context("failed to run cp")?.success(), "the release could not be copied");
    host.finish()?;
    match fs::rename(&made, &target) {
        // Somebody else was first.
        Err(_) if target.is_dir() => Ok(target),
        renamed => renamed.map(|()| target).context("failed to keep the release"),
    }
}

/// Every file of a folder, by its path and contents, in order.
fn hash_folder(folder: &Path, hasher: &mut blake3::Hasher) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_name() == "_build" {
            continue;
        }
        hasher.update(entry.file_name().as_encoded_bytes()).update(&[0]);
        if entry.file_type()?.is_dir() {
            hash_folder(&entry.path(), hasher)?;
        } else {
            hasher.update(&fs::read(entry.path())?);
        }
    }
    Ok(())
}
