//! PURE: how a change ended on each host, what that is together, and what follows from it.

use deployd_api::deployment::{Deployment, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::fleet::{OnFailure, RolloutState};
use deployd_api::ids::{Label, Timestamp};
use serde::Serialize;

/// How a change stands on one host.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// It was not begun.
    Queued,
    /// There was nothing to do.
    Already,
    /// It does not answer, and was left out.
    Offline { failure: ErrorBody },
    /// It was begun, or may have been: the call was made.
    Running,
    /// It has what was asked for.
    Live {
        #[serde(skip_serializing_if = "Option::is_none")]
        watched_until: Option<Timestamp>,
    },
    /// It has what was asked for, for good.
    Committed,
    /// It did not end as asked.
    Failed { verdict: Verdict, failure: ErrorBody },
    /// It was live, and went back because of another host or a person.
    TakenBack,
    /// It had what was asked for, and has something else since.
    Replaced { by: Option<Label> },
    /// It was live, should have gone back, and did not.
    Kept { failure: ErrorBody },
    /// It went away in the middle: what became of it is not known.
    Unknown { failure: ErrorBody },
}

impl Outcome {
    /// Whether it has what was asked for.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Self::Live { .. } | Self::Committed | Self::Already)
    }

    /// Whether the rollout stops here.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Unknown { .. } | Self::Kept { .. })
    }

    /// Why it is not as asked.
    pub(crate) fn failure(&self) -> Option<&ErrorBody> {
        match self {
            Self::Failed { failure, .. }
            | Self::Unknown { failure }
            | Self::Offline { failure }
            | Self::Kept { failure } => Some(failure),
            _ => None,
        }
    }

    /// The exit code of a host that ended so, alone.
    fn exit(&self) -> ExitCode {
        match self {
            Self::Failed { verdict: Verdict::Stuck, .. } => ExitCode::Stuck,
            Self::Failed { verdict: Verdict::RolledBack, .. } => ExitCode::RolledBack,
            Self::Failed { failure, .. } => match failure.code.exit() {
                code @ (ExitCode::LeaseHeld | ExitCode::Unauthorized) => code,
                _ => ExitCode::Refused,
            },
            Self::Unknown { .. } | Self::Offline { .. } | Self::Kept { .. } | Self::Running => {
                ExitCode::Partial
            }
            Self::Queued
            | Self::Already
            | Self::Live { .. }
            | Self::Committed
            | Self::TakenBack
            | Self::Replaced { .. } => ExitCode::Ok,
        }
    }
}

/// The exit code of the hosts together.
pub(crate) fn exit<'a>(outcomes: impl IntoIterator<Item = &'a Outcome> + Clone) -> ExitCode {
    let any = |want: fn(&Outcome) -> bool| outcomes.clone().into_iter().any(want);
    let codes: Vec<ExitCode> = outcomes.clone().into_iter().map(Outcome::exit).collect();
    let has = |code| codes.contains(&code);
    if has(ExitCode::Stuck) {
        return ExitCode::Stuck;
    }
    if has(ExitCode::Partial) {
        return ExitCode::Partial;
    }
    let Some(failed) = codes.iter().copied().find(|code| *code != ExitCode::Ok) else {
        // Some stand, some were never begun: nobody failed, and it is not what was asked for.
        return if any(|o| matches!(o, Outcome::Queued)) { ExitCode::Partial } else { ExitCode::Ok };
    };
    // Hosts that were live before the failure and stay so: a fleet of two releases.
    if any(|o| matches!(o, Outcome::Live { .. } | Outcome::Committed)) {
        return ExitCode::Partial;
    }
    // Another host went all the way and back: something was touched.
    if any(|o| matches!(o, Outcome::TakenBack)) || has(ExitCode::RolledBack) {
        return ExitCode::RolledBack;
    }
    failed
}

/// Whether hosts that are live go back, now that one failed. What is not known is not acted on: the host may
/// be live as well.
pub(crate) fn goes_back(on_failure: OnFailure, outcomes: &[&Outcome]) -> bool {
    let failed = outcomes.iter().any(|o| matches!(o, Outcome::Failed { .. }));
    let unknown = outcomes.iter().any(|o| matches!(o, Outcome::Unknown { .. }));
    on_failure == OnFailure::Rollback && failed && !unknown
}

/// What the rollout is now. One with a host that is not known may still be gone on with.
pub(crate) fn state(outcomes: &[&Outcome]) -> RolloutState {
    if outcomes.iter().any(|o| matches!(o, Outcome::Failed { .. } | Outcome::Kept { .. })) {
        return RolloutState::Failed;
    }
    let done = outcomes.iter().all(|o| o.is_good() || matches!(o, Outcome::Offline { .. }));
    if done { RolloutState::Live } else { RolloutState::Running }
}

/// How a deployment of a rollout stands on its host, from the host's own record of it.
pub(crate) fn standing(deployment: Option<&Deployment>, undo: Option<&Deployment>) -> Outcome {
    let Some(deployment) = deployment else { return Outcome::Queued };
    match deployment.verdict {
        _ if undo.is_some_and(|u| u.live || u.verdict == Some(Verdict::Committed)) => Outcome::TakenBack,
        None if deployment.live => Outcome::Live { watched_until: deployment.watched_until },
        None => Outcome::Running,
        Some(Verdict::Committed) => Outcome::Committed,
        // A person, or the failure of another host, asked for it.
        Some(Verdict::RolledBack)
            if deployment.failure.as_ref().is_some_and(|f| f.code == ErrorCode::Aborted) =>
        {
            Outcome::TakenBack
        }
        Some(verdict) => Outcome::Failed { verdict, failure: why(deployment, verdict) },
    }
}

/// The same, with what is live on the host now. While a deployment runs, nothing else can replace it.
pub(crate) fn unless_replaced(outcome: Outcome, label: Label, live: Option<Label>) -> Outcome {
    match outcome {
        Outcome::Committed if live != Some(label) => Outcome::Replaced { by: live },
        other => other,
    }
}

/// What the hosts say of a rollout that nobody wrote the end of: its ctl may be gone, or have let go.
pub(crate) fn derived(written: RolloutState, outcomes: &[&Outcome]) -> RolloutState {
    let open = matches!(written, RolloutState::Sending | RolloutState::Running);
    if !open || outcomes.iter().any(|o| matches!(o, Outcome::Offline { .. })) {
        return written;
    }
    match state(outcomes) {
        RolloutState::Running => written,
        ended => ended,
    }
}

/// The exit code of a rollout that was taken back: hosts that failed by themselves are as asked for.
pub(crate) fn exit_of_abort(outcomes: &[&Outcome]) -> ExitCode {
    let left =
        |o: &&Outcome| matches!(o, Outcome::Kept { .. } | Outcome::Offline { .. } | Outcome::Unknown { .. });
    match exit(outcomes.iter().copied()) {
        ExitCode::Stuck => ExitCode::Stuck,
        _ if outcomes.iter().any(left) => ExitCode::Partial,
        _ => ExitCode::Ok,
    }
}

/// The failure of a deployment that has one, in any case.
pub(crate) fn why(deployment: &Deployment, verdict: Verdict) -> ErrorBody {
    deployment.failure.clone().unwrap_or_else(|| {
        let what = format!("{} of {} ended {verdict}", deployment.kind, deployment.app);
        let hint = format!("deployd-ctl logs -a {}", deployment.app);
        ErrorBody::new(ErrorCode::StepFailed, what, hint)
    })
}

/// What serves on the hosts that are known, each with its release: `v43 serves on 3 of 3 hosts`.
pub(crate) fn serves(hosts: &[(String, Option<Label>)], all: usize) -> String {
    if hosts.is_empty() {
        return "What serves is not known".to_owned();
    }
    let mut groups: Vec<(Option<Label>, Vec<&str>)> = Vec::new();
    for (host, label) in hosts {
        match groups.iter_mut().find(|(known, _)| known == label) {
            Some((_, names)) => names.push(host),
            None => groups.push((*label, vec![host])),
        }
    }
    groups.sort_by_key(|(label, _)| std::cmp::Reverse(*label));
    let who = |label: &Option<Label>| label.map_or("nothing".to_owned(), |l| l.to_string());
    if let [(label, names)] = groups.as_slice() {
        let place = match names.as_slice() {
            [only] if all == 1 => (*only).to_owned(),
            _ => format!("{} of {} hosts", names.len(), all),
        };
        return sentence(&format!("{} serves on {place}", who(label)));
    }
    let parts: Vec<String> = groups
        .iter()
        .enumerate()
        .map(|(i, (label, names))| {
            let verb = if i == 0 { " serves" } else { "" };
            format!("{}{verb} on {}", who(label), listed(names))
        })
        .collect();
    sentence(&parts.join(", "))
}

/// Names, as long as they can be read.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(" "),
        more => format!("{} and {more} more", shown.join(" ")),
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .filter(|_| text.starts_with('n'))
        .unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(code: ErrorCode) -> ErrorBody {
        ErrorBody::new(code, "x", "y")
    }

    fn failed(verdict: Verdict, code: ErrorCode) -> Outcome {
        Outcome::Failed { verdict, failure: body(code) }
    }

    fn live() -> Outcome {
        Outcome::Live { watched_until: None }
    }

    #[test]
    fn the_exit_code_is_that_of_all_hosts_together() {
        let bad = || failed(Verdict::RolledBack, ErrorCode::CheckFailed);
        let unknown = || Outcome::Unknown { failure: body(ErrorCode::AgentUnreachable) };
        let offline = || Outcome::Offline { failure: body(ErrorCode::AgentUnreachable) };
        let kept = || Outcome::Kept { failure: body(ErrorCode::WrongState) };
        let stuck = || failed(Verdict::Stuck, ErrorCode::Stuck);
        let refused = |code| failed(Verdict::Refused, code);
        use Outcome::{Already, Committed, Queued, TakenBack};
        for (outcomes, want) in [
            (vec![live(), Committed, Already], ExitCode::Ok),
            (vec![bad(), Queued, Queued], ExitCode::RolledBack),
            (vec![TakenBack, bad(), Queued], ExitCode::RolledBack),
            (vec![TakenBack, refused(ErrorCode::MemoryLow), Queued], ExitCode::RolledBack),
            // Held.
            (vec![live(), bad(), Queued], ExitCode::Partial),
            (vec![live(), refused(ErrorCode::MemoryLow)], ExitCode::Partial),
            (vec![refused(ErrorCode::MemoryLow), Queued], ExitCode::Refused),
            (vec![refused(ErrorCode::LeaseHeld), Queued], ExitCode::LeaseHeld),
            (vec![refused(ErrorCode::Forbidden), Queued], ExitCode::Unauthorized),
            (vec![live(), unknown()], ExitCode::Partial),
            (vec![live(), offline()], ExitCode::Partial),
            (vec![kept(), bad()], ExitCode::Partial),
            (vec![stuck(), unknown()], ExitCode::Stuck),
            (vec![live(), Queued], ExitCode::Partial),
            (vec![live(), Outcome::Running], ExitCode::Partial),
        ] {
            assert_eq!(exit(&outcomes), want, "{outcomes:?}");
        }
    }

    #[test]
    fn hosts_go_back_only_on_what_is_known() {
        let bad = failed(Verdict::RolledBack, ErrorCode::CheckFailed);
        let unknown = Outcome::Unknown { failure: body(ErrorCode::AgentUnreachable) };
        let live = live();
        for (on_failure, outcomes, want, then) in [
            (OnFailure::Rollback, vec![&live, &bad], true, RolloutState::Failed),
            (OnFailure::Hold, vec![&live, &bad], false, RolloutState::Failed),
            (OnFailure::Rollback, vec![&live, &bad, &unknown], false, RolloutState::Failed),
            (OnFailure::Rollback, vec![&live, &unknown], false, RolloutState::Running),
            (OnFailure::Rollback, vec![&live, &Outcome::Queued], false, RolloutState::Running),
            (OnFailure::Rollback, vec![&live, &Outcome::Already], false, RolloutState::Live),
        ] {
            assert_eq!(goes_back(on_failure, &outcomes), want, "{outcomes:?}");
            assert_eq!(state(&outcomes), then, "{outcomes:?}");
        }
    }

    #[test]
    fn what_is_live_now_counts() {
        let (v2, v3) = (Label::new(2).unwrap(), Label::new(3));
        let now = |outcome, live| unless_replaced(outcome, v2, live);
        assert!(matches!(now(Outcome::Committed, Some(v2)), Outcome::Committed));
        assert!(matches!(now(Outcome::Committed, v3), Outcome::Replaced { by } if by == v3));
        assert!(matches!(now(Outcome::Committed, None), Outcome::Replaced { by: None }));
        assert!(matches!(now(live(), v3), Outcome::Live { .. }));
        assert!(matches!(now(Outcome::Queued, v3), Outcome::Queued));
    }

    #[test]
    fn a_rollout_is_what_its_hosts_are() {
        use RolloutState::{Aborted, Failed, Live, Running, Sending};
        let bad = || failed(Verdict::RolledBack, ErrorCode::CheckFailed);
        let offline = || Outcome::Offline { failure: body(ErrorCode::AgentUnreachable) };
        for (written, outcomes, want) in [
            (Running, vec![live(), Outcome::Committed], Live),
            (Sending, vec![Outcome::Queued], Sending),
            (Running, vec![live(), Outcome::Queued], Running),
            (Running, vec![live(), offline()], Running),
            (Running, vec![live(), bad()], Failed),
            (Aborted, vec![live()], Aborted),
        ] {
            assert_eq!(derived(written, &outcomes.iter().collect::<Vec<_>>()), want, "{outcomes:?}");
        }
    }

    #[test]
    fn an_abort_is_whole_when_no_host_is_left() {
        let bad = || failed(Verdict::RolledBack, ErrorCode::CheckFailed);
        let stuck = || failed(Verdict::Stuck, ErrorCode::Stuck);
        let offline = || Outcome::Offline { failure: body(ErrorCode::AgentUnreachable) };
        let kept = || Outcome::Kept { failure: body(ErrorCode::WrongState) };
        for (outcomes, want) in [
            (vec![Outcome::TakenBack, bad(), Outcome::Queued], ExitCode::Ok),
            (vec![Outcome::TakenBack, Outcome::Replaced { by: None }], ExitCode::Ok),
            (vec![Outcome::TakenBack, offline()], ExitCode::Partial),
            (vec![Outcome::TakenBack, kept()], ExitCode::Partial),
            (vec![offline(), stuck()], ExitCode::Stuck),
        ] {
            assert_eq!(exit_of_abort(&outcomes.iter().collect::<Vec<_>>()), want, "{outcomes:?}");
        }
    }

    #[test]
    fn what_serves_is_said_once() {
        let on = |list: &[(&str, Option<u32>)]| {
            let label = |n: &Option<u32>| n.and_then(Label::new);
            let hosts: Vec<_> = list.iter().map(|(h, n)| ((*h).to_owned(), label(n))).collect();
            serves(&hosts, hosts.len())
        };
        let one = [("a".to_owned(), Label::new(3))];
        assert_eq!(serves(&one, 3), "v3 serves on 1 of 3 hosts");
        assert_eq!(serves(&[], 2), "What serves is not known");
        assert_eq!(on(&[("web1", Some(3))]), "v3 serves on web1");
        assert_eq!(on(&[("a", Some(3)), ("b", Some(3))]), "v3 serves on 2 of 2 hosts");
        assert_eq!(on(&[("a", Some(4)), ("b", Some(3)), ("c", Some(3))]), "v4 serves on a, v3 on b c");
        assert_eq!(on(&[("a", None), ("b", None)]), "Nothing serves on 2 of 2 hosts");
        assert_eq!(on(&[("a", None)]), "Nothing serves on a");
        assert_eq!(on(&[("a", None), ("b", Some(1))]), "v1 serves on b, nothing on a");
    }
}
