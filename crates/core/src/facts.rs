//! What the planner may know about a host. The agent observes it once, before planning; a plan never
//! looks again.

use std::collections::{BTreeMap, BTreeSet};

use deployd_api::ids::{ProcessName, Timestamp};
use deployd_api::secret::SecretName;
use serde::{Deserialize, Serialize};

use crate::secrets::Form;
use crate::state::AppState;

/// A host, as seen for one plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The app, or a fresh state when the host does not know it.
    pub state: AppState,
    /// Now.
    pub now: Timestamp,
    /// The host's name.
    pub host: String,
    /// The host's region, if the agent's config names one.
    pub region: Option<String>,
    /// Where releases stand: `/var/lib/deployd/apps`.
    pub apps_dir: String,
    /// The folder with trampoline and shim that new releases run with.
    pub runtime: String,
    /// Bytes of memory that a new process could use.
    pub memory_available: u64,
    /// What the artifact is, if the request brings one.
    pub artifact: Option<ArtifactFacts>,
    /// TCP ports of the spec that something else holds, with who.
    pub strangers: BTreeMap<u16, String>,
    /// Who has the app's user name, if it is not ours.
    pub user_taken: Option<String>,
    /// The first of a run of free loopback ports for `handoff = "port"`.
    pub base_port: u16,
    /// How many good releases are kept.
    pub keep: usize,
    /// The unit of the host's epmd.
    pub epmd: Epmd,
    /// How credentials stand on this host.
    #[serde(default)]
    pub credentials: Form,
    /// What a program meets on this host.
    pub platform: Platform,
    /// The versions of the app's secrets.
    pub secrets: BTreeMap<SecretName, u32>,
    /// Those versions that the request names and this host cannot deliver.
    pub unsealed: BTreeMap<SecretName, u32>,
}

/// What a program meets on a host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// `x86_64`.
    pub arch: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// The version of glibc, if there is one: `2.36`.
    pub glibc: Option<String>,
    /// Of the interpreters and libraries that the request asks for, those that are there.
    pub found: BTreeSet<String>,
    /// The mount point of the folder of releases, when programs may not run from it.
    pub noexec: Option<String>,
}

/// Who needs the unit of the host's epmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Epmd {
    /// There is none.
    Missing,
    /// It is there, and no other app has units that ask for it.
    Unshared,
    /// Other apps have.
    Shared,
}

/// What is known of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactFacts {
    /// Bytes of its files.
    pub size: u64,
    /// Whether all of its files are here.
    pub complete: bool,
    /// Bytes that staging still needs.
    pub needs: u64,
    /// Bytes free beyond the reserve and what other pushes will use.
    pub room: u64,
    /// Whether it is a BEAM release: `releases/start_erl.data` is there.
    pub beam: bool,
    /// The epmd of a BEAM release: a path in the artifact, or an absolute one of the host.
    pub epmd: Option<String>,
    /// What each process's program is.
    pub programs: BTreeMap<ProcessName, Program>,
}

/// What a program is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// Dynamically linked, or a script whose interpreter is: the shim works.
    Dynamic,
    /// Statically linked: the shim cannot reach it.
    Static {
        /// The file.
        path: String,
    },
    /// Not there, neither in the artifact nor on the host.
    Missing {
        /// What was looked for.
        path: String,
    },
    /// There, without an execute bit.
    NotExecutable {
        /// The file.
        path: String,
    },
    /// Built for another architecture than the host's.
    ForeignArchitecture {
        /// The file.
        path: String,
        /// Which, in words.
        machine: String,
    },
    /// Not looked at, for instance because the files are not here yet.
    Unknown,
}
