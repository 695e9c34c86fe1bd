//! Where a process runs: user, folders, environment, limits and sandbox, without the command.
//!
//! A process's template and the transient units of its commands (`kind = "exec"` checks) are made from the
//! same value, so a command sees what the process sees and can do no more.

use std::collections::BTreeMap;

use deployd_api::ids::ProcessName;
use deployd_api::spec::Handoff;
use serde::{Deserialize, Serialize};

use super::sandbox::{Setting, Value, sandbox};
use super::{Activation, slice, user};
use crate::secrets::Credential;

/// How a template writes the number of its instance.
pub(super) const SPECIFIER: &str = "%i";

/// Everything of a process's unit but what it executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The slice that it counts to.
    pub slice: String,
    /// User and group.
    pub user: String,
    /// The working folder: the release's tree.
    pub tree: String,
    /// The app's own state, below `/var/lib`.
    pub state_dir: String,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// Those that have the instance's number in them.
    pub numbered: BTreeMap<String, String>,
    /// Its memory limit.
    pub memory: Option<u64>,
    /// Folders that it may write, and where they are mounted in the tree; the outer ones first.
    pub mounts: Vec<(String, String)>,
    /// Its secrets, as PID 1 opens them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<Credential>,
}

impl Surroundings {
    /// All of it, for a unit file or for the bus.
    pub fn settings(&self) -> Vec<Setting> {
        let mut all = Vec::new();
        let mut add = |name, value| all.push(Setting { name, value });
        add("Slice", Value::Path(self.slice.clone()));
        add("User", Value::Path(self.user.clone()));
        add("Group", Value::Path(self.user.clone()));
        add("WorkingDirectory", Value::Path(self.tree.clone()));
        add("StateDirectory", Value::Words(vec![self.state_dir.clone()]));
        add("StateDirectoryMode", Value::Mode(0o750));
        for (name, value) in &self.env {
            add("Environment", Value::Variable(name.clone(), value.clone()));
        }
        for (name, value) in &self.numbered {
            add("Environment", Value::Numbered(name.clone(), value.clone()));
        }
        if let Some(bytes) = self.memory {
            add("MemoryMax", Value::Bytes(bytes));
        }
        for (from, to) in &self.mounts {
            add("BindPaths", Value::Mount(from.clone(), to.clone()));
        }
        for credential in &self.credentials {
            let value = Value::Credential(credential.id.clone(), credential.path.clone());
            all.push(Setting { name: credential.form.directive(), value });
        }
        all.extend(sandbox());
        all
    }
}

impl Activation<'_> {
    /// Where an instance of a process runs. `number` is `%i` for all of them.
    pub(super) fn surroundings(
        &self,
        name: &ProcessName,
        number: &str,
        host: &str,
        region: Option<&str>,
    ) -> Surroundings {
        let spec = self.spec();
        let process = spec.processes.get(name);
        Surroundings {
            slice: slice(&spec.app),
            user: user(&spec.app),
            tree: self.release.tree.clone(),
            state_dir: format!("deployd-apps/{}", spec.app),
            env: self.env(name, host, region),
            numbered: self.numbered(number),
            memory: process.and_then(|p| p.memory),
            mounts: process.map(|p| self.mounts(p)).unwrap_or_default(),
            credentials: self.credentials(),
        }
    }

    /// Where a command of a process runs: as its first instance.
    pub fn command_surroundings(&self, name: &ProcessName, host: &str, region: Option<&str>) -> Surroundings {
        let mut all = self.surroundings(name, "1", host, region);
        // What the trampoline tells a program that has a port of its own.
        if self.spec().listeners_of(name).any(|(_, l)| l.handoff == Handoff::Port) {
            all.env.insert("PORT".to_owned(), (self.base_port(name) + 1).to_string());
        }
        all
    }

    fn credentials(&self) -> Vec<Credential> {
        let sealed = self.release.secrets.as_ref();
        sealed.map(|s| s.credentials(&self.release.document)).unwrap_or_default()
    }

    /// The words of a command that runs beside a process: through the trampoline, which makes variables of
    /// secrets, and without a listener.
    pub fn beside(&self, words: &[String]) -> Vec<String> {
        let trampoline =
            [format!("{}/deployd-exec", self.release.runtime), "run".to_owned(), "--".to_owned()];
        trampoline.into_iter().chain(self.command(words)).collect()
    }

    /// The variables of a process, without what the trampoline adds.
    fn env(&self, process: &ProcessName, host: &str, region: Option<&str>) -> BTreeMap<String, String> {
        let spec = self.spec();
        let mut env = BTreeMap::new();
        if let Some(port) = spec.listeners_of(process).find_map(|(_, l)| l.address.port()) {
            env.insert("PORT".to_owned(), port.to_string());
        }
        let ours = [
            ("DEPLOYD_APP", spec.app.to_string()),
            ("DEPLOYD_RELEASE", self.tag.label.to_string()),
            ("DEPLOYD_PROCESS", process.to_string()),
            ("DEPLOYD_HOST", host.to_owned()),
            ("DEPLOYD_REGION", region.unwrap_or_default().to_owned()),
        ];
        env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        if self.release.beam {
            // A release may not write into its own tree; whoever starts epmd, it listens on loopback only.
            env.insert("RELEASE_TMP".to_owned(), "/tmp".to_owned());
            env.insert("ERL_EPMD_ADDRESS".to_owned(), "127.0.0.1".to_owned());
        }
        env.extend(spec.env.clone());
        env
    }

    fn numbered(&self, number: &str) -> BTreeMap<String, String> {
        let spec = self.spec();
        let mut all = BTreeMap::from([("DEPLOYD_INSTANCE".to_owned(), number.to_owned())]);
        if self.release.beam && !spec.env.contains_key("RELEASE_NODE") {
            // Two nodes with one name refuse to overlap.
            let tag = self.tag.to_string().replace('.', "_");
            all.insert("RELEASE_NODE".to_owned(), format!("{}-{tag}-{number}", spec.app));
        }
        all
    }
}
