//! Everything that can be done to a host, as data. The agent has one short arm for each.
//!
//! Every action is idempotent: carried out twice, or again after a crash in its middle, it leaves what
//! carrying it out once leaves. That is why a step that a crash left open is simply run again, and why a
//! step's undo is nothing but other actions.

use std::collections::BTreeMap;

use deployd_api::ids::{AppName, CheckName, Digest, Label, ListenerName, ProcessName};
use deployd_api::spec::{Address, Check, Millis};
use serde::{Deserialize, Serialize};

use crate::state::{Change, Release, Tag};
use crate::units::Surroundings;

/// A file that the agent writes, whole, by rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFile {
    /// Absolute path.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// One instance of a process, and how to judge it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The unit.
    pub unit: String,
    /// The activation it belongs to.
    pub tag: Tag,
    /// The process.
    pub process: ProcessName,
    /// Its number, from 1.
    pub number: u32,
}

/// A listener of one activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// The `.socket` unit.
    pub unit: String,
    /// The activation it belongs to.
    pub tag: Tag,
    /// The listener.
    pub listener: ListenerName,
    /// Where it listens.
    pub address: Address,
}

impl Socket {
    /// Whether the kernel groups it with others on its address: Unix sockets have no groups.
    pub fn is_grouped(&self) -> bool {
        self.address.port().is_some()
    }

    /// The group that it belongs to. It is the address, not the listener's name, that the kernel goes by.
    pub fn group(&self) -> String {
        self.address.listen_stream()
    }
}

/// What a check needs to be carried out against one activation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The activation that is judged.
    pub tag: Tag,
    /// The instances that must stay up.
    pub instances: Vec<Instance>,
    /// The sockets that checks go to.
    pub sockets: Vec<Socket>,
    /// The private ports behind listeners with `handoff = "port"`, one an instance. What answers on such a
    /// listener is the proxy: whether the app accepts can only be asked there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<ListenerName, Vec<u16>>,
    /// The checks.
    pub checks: BTreeMap<CheckName, Check>,
    /// What may be wrong if it fails, as far as the plan could see.
    pub advice: Option<String>,
    /// Where those of them run that are commands.
    pub commands: BTreeMap<CheckName, CommandSite>,
}

/// Where a command of a release runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSite {
    /// What is around it: that of the process it belongs to.
    pub surroundings: Surroundings,
    /// The listener that `$DEPLOYD_CANDIDATE_URL` leads to, if the release has one.
    pub listener: Option<ListenerName>,
}

/// One thing done to a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Make the app's system user.
    EnsureUser {
        /// The app.
        app: AppName,
        /// User and group.
        user: String,
        /// Both ids.
        uid: u32,
    },
    /// Remove the app's system user.
    RemoveUser {
        /// The app.
        app: AppName,
        /// User and group.
        user: String,
    },
    /// Turn the staged files into a release tree.
    Seal {
        /// The app.
        app: AppName,
        /// The staged artifact.
        artifact: Digest,
        /// The tree's folder.
        tree: String,
    },
    /// Remove a release tree.
    RemoveTree {
        /// The app.
        app: AppName,
        /// The tree's folder.
        tree: String,
    },
    /// Make the folders that a release may write, owned by its user, and their mount points in the tree.
    PrepareDirs {
        /// The app.
        app: AppName,
        /// The tree's folder.
        tree: String,
        /// Owner of all of them.
        uid: u32,
        /// Folders private to the release, relative to its root.
        writable: Vec<String>,
        /// Folders kept over releases, relative to its root.
        shared: Vec<String>,
    },
    /// Remove folders with all they hold.
    RemoveDirs {
        /// Absolute paths, each below the folder of apps' states.
        dirs: Vec<String>,
    },
    /// Write files, each by rename.
    WriteFiles {
        /// Which.
        files: Vec<UnitFile>,
    },
    /// Remove files, and drop-in folders that are empty then.
    RemoveFiles {
        /// Absolute paths.
        paths: Vec<String>,
    },
    /// Make sure that the host has a unit for epmd, with a program of its own. One that is there, running or
    /// not, is left as it is; who needs it starts it by `Wants=`.
    EnsureEpmd {
        /// The program, in a release or of the host.
        source: String,
        /// Where its copy stands.
        program: String,
        /// The unit.
        unit: UnitFile,
    },
    /// Stop and remove the host's epmd and its program, unless another app has a unit that asks for it: a
    /// plan may be older than that app.
    RemoveEpmd {
        /// The app that does not need it any more.
        app: AppName,
        /// Where its program stands.
        program: String,
    },
    /// Run the release's migration to its end, as a transient unit. Whoever carries it out finds a unit of that name
    /// and waits for it instead of running it a second time: the unit stays until [`Action::ClearMigration`], so a
    /// migration never runs twice in one boot.
    Migrate {
        /// The transient unit.
        unit: String,
        /// The activation that it belongs to.
        tag: Tag,
        /// What runs, trampoline first; the first word is an absolute path.
        words: Vec<String>,
        /// The command as the spec says it.
        command: String,
        /// What is around it: that of the first process.
        surroundings: Box<Surroundings>,
        /// Longest time.
        timeout: Millis,
    },
    /// End a migration's unit and forget how it ended. What the migration did stays.
    ClearMigration {
        /// The transient unit.
        unit: String,
    },
    /// Send all new connections of a listener to one activation: to the index that it has among those
    /// recorded members that the kernel really has. Nothing happens when it is not among them: then it is
    /// gone, and the kernel sends everything to who is left.
    Steer {
        /// The listener.
        listener: ListenerName,
        /// Every socket of the group that may be there.
        sockets: Vec<Socket>,
        /// Who gets the traffic.
        to: Tag,
    },
    /// Start a `.socket` unit and borrow its descriptor.
    OpenListener {
        /// Which.
        socket: Socket,
        /// Whether to borrow through the non-blocking lender.
        nonblocking: bool,
    },
    /// Stop a `.socket` unit: PID 1 starts nothing for it any more. What holds the socket still serves.
    /// Borrow it first when it is active and not held yet (an instance's `Sockets=` may have opened it):
    /// otherwise nobody could take it out of its group later.
    CloseListener {
        /// Which.
        socket: Socket,
    },
    /// Wait until nothing is queued in a listener for longer than a handshake.
    AwaitEmptyQueue {
        /// Which.
        socket: Socket,
        /// How long it must be empty.
        quiet: Millis,
        /// Longest wait.
        cap: Millis,
    },
    /// Hand what is still queued in a listener to whoever has the traffic, from a unit of its own.
    Relay {
        /// Which.
        socket: Socket,
        /// The transient unit.
        unit: String,
        /// It accepts no more when nothing arrived for this long.
        quiet: Millis,
        /// Longest time it accepts.
        cap: Millis,
        /// How long it carries what it accepted; `None` is to the end. The step does not wait for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        carry: Option<Millis>,
    },
    /// Take a listener, closed before, out of its group for everyone who holds it, and give the
    /// descriptor up. Whoever carries it out learns [`Change::Left`] when the member is really gone: shut
    /// down here, or held by nobody any more. A process that still holds it while the agent lost its
    /// descriptor keeps it there, harmless under the program that stands; then nothing is learned, and
    /// [`plan_drained`](crate::plan::plan_drained) does it when the process has ended.
    LeaveGroup {
        /// Which.
        socket: Socket,
    },
    /// Start an instance and wait until systemd says that it is active.
    StartInstance {
        /// Which.
        instance: Instance,
        /// Longest wait.
        timeout: Millis,
    },
    /// Stop an instance.
    StopInstance {
        /// Which.
        instance: Instance,
        /// Wait for its end, or only ask for it.
        wait: bool,
    },
    /// Restart an instance and wait until it is active.
    RestartInstance {
        /// Which.
        instance: Instance,
        /// Longest wait.
        timeout: Millis,
    },
    /// Wait until something accepts on the private port of an instance with `handoff = "port"`: its proxy
    /// takes connections before it does, and would drop them.
    AwaitPort {
        /// The instance.
        instance: Instance,
        /// Its port on loopback.
        port: u16,
        /// Longest wait.
        timeout: Millis,
        /// Crashes that are forgiven.
        restarts: u32,
    },
    /// Wait until a proxy, whose app has ended, carries nothing any more: its end cuts what it carries.
    AwaitCarried {
        /// The proxy.
        proxy: Instance,
        /// Longest wait.
        cap: Millis,
    },
    /// Wait until the first instance has accepted a connection; read what it made of its listener's
    /// `O_NONBLOCK`; write it down for the others. One that never accepts has failed.
    LearnNonblocking {
        /// The first instance of a process.
        first: Instance,
        /// One of its sockets.
        socket: Socket,
        /// The drop-in to write when it differs from what the unit says.
        drop_in: String,
        /// What the unit says.
        unit_says: bool,
        /// Reload now, because a second instance is about to start and the first has the old value.
        reload: bool,
        /// Longest wait for its first accept.
        timeout: Millis,
        /// Crashes that are forgiven.
        #[serde(default)]
        restarts: u32,
        /// What to say when it never accepts.
        #[serde(default)]
        advice: Option<String>,
    },
    /// Reload systemd when one of these units was loaded with an older text.
    ReloadIfNeeded {
        /// Units to look at.
        units: Vec<String>,
    },
    /// Wait until every check that gates traffic passes.
    Check {
        /// What is judged.
        trial: Trial,
        /// Longest wait.
        timeout: Millis,
        /// Crashes of a process that are forgiven.
        restarts: u32,
    },
    /// Keep judging for a while with all traffic.
    Watch {
        /// What is judged.
        trial: Trial,
        /// How long.
        duration: Millis,
        /// Crashes that are forgiven.
        restarts: u32,
        /// Whether a new push may end it early.
        supersedable: bool,
        /// How long after it a process that just ended may take to be up, or counted as crashed.
        #[serde(default = "no_time")]
        settle: Millis,
    },
    /// Change what the host knows.
    Record {
        /// How.
        change: Change,
    },
    /// Make what is live the thing that boots: one rename. It fails only before the rename: what goes
    /// wrong after it (the folder's fsync) is a note, not a failure.
    Commit {
        /// The app's `.target`.
        target: UnitFile,
        /// The link that makes it part of the boot.
        wanted_by: String,
    },
    /// Remove units, trees and folders of what has ended; whatever cannot go is reported, never fatal.
    Sweep {
        /// The app.
        app: AppName,
        /// Trees to remove.
        trees: Vec<String>,
        /// The releases they belong to.
        labels: Vec<Label>,
    },
    /// Forget the app, and give up every descriptor of it.
    ForgetApp {
        /// Which.
        app: AppName,
    },
}

impl Action {
    /// A release becomes known.
    pub fn add(release: Release) -> Self {
        Self::Record { change: Change::Add { release: Box::new(release) } }
    }

    /// Stable word for the kind of action, as events and the journal name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EnsureUser { .. } => "ensure-user",
            Self::RemoveUser { .. } => "remove-user",
            Self::Seal { .. } => "seal",
            Self::RemoveTree { .. } => "remove-tree",
            Self::PrepareDirs { .. } => "prepare-dirs",
            Self::RemoveDirs { .. } => "remove-dirs",
            Self::WriteFiles { .. } => "write-units",
            Self::RemoveFiles { .. } => "remove-units",
            Self::EnsureEpmd { .. } => "ensure-epmd",
            Self::RemoveEpmd { .. } => "remove-epmd",
            Self::Migrate { .. } => "migrate",
            Self::ClearMigration { .. } => "clear-migration",
            Self::Steer { .. } => "steer",
            Self::OpenListener { .. } => "open-listener",
            Self::CloseListener { .. } => "close-listener",
            Self::AwaitEmptyQueue { .. } => "await-empty-queue",
            Self::Relay { .. } => "relay",
            Self::LeaveGroup { .. } => "leave-group",
            Self::StartInstance { .. } => "start-instance",
            Self::StopInstance { .. } => "stop-instance",
            Self::RestartInstance { .. } => "restart-instance",
            Self::LearnNonblocking { .. } => "learn-nonblocking",
            Self::AwaitPort { .. } => "await-port",
            Self::AwaitCarried { .. } => "await-carried",
            Self::ReloadIfNeeded { .. } => "reload",
            Self::Check { .. } => "check",
            Self::Watch { supersedable: false, .. } => "watch",
            Self::Watch { supersedable: true, .. } => "monitor",
            Self::Record { change: Change::Live { .. } } => "mark-live",
            Self::Record { change: Change::Draining { .. } } => "drain",
            Self::Record { .. } => "record",
            Self::Commit { .. } => "commit",
            Self::Sweep { .. } => "prune",
            Self::ForgetApp { .. } => "forget-app",
        }
    }

    /// Whether it has to be carried out in an undo after the host restarted. What concerns the activation
    /// that booted by itself, and everything that only lived in the kernel, has not.
    pub fn outlives_reboot(&self, booted: Option<Tag>) -> bool {
        match self {
            Self::AwaitEmptyQueue { .. }
            | Self::Relay { .. }
            | Self::LearnNonblocking { .. }
            | Self::AwaitPort { .. }
            | Self::AwaitCarried { .. }
            | Self::Migrate { .. }
            | Self::ClearMigration { .. }
            | Self::Check { .. }
            | Self::Watch { .. } => false,
            Self::OpenListener { socket, .. }
            | Self::CloseListener { socket }
            | Self::LeaveGroup { socket } => booted != Some(socket.tag),
            Self::StartInstance { instance, .. }
            | Self::StopInstance { instance, .. }
            | Self::RestartInstance { instance, .. } => booted != Some(instance.tag),
            _ => true,
        }
    }

    /// What the host knows once the action has begun: only a group's growth, which must be known before
    /// the kernel has it.
    pub fn change_at_start(&self) -> Option<Change> {
        match self {
            Self::OpenListener { socket, .. } if socket.is_grouped() => {
                Some(Change::Joined { socket: socket.clone() })
            }
            _ => None,
        }
    }

    /// What the host knows once the action is done. What only the effect can tell (whether a member is
    /// really out of its group, what an app made of its listener) is a
    /// [`Record::Learned`](crate::journal::Record::Learned) of its own.
    pub fn change_at_end(&self) -> Option<Change> {
        match self {
            Self::Record { change } => Some(change.clone()),
            Self::Commit { .. } => Some(Change::Committed),
            Self::Sweep { labels, .. } if !labels.is_empty() => {
                Some(Change::Forget { labels: labels.clone() })
            }
            _ => None,
        }
    }
}

/// For plans of before there was such a wait.
fn no_time() -> Millis {
    Millis(0)
}
