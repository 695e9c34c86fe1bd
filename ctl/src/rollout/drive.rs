//! The effects: deployments in waves, each followed to where the next may begin.
//!
//! What is known of each host is kept at every moment, so that an end by Ctrl-C says what is true.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use deployd_api::deployment::{Deployment, Kind, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, HostName, Label};
use futures_util::future::LocalBoxFuture;

use super::lease::Leases;
use super::outcome::{self, Outcome, listed};
use super::{crew, record, undo};
use crate::cli::{Wait, WaitFor};
use crate::client::{BackOff, Client};
use crate::commands::deploy::{begin, is_nothing, moves};
use crate::commands::{CTL, Context, Host};
use crate::error::CtlError;
use crate::follow::{self, End};
use crate::progress::{Board, Subject};
use crate::table::Tone;

/// A host that takes part.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) host: Host,
    pub(crate) name: HostName,
    pub(crate) wave: u32,
    /// The release that serves there before.
    pub(crate) from: Option<Label>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Push,
    Rollback,
    Start,
    Stop,
    Restart,
    Remove,
    Abort,
}

impl Verb {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Rollback => "rollback",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Remove => "remove",
            Self::Abort => "abort",
        }
    }

    /// What a host is then, if it does not move to a release.
    pub(crate) fn past(self) -> Option<&'static str> {
        match self {
            Self::Push | Self::Rollback => None,
            Self::Start => Some("started"),
            Self::Stop => Some("stopped"),
            Self::Restart => Some("restarted"),
            Self::Remove => Some("removed"),
            Self::Abort => Some("aborted"),
        }
    }
}

/// How ctl's part of it is spoken of.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) app: AppName,
    pub(crate) verb: Verb,
    /// The release that the hosts move to, if it is one for all.
    pub(crate) label: Option<Label>,
    /// Whether hosts keep a record of it, so that another ctl can go on.
    pub(crate) record: Kept,
}

/// Whether the hosts know of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Recorded,
    Nowhere,
}

/// What a host that does not answer means when hosts that are live are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// Nothing yet: it is looked at again.
    Waits,
    /// That nothing is known of it.
    Counts,
}

/// How long an agent that restarts may be away in the last look at all hosts.
const RESTART: Duration = Duration::from_secs(6);

/// Begins the deployment of the member of this place.
pub(crate) type Call<'c> = dyn Fn(usize, Client) -> LocalBoxFuture<'c, Result<Deployment, CtlError>> + 'c;

/// A change of the app on its hosts.
#[derive(Debug)]
pub(crate) struct Drive<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) topic: Topic,
    pub(crate) members: Vec<Member>,
    pub(crate) board: Board<'a>,
    pub(crate) leases: Rc<Leases>,
    states: RefCell<Vec<State>>,
}

/// What is known of a member.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) outcome: Outcome,
    pub(crate) deployment: Option<Deployment>,
    /// The event up to which it was followed.
    after: u64,
}

impl<'a> Drive<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        topic: Topic,
        members: Vec<Member>,
        leases: Rc<Leases>,
    ) -> Self {
        let subject =
            |m: &Member| Subject { host: m.host.name.clone(), label: topic.label, replaces: m.from };
        let board = Board::new(context.printer, members.iter().map(subject).collect());
        let state = |_: &Member| State { outcome: Outcome::Queued, deployment: None, after: 0 };
        let states = RefCell::new(members.iter().map(state).collect());
        Self { context, topic, members, board, leases, states }
    }

    pub(crate) fn states(&self) -> Ref<'_, Vec<State>> {
        self.states.borrow()
    }

    /// Hosts with how they stand.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.states.borrow().iter().map(|s| s.outcome.clone()).collect()
    }

    pub(crate) fn hosts(&self) -> Vec<Host> {
        self.members.iter().map(|m| m.host.clone()).collect()
    }

    pub(crate) fn client(&self, index: usize) -> Client {
        self.leases.client(&self.members[index].host)
    }

    /// Notes how a host stands, and what Ctrl-C says from here on.
    pub(crate) fn set(&self, index: usize, outcome: Outcome) {
        self.states.borrow_mut()[index].outcome = outcome;
        self.context.on_interrupt(self.picture());
    }

    /// Notes what another ctl did before.
    pub(crate) fn take_up(&self, index: usize, outcome: Outcome, deployment: Option<Deployment>) {
        let view = self.board.view(index);
        match &outcome {
            Outcome::Live { .. } | Outcome::Committed => {
                view.finish(&deployment.as_ref().map(|d| self.done(d)).unwrap_or_default(), Tone::Good);
            }
            Outcome::Failed { verdict, .. } => {
                view.finish(&now_of(self.members[index].from, *verdict), Tone::Bad);
            }
            _ => {}
        }
        self.states.borrow_mut()[index].deployment = deployment;
        self.set(index, outcome);
    }

    pub(crate) fn began(&self, index: usize, deployment: &Deployment) {
        self.states.borrow_mut()[index].deployment = Some(deployment.clone());
    }

    /// The event up to which this deployment of a host was followed.
    pub(crate) fn seen(&self, index: usize, deployment: &Deployment) -> u64 {
        let state = &self.states.borrow()[index];
        if state.deployment.as_ref().is_some_and(|known| known.id == deployment.id) { state.after } else { 0 }
    }

    /// Whether a host ended otherwise than asked.
    pub(crate) fn has_failed(&self) -> bool {
        self.states.borrow().iter().any(|s| s.outcome.is_end())
    }

    /// Wave by wave, until all have what was asked for or one has not.
    pub(crate) async fn run(&self, call: &Call<'_>, wait: &Wait) -> Result<(), CtlError> {
        let work = self.waves(call, wait);
        tokio::select! {
            () = work => Ok(()),
            body = self.leases.lost() => {
                self.board.close();
                Err(CtlError::Answer(Box::new(body.cause("now", self.in_words()))))
            }
        }
    }

    async fn waves(&self, call: &Call<'_>, wait: &Wait) {
        let last = self.members.iter().map(|m| m.wave).max().unwrap_or(0);
        for wave in 0..=last {
            if wave > 0 {
                self.look_again(wave, Absent::Waits).await;
            }
            if self.has_failed() {
                return;
            }
            // Only the last one has nobody waiting behind it.
            let until = if wave == last { wait.until } else { WaitFor::Live };
            let due = |index: &usize| self.members[*index].wave == wave && self.is_due(*index);
            let work = (0..self.members.len()).filter(due).map(|index| self.one(index, call, until, wait));
            crew::all(work).await;
        }
        // What is said at the end is true of those that were live first, too.
        if !self.has_failed() && self.members.len() > 1 {
            self.look_again(last + 1, Absent::Counts).await;
        }
        if wait.until == WaitFor::Committed && !self.has_failed() {
            crew::all((0..self.members.len()).map(|index| self.see_commit(index))).await;
        }
    }

    fn is_due(&self, index: usize) -> bool {
        matches!(self.states.borrow()[index].outcome, Outcome::Queued | Outcome::Running)
    }

    /// Hosts of earlier waves may have gone back by themselves meanwhile: they are watched.
    async fn look_again(&self, before: u32, absent: Absent) {
        let watched = |index: &usize| {
            let state = &self.states.borrow()[*index];
            self.members[*index].wave < before && matches!(state.outcome, Outcome::Live { .. })
        };
        crew::all((0..self.members.len()).filter(watched).map(|index| async move {
            let Some(known) = self.states.borrow()[index].deployment.clone() else { return };
            match self.look(index, &known, absent).await {
                Ok(now) => {
                    if let Some(verdict) = now.verdict {
                        self.end(index, End::Finished { verdict, failure: now.failure.clone() }, &now);
                    }
                }
                Err(error) if error.is_absence() && absent == Absent::Counts => self.lose(index, &error),
                // It was live, and is not told otherwise.
                Err(_) => {}
            }
        }))
        .await;
    }

    /// A deployment as its host has it now.
    async fn look(&self, index: usize, known: &Deployment, absent: Absent) -> Result<Deployment, CtlError> {
        let mut back_off = BackOff::lasting(match absent {
            Absent::Waits => Duration::ZERO,
            Absent::Counts => RESTART,
        });
        loop {
            match follow::ask(&self.client(index), known).await {
                Err(error) if error.is_absence() && back_off.wait().await => {}
                outcome => return outcome,
            }
        }
    }

    /// One host, from the call to where the next may begin.
    async fn one(&self, index: usize, call: &Call<'_>, until: WaitFor, wait: &Wait) {
        let begins = || {
            self.set(index, Outcome::Running);
            self.leased(index, |client| call(index, client))
        };
        // While it waits there, nothing goes on.
        let waits = || self.set(index, Outcome::Queued);
        let outcome = begin(self.context, Some(wait), waits, begins).await;
        match outcome {
            Ok(deployment) => {
                self.began(index, &deployment);
                let view = self.board.view(index);
                view.moves(deployment.label, deployment.replaces.filter(|_| moves(deployment.kind)));
                if is_nothing(&deployment) {
                    view.finish(&self.done(&deployment), Tone::Good);
                    self.set(index, Outcome::Already);
                    return;
                }
                if wait.detach {
                    return;
                }
                if self.topic.verb == Verb::Rollback {
                    view.line(&format!("goes back to {}", self.done(&deployment)));
                }
                let until = if self.undoes(&deployment) { WaitFor::Committed } else { until };
                self.follow(index, &deployment, until).await;
            }
            Err(error) => self.refuse(index, &error),
        }
    }

    /// A call under the lease. One that ran out and that nobody else had is taken again, once.
    pub(crate) async fn leased<F>(
        &self,
        index: usize,
        call: impl Fn(Client) -> F,
    ) -> Result<Deployment, CtlError>
    where
        F: Future<Output = Result<Deployment, CtlError>>,
    {
        match call(self.client(index)).await {
            Err(CtlError::Answer(body)) if body.code == ErrorCode::LeaseLost => {
                let again = self.leases.again(&self.members[index].host).await;
                again.map_err(|gone| CtlError::Answer(Box::new(gone)))?;
                call(self.client(index)).await
            }
            outcome => outcome,
        }
    }

    /// Follows what a host does, and notes how it ends.
    pub(crate) async fn follow(&self, index: usize, deployment: &Deployment, until: WaitFor) {
        let client = self.client(index);
        let view = self.board.view(index);
        let mut after = self.states.borrow()[index].after;
        let end = follow::follow_on(&client, deployment, until, view, &mut after).await;
        self.states.borrow_mut()[index].after = after;
        match end {
            Ok(end) => self.end(index, end, deployment),
            Err(error) => self.lose(index, &error),
        }
    }

    /// From live to the end of the watch.
    async fn see_commit(&self, index: usize) {
        let known = self.states.borrow()[index].deployment.clone();
        let is_live = matches!(self.states.borrow()[index].outcome, Outcome::Live { .. });
        if let (Some(deployment), true) = (known, is_live) {
            self.follow(index, &deployment, WaitFor::Committed).await;
        }
    }

    /// Notes an end and shows it.
    fn end(&self, index: usize, end: End, deployment: &Deployment) {
        let view = self.board.view(index);
        let undoing = self.undoes(deployment);
        let outcome = match end {
            End::Finished { verdict: Verdict::RolledBack, .. } if undoing => {
                view.finish(&self.done(deployment), Tone::Good);
                Outcome::Committed
            }
            End::Finished { verdict: Verdict::Committed, .. } | End::Live { .. } if undoing => {
                view.finish("too late", Tone::Warn);
                Outcome::Failed { verdict: Verdict::Refused, failure: undo::too_late(deployment) }
            }
            End::Live { watched_until } => {
                view.finish(&self.done(deployment), Tone::Good);
                Outcome::Live { watched_until }
            }
            End::Finished { verdict: Verdict::Committed, .. } => {
                view.finish(&self.done(deployment), Tone::Good);
                Outcome::Committed
            }
            End::Finished { verdict, failure } => {
                let failure = failure.unwrap_or_else(|| outcome::why(deployment, verdict));
                let old = deployment.replaces.filter(|_| moves(deployment.kind)).or(self.members[index].from);
                view.finish(&now_of(old, verdict), Tone::Bad);
                Outcome::Failed { verdict, failure }
            }
        };
        self.set(index, outcome);
    }

    /// Whether the deployment has what was asked for when it is undone: while a push is watched, going back
    /// means that.
    fn undoes(&self, deployment: &Deployment) -> bool {
        match self.topic.verb {
            Verb::Abort => true,
            Verb::Rollback => deployment.kind == Kind::Push,
            _ => false,
        }
    }

    /// The release that a deployment leaves on its host.
    fn target(&self, deployment: &Deployment) -> Option<Label> {
        if self.undoes(deployment) { deployment.replaces } else { deployment.label }
    }

    /// The release that hosts move to.
    pub(crate) fn label(&self) -> Option<Label> {
        let first = || self.states.borrow().iter().find_map(|s| self.target(s.deployment.as_ref()?));
        self.topic.label.or_else(first)
    }

    /// The releases that hosts moved to: going back may lead to several.
    pub(crate) fn labels(&self) -> Vec<Label> {
        if let Some(label) = self.topic.label {
            return vec![label];
        }
        let states = self.states.borrow();
        let mut labels: Vec<Label> =
            states.iter().filter_map(|s| self.target(s.deployment.as_ref()?)).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// What a host is when it has what was asked for.
    fn done(&self, deployment: &Deployment) -> String {
        let label = || self.target(deployment).map(|l| l.to_string()).unwrap_or_default();
        self.topic.verb.past().map_or_else(label, str::to_owned)
    }

    fn refuse(&self, index: usize, error: &CtlError) {
        if error.is_absence() {
            return self.lose(index, error);
        }
        let from = self.members[index].from;
        self.board.view(index).finish(&now_of(from, Verdict::Refused), Tone::Bad);
        self.set(index, Outcome::Failed { verdict: Verdict::Refused, failure: error.to_body() });
    }

    /// It went away and did not come back in time.
    fn lose(&self, index: usize, error: &CtlError) {
        self.board.view(index).finish("not known", Tone::Warn);
        let failure = crew::absent(&self.members[index].host.name, error);
        self.set(index, Outcome::Unknown { failure });
    }

    /// Writes down how far it is, on the hosts that hear it.
    pub(crate) async fn write_down(&self, rollout: &deployd_api::fleet::Rollout) {
        for (host, error) in record::put(&self.leases, &self.hosts(), rollout).await {
            let what = error.to_body().message;
            self.context.printer.talk(&format!("note: {host} did not take down how far it is: {what}"));
        }
    }

    /// What is true now, in one line a state.
    pub(crate) fn in_words(&self) -> String {
        let states = self.states.borrow();
        let named = |want: fn(&Outcome) -> bool| {
            let hosts = self.members.iter().zip(states.iter()).filter(|(_, s)| want(&s.outcome));
            hosts.map(|(m, _)| m.host.name.as_str()).collect::<Vec<_>>()
        };
        let parts: [(&str, Vec<&str>); 6] = [
            ("done on", named(Outcome::is_good)),
            ("goes on alone on", named(|o| matches!(o, Outcome::Running))),
            ("failed on", named(|o| matches!(o, Outcome::Failed { .. } | Outcome::Kept { .. }))),
            ("taken back on", named(|o| matches!(o, Outcome::TakenBack))),
            ("not known on", named(|o| matches!(o, Outcome::Unknown { .. }))),
            ("not begun on", named(|o| matches!(o, Outcome::Queued))),
        ];
        let parts = parts.iter().filter(|(_, hosts)| !hosts.is_empty());
        parts.map(|(word, hosts)| format!("{word} {}", listed(hosts))).collect::<Vec<_>>().join("; ")
    }

    /// What Ctrl-C says at this moment.
    fn picture(&self) -> String {
        let (app, verb) = (&self.topic.app, self.topic.verb.word());
        if let [only] = self.members.as_slice() {
            if matches!(self.states.borrow()[0].outcome, Outcome::Queued) {
                return "stopped; nothing was touched".to_owned();
            }
            let host = &only.host.name;
            return format!(
                "detached from {verb} of {app}; {host} goes on\nsee:  {CTL} status -a {app}\nundo: {CTL} abort -a {app}"
            );
        }
        let label = self.label().map(|l| format!(" {l}")).unwrap_or_default();
        let now = self.in_words();
        let rest = match self.topic.record {
            Kept::Recorded => format!(
                "see:  {CTL} rollout status -a {app}\nnext: {CTL} rollout resume -a {app}, or take it back: \
                 {CTL} rollout abort -a {app}"
            ),
            Kept::Nowhere => format!("see:  {CTL} status -a {app}\nnext: run the same command again"),
        };
        format!("stopped {verb} of {app}{label}: {now}\n{rest}")
    }

    /// The first failure, the worst first.
    pub(crate) fn failure(&self) -> Option<(usize, ErrorBody)> {
        let states = self.states.borrow();
        let stuck = |o: &Outcome| matches!(o, Outcome::Failed { verdict: Verdict::Stuck, .. });
        let failed = |o: &Outcome| matches!(o, Outcome::Failed { .. });
        let find = |want: &dyn Fn(&Outcome) -> bool| states.iter().position(|s| want(&s.outcome));
        let index = find(&stuck).or_else(|| find(&failed)).or_else(|| find(&Outcome::is_end))?;
        Some((index, states[index].outcome.failure()?.clone()))
    }
}

/// What stands on a host whose deployment ended so.
fn now_of(from: Option<Label>, verdict: Verdict) -> String {
    match (from, verdict) {
        (Some(old), Verdict::RolledBack) => format!("{old}, rolled back"),
        (Some(old), Verdict::Refused) => format!("{old}"),
        (None, Verdict::RolledBack) => "rolled back".to_owned(),
        (None, Verdict::Refused) => "-".to_owned(),
        (_, Verdict::Stuck | Verdict::Committed) => "stuck".to_owned(),
    }
}
