//! What a host knows of an app. It changes only by [`AppState::apply`], and each change is stored in the
//! transaction of the journal record that causes it, so the two never disagree.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use deployd_api::error::ErrorBody;
use deployd_api::ids::{AppName, Digest, Label, ProcessName, Timestamp};
use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
use deployd_api::spec::Spec;
use serde::{Deserialize, Serialize};

use crate::action::Socket;
pub use crate::change::{Change, Unended};
use crate::secrets::Sealed;
use crate::units::Activation;

/// One activation of a release: its label, and the how manieth time it is started from nothing. Unit
/// names carry it, so a release that comes back never meets its own units that still drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag {
    /// The release.
    pub label: Label,
    /// The activation, from 1.
    pub run: u32,
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            1 => self.label.fmt(f),
            run => write!(f, "{}.{run}", self.label),
        }
    }
}

impl FromStr for Tag {
    type Err = deployd_api::ids::InvalidId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let Some((label, run)) = s.split_once('.') else {
            return Ok(Self { label: s.parse()?, run: 1 });
        };
        let reason = "activations are v1, v1.2, v1.3, …";
        let invalid = || deployd_api::ids::InvalidId { kind: "activation", value: s.to_owned(), reason };
        let run = run.parse().ok().filter(|r| *r > 1).ok_or_else(invalid)?;
        Ok(Self { label: label.parse()?, run })
    }
}

impl TryFrom<String> for Tag {
    type Error = deployd_api::ids::InvalidId;
    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Tag> for String {
    fn from(t: Tag) -> String {
        t.to_string()
    }
}

/// A release that the host has, or had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its label.
    pub label: Label,
    /// Which release it is: the digest of its full document, the same on every host.
    pub digest: Digest,
    /// What this host runs of it: the processes that are placed here.
    pub document: ReleaseDocument,
    /// What activations up to these ran of it, when other processes were placed here then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<(u32, Spec)>,
    /// Where its tree stands.
    pub tree: String,
    /// The folder with the trampoline and shim that it runs with.
    pub runtime: String,
    /// Whether its tree is a BEAM release.
    pub beam: bool,
    /// Where the epmd of a BEAM release is, if it has one: the host's unit runs a copy of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epmd: Option<String>,
    /// Its state.
    pub state: ReleaseState,
    /// When it was made.
    pub created: Timestamp,
    /// Who made it, from what.
    pub origin: Origin,
    /// What changed against the release before.
    pub changed: Vec<String>,
    /// Why it was rolled back.
    pub failure: Option<ErrorBody>,
    /// Bytes of its files.
    pub size: u64,
    /// How often it was activated.
    pub runs: u32,
    /// The lowest private port of `handoff = "port"` of the last activation.
    pub base_port: u16,
    /// Its secrets, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Sealed>,
}

impl Release {
    /// What an activation of it ran, or runs.
    pub fn spec_of(&self, tag: Tag) -> &Spec {
        let earlier = self.earlier.iter().find(|(last, _)| tag.run <= *last);
        earlier.map_or(&self.document.spec, |(_, spec)| spec)
    }

    /// The same release with other processes from now on.
    #[must_use]
    pub fn placed(&self, document: ReleaseDocument) -> Self {
        let mut release = self.clone();
        release.earlier.push((self.runs, self.document.spec.clone()));
        release.document = document;
        release
    }

    /// Whether its tree is still there, so that one can go back to it.
    pub fn is_kept(&self) -> bool {
        match self.state {
            ReleaseState::Live | ReleaseState::Kept => true,
            ReleaseState::Candidate | ReleaseState::RolledBack => false,
        }
    }
}

/// What a host knows of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppState {
    /// The app.
    pub app: AppName,
    /// The uid of its user; it belongs to the app for ever.
    pub uid: u32,
    /// What has the traffic.
    pub live: Option<Tag>,
    /// Since when.
    pub live_since: Option<Timestamp>,
    /// What boots.
    pub committed: Option<Tag>,
    /// When it was committed.
    pub committed_at: Option<Timestamp>,
    /// What the live release replaced: where `rollback` goes.
    pub previous: Option<Label>,
    /// What is on trial.
    pub candidate: Option<Tag>,
    /// What runs at 0 %, ready to take over again.
    pub warm: Option<Tag>,
    /// What finishes its last connections.
    pub draining: Vec<Tag>,
    /// Whether it was stopped on purpose.
    pub stopped: bool,
    /// What was asked for and ended in its middle, because one of its steps failed.
    #[serde(default)]
    pub unended: Option<Unended>,
    /// Its releases.
    pub releases: BTreeMap<Label, Release>,
    /// For each address ([`Socket::group`]) the members of its reuseport group, in the order of their
    /// listen(). A listener that is renamed stays in its group; one with a new address joins another.
    pub groups: BTreeMap<String, Vec<Socket>>,
    /// Whether a process's listeners are non-blocking: learned from its first instance.
    pub nonblocking: BTreeMap<ProcessName, bool>,
}

impl AppState {
    /// The uid of an app that was asked for and not taken in yet: root's, so never an app's.
    pub const NOT_TAKEN_IN: u32 = 0;

    /// Whether the host has taken the app in: before that nothing of it is written down.
    pub fn is_taken_in(&self) -> bool {
        self.uid != Self::NOT_TAKEN_IN
    }

    /// An app that the host does not know yet.
    pub fn new(app: AppName, uid: u32) -> Self {
        Self {
            app,
            uid,
            live: None,
            live_since: None,
            committed: None,
            committed_at: None,
            previous: None,
            candidate: None,
            warm: None,
            draining: Vec::new(),
            stopped: false,
            unended: None,
            releases: BTreeMap::new(),
            groups: BTreeMap::new(),
            nonblocking: BTreeMap::new(),
        }
    }

    /// Whether anything of the app is installed: units, user, trees.
    pub fn is_installed(&self) -> bool {
        self.live.is_some() || self.candidate.is_some() || !self.draining.is_empty()
    }

    /// The label that the next release gets.
    pub fn next_label(&self) -> Label {
        self.releases.keys().next_back().map_or(Label::FIRST, |l| l.next())
    }

    /// The release that has the traffic.
    pub fn live_release(&self) -> Option<&Release> {
        self.live.and_then(|t| self.releases.get(&t.label))
    }

    /// What runs of it.
    pub fn live_spec(&self) -> Option<&Spec> {
        let tag = self.live?;
        Some(self.releases.get(&tag.label)?.spec_of(tag))
    }

    /// Applies a change. `failure` is the deployment's, for [`Change::Fail`]. Applying one twice equals
    /// applying it once, because a step that a crash left open runs again.
    pub fn apply(&mut self, change: &Change, at: Timestamp, failure: Option<&ErrorBody>) {
        match change {
            Change::Candidate { tag, base_port } => {
                self.candidate = Some(*tag);
                if let Some(r) = self.releases.get_mut(&tag.label) {
                    r.runs = r.runs.max(tag.run);
                    r.base_port = *base_port;
                }
            }
            Change::Add { release } => {
                self.releases.insert(release.label, (**release).clone());
            }
            Change::Fail { label } => {
                if let Some(r) = self.releases.get_mut(label) {
                    r.state = ReleaseState::RolledBack;
                    r.failure = failure.cloned();
                }
                self.candidate = self.candidate.filter(|t| t.label != *label);
            }
            Change::Dismiss { tag } => self.candidate = self.candidate.filter(|t| t != tag),
            Change::Joined { socket } => {
                let members = self.groups.entry(socket.group()).or_default();
                if !members.contains(socket) {
                    members.push(socket.clone());
                }
            }
            Change::Left { socket } => self.leave(socket),
            Change::Live { tag, warm } => self.make_live(*tag, *warm, at),
            Change::Unlive { tag, back_to, previous, since } => {
                if self.live == Some(*tag) {
                    self.live = *back_to;
                    self.live_since = *since;
                    self.previous = *previous;
                    self.warm = None;
                    self.candidate = Some(*tag);
                    self.set_state(tag.label, ReleaseState::Kept);
                    if let Some(t) = back_to {
                        self.set_state(t.label, ReleaseState::Live);
                    }
                }
            }
            Change::Committed => {
                if self.committed != self.live {
                    self.committed_at = Some(at);
                }
                self.committed = self.live;
                self.warm = None;
            }
            Change::Draining { tag } => {
                self.warm = self.warm.filter(|t| t != tag);
                if self.live != Some(*tag) && !self.draining.contains(tag) {
                    self.draining.push(*tag);
                }
            }
            Change::Drained { tag } => {
                self.draining.retain(|t| t != tag);
                self.forget_members(|s| s.tag == *tag);
            }
            Change::Rebooted => self.reboot(),
            Change::Nonblocking { process, value } => {
                self.nonblocking.insert(process.clone(), *value);
            }
            Change::Stopped { value } => {
                self.stopped = *value;
                self.unended = None;
            }
            Change::Unended { what } => self.unended = Some(*what),
            Change::Clear { label } => {
                if let Some(r) = self.releases.get_mut(label) {
                    r.failure = None;
                }
            }
            Change::Forget { labels } => self.releases.retain(|l, _| !labels.contains(l)),
        }
    }

    fn make_live(&mut self, tag: Tag, warm: Option<Tag>, at: Timestamp) {
        if self.live == Some(tag) {
            return;
        }
        if let Some(old) = self.live.filter(|old| old.label != tag.label) {
            self.previous = Some(old.label);
            self.set_state(old.label, ReleaseState::Kept);
        }
        self.set_state(tag.label, ReleaseState::Live);
        self.live = Some(tag);
        self.live_since = Some(at);
        self.warm = warm;
        self.candidate = None;
    }

    /// The kernel moves the last member into the place of one that leaves.
    fn leave(&mut self, socket: &Socket) {
        let group = socket.group();
        if let Some(members) = self.groups.get_mut(&group) {
            if let Some(at) = members.iter().position(|s| s == socket) {
                members.swap_remove(at);
            }
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    fn forget_members(&mut self, gone: impl Fn(&Socket) -> bool) {
        let left: Vec<Socket> = self.groups.values().flatten().filter(|s| gone(s)).cloned().collect();
        for socket in &left {
            self.leave(socket);
        }
    }

    /// PID 1 made the groups anew, each with the one member that boots.
    fn reboot(&mut self) {
        self.groups.clear();
        let Some(tag) = self.committed.filter(|_| !self.stopped) else { return };
        let Some(release) = self.releases.get(&tag.label) else { return };
        let sockets = Activation { tag, release }.sockets();
        for socket in sockets.into_iter().filter(Socket::is_grouped) {
            self.groups.insert(socket.group(), vec![socket]);
        }
    }

    fn set_state(&mut self, label: Label, state: ReleaseState) {
        if let Some(r) = self.releases.get_mut(&label) {
            r.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_print_and_parse() {
        for text in ["v1", "v42.2", "v9.17"] {
            assert_eq!(text.parse::<Tag>().unwrap().to_string(), text);
        }
        for bad in ["v1.1", "v1.0", "v1.", "1.2", "v1.x"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_leaver_gives_its_index_to_the_last() {
        let s0 = AppState::new("shop".parse().unwrap(), 50000);
        let mut s = s0.clone();
        let of = |tag: &str| {
            let address = deployd_api::spec::Address::Any { port: 80 };
            crate::units::socket(&s0.app, &"http".parse().unwrap(), &address, tag.parse().unwrap())
        };
        for t in ["v1", "v2", "v3"] {
            s.apply(&Change::Joined { socket: of(t) }, Timestamp(0), None);
        }
        s.apply(&Change::Left { socket: of("v1") }, Timestamp(0), None);
        let order: Vec<String> = s.groups["[::]:80"].iter().map(|s| s.tag.to_string()).collect();
        assert_eq!(order, ["v3", "v2"]);
    }
}
