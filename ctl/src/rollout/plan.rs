//! PURE: what a rollout does on which host, in which order.

use std::collections::BTreeMap;

use deployd_api::deployment::{Migrate, PlanAnswer};
use deployd_api::fleet::OnFailure;
use deployd_api::ids::{Digest, Label, ProcessName};
use deployd_api::spec::{Share, Spec, Strategy};

/// A host of the app, with what runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) host: String,
    /// `None` is every process of the spec.
    pub(crate) processes: Option<Vec<ProcessName>>,
}

impl Placed {
    fn has(&self, process: &ProcessName) -> bool {
        self.processes.as_ref().is_none_or(|own| own.contains(process))
    }
}

/// Why processes cannot be put on hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misplaced {
    #[error("process {process} runs on none of the app's hosts")]
    Nowhere { process: ProcessName },
    #[error("nothing of the app runs on {host}")]
    Idle { host: String },
}

/// Which processes run where. `chosen` has the hosts of each process that names some.
pub(crate) fn place(
    spec: &Spec,
    hosts: &[String],
    chosen: &BTreeMap<ProcessName, Vec<String>>,
) -> Result<Vec<Placed>, Misplaced> {
    let runs =
        |process: &ProcessName, host: &String| chosen.get(process).is_none_or(|own| own.contains(host));
    if let Some(process) = spec.processes.keys().find(|p| !hosts.iter().any(|host| runs(p, host))) {
        return Err(Misplaced::Nowhere { process: process.clone() });
    }
    let place = |host: &String| {
        let own: Vec<ProcessName> = spec.processes.keys().filter(|p| runs(p, host)).cloned().collect();
        if own.is_empty() {
            return Err(Misplaced::Idle { host: host.clone() });
        }
        let processes = (own.len() < spec.processes.len()).then_some(own);
        Ok(Placed { host: host.clone(), processes })
    };
    hosts.iter().map(place).collect()
}

/// Which host migrates, before any host switches: the first that has the process whose surroundings it gets.
pub(crate) fn migrates(spec: &Spec, placed: &[Placed]) -> Option<usize> {
    spec.migrate.as_ref()?;
    let process = spec.first_process()?;
    placed.iter().position(|p| p.has(process))
}

/// Whether the host of this place migrates. A spec without a migration has nothing to do either way.
pub(crate) fn migrate(spec: &Spec, who: Option<usize>, index: usize) -> Migrate {
    if spec.migrate.is_none() || who == Some(index) { Migrate::Here } else { Migrate::Elsewhere }
}

/// Whether the release is live on a host already.
pub(crate) fn is_live(answer: &PlanAnswer) -> bool {
    answer.to.is_none() && answer.refused.is_none()
}

/// The label under which a host knows the release.
fn known(answer: &PlanAnswer) -> Option<Label> {
    answer.known_as.or(if is_live(answer) { answer.from } else { None })
}

/// The label that a host has not given yet.
fn next(answer: &PlanAnswer) -> Label {
    answer.next_label.max(answer.to.unwrap_or(Label::FIRST))
}

/// The label of the release on every host: the one that it has, when all that know it agree and no other
/// host may have given it to something else; else one that none has given.
pub(crate) fn label(answers: &[&PlanAnswer]) -> Label {
    let known: Vec<Option<Label>> = answers.iter().map(|answer| known(answer)).collect();
    if let Some(label) = known.iter().flatten().next().copied()
        && known.iter().flatten().all(|other| *other == label)
        && answers.iter().zip(&known).all(|(answer, known)| known.is_some() || next(answer) <= label)
    {
        return label;
    }
    answers.iter().map(|answer| next(answer)).max().unwrap_or(Label::FIRST)
}

/// The wave of each of so many hosts: the first alone, then as many as may be away at one time.
pub(crate) fn waves(count: usize, at_once: usize) -> Vec<u32> {
    let wave = |index: usize| if index == 0 { 0 } else { 1 + (index - 1) / at_once.max(1) };
    (0..count).map(|index| u32::try_from(wave(index)).unwrap_or(u32::MAX)).collect()
}

/// In which order hosts switch: the one that migrates first, the others as they stand.
pub(crate) fn order(count: usize, first: Option<usize>) -> Vec<usize> {
    let rest = (0..count).filter(|index| Some(*index) != first);
    first.into_iter().filter(|index| *index < count).chain(rest).collect()
}

/// How many of the hosts switch at one time.
pub(crate) fn at_once(share: Share, hosts: usize) -> usize {
    share.of(hosts)
}

/// What a plan was made of, on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) host: String,
    pub(crate) state: Option<Digest>,
    pub(crate) strategy: Strategy,
    pub(crate) processes: Option<Vec<ProcessName>>,
    pub(crate) migrate: Migrate,
}

/// How hosts go one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) max_unavailable: Share,
    pub(crate) on_failure: OnFailure,
}

/// The token of a plan: the same as long as the hosts, their state, the release and the way stay the same.
pub(crate) fn token(release: Digest, terms: Terms, seen: &[Seen]) -> String {
    let mut lines: Vec<String> = seen
        .iter()
        .map(|s| {
            let state = s.state.map(|d| d.to_string()).unwrap_or_default();
            let own = (s.strategy, &s.processes, s.migrate);
            format!("{}\0{state}\0{release}\0{own:?}\0{terms:?}\n", s.host)
        })
        .collect();
    lines.sort();
    format!("p-{}", Digest::of(lines.concat().as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(text: &str) -> Spec {
        deployd_api::spec::parse(text).unwrap()
    }

    fn two() -> Spec {
        spec("app = \"a\"\n[processes.web]\nexec = \"w\"\n[processes.jobs]\nexec = \"j\"\nhosts = \"jobs\"\n")
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn processes_stand_where_they_say() {
        let chosen = |on: &[&str]| BTreeMap::from([("jobs".parse().unwrap(), names(on))]);
        let hosts = names(&["a", "b"]);
        let placed = place(&two(), &hosts, &chosen(&["b"])).unwrap();
        assert_eq!(placed[0].processes, Some(vec!["web".parse().unwrap()]));
        assert_eq!(placed[1].processes, None);
        assert!(matches!(place(&two(), &hosts, &chosen(&["c"])), Err(Misplaced::Nowhere { .. })));
        let mut both = chosen(&["b"]);
        both.insert("web".parse().unwrap(), names(&["b"]));
        assert_eq!(place(&two(), &hosts, &both), Err(Misplaced::Idle { host: "a".to_owned() }));
    }

    #[test]
    fn the_first_host_with_the_first_process_migrates() {
        let text = "app = \"a\"\nrelease_command = \"m\"\n[processes.web]\nexec = \"w\"\nhosts = \"web\"\n\
                    [processes.jobs]\nexec = \"j\"\n";
        let with = deployd_api::spec::parse(
            &text.replace("release_command = \"m\"\n", "[migrate]\ncommand = \"m\"\n"),
        )
        .unwrap();
        let chosen = BTreeMap::from([("web".parse().unwrap(), names(&["b"]))]);
        let placed = place(&with, &names(&["a", "b"]), &chosen).unwrap();
        assert_eq!(migrates(&with, &placed), Some(1));
        assert_eq!(order(3, Some(1)), [1, 0, 2]);
        assert_eq!(
            (migrate(&with, Some(1), 0), migrate(&with, Some(1), 1)),
            (Migrate::Elsewhere, Migrate::Here)
        );
        let without = two();
        assert_eq!((migrates(&without, &placed), migrate(&without, None, 0)), (None, Migrate::Here));
    }

    fn answer(from: Option<&str>, to: Option<&str>, known: Option<&str>, next: &str) -> PlanAnswer {
        serde_json::from_value(json!({
            "app": "a", "from": from, "to": to, "strategy": "rolling", "files": 1, "changed_files": [],
            "bytes_to_send": 0, "config": [], "steps": [], "fits": [], "known_as": known, "next_label": next,
        }))
        .unwrap()
    }

    #[test]
    fn a_label_is_the_same_everywhere_and_nobody_elses() {
        let fresh = |next: &str| answer(None, Some(next), None, next);
        let knows = |label: &str, next: &str| answer(Some("v1"), Some(label), Some(label), next);
        let live = |label: &str, next: &str| answer(Some(label), None, None, next);
        for (answers, want) in [
            (vec![fresh("v1")], "v1"),
            (vec![fresh("v3"), fresh("v7"), fresh("v1")], "v7"),
            // Known, and free on the host that was away.
            (vec![knows("v4", "v6"), knows("v4", "v5"), fresh("v4")], "v4"),
            (vec![live("v4", "v5"), fresh("v3")], "v4"),
            // Known, and perhaps something else on another host.
            (vec![knows("v4", "v6"), fresh("v5")], "v6"),
            // Known by two names.
            (vec![knows("v4", "v6"), knows("v5", "v8")], "v8"),
        ] {
            let answers: Vec<&PlanAnswer> = answers.iter().collect();
            assert_eq!(label(&answers).to_string(), want, "{answers:?}");
        }
    }

    #[test]
    fn the_first_wave_is_one_host() {
        for (count, at_once, want) in [
            (0, 1, vec![]),
            (1, 5, vec![0]),
            (3, 1, vec![0, 1, 2]),
            (6, 2, vec![0, 1, 1, 2, 2, 3]),
            (4, 9, vec![0, 1, 1, 1]),
        ] {
            assert_eq!(waves(count, at_once), want);
        }
    }

    #[test]
    fn a_token_says_whether_anything_changed() {
        let seen = |host: &str, state: &[u8]| Seen {
            host: host.to_owned(),
            state: Some(Digest::of(state)),
            strategy: Strategy::Rolling,
            processes: None,
            migrate: Migrate::Elsewhere,
        };
        let terms = Terms { max_unavailable: Share::DEFAULT, on_failure: OnFailure::Rollback };
        let token = |release, seen: &[Seen]| super::token(release, terms, seen);
        let release = Digest::of(b"r");
        let one = token(release, &[seen("a", b"1"), seen("b", b"2")]);
        assert!(one.starts_with("p-") && one.len() == 10, "{one}");
        assert_eq!(one, token(release, &[seen("b", b"2"), seen("a", b"1")]));
        let mut other = seen("b", b"2");
        other.strategy = Strategy::Immediate;
        let (mut placed, mut migrating) = (seen("b", b"2"), seen("b", b"2"));
        placed.processes = Some(vec!["web".parse().unwrap()]);
        migrating.migrate = Migrate::Here;
        let both = [seen("a", b"1"), seen("b", b"2")];
        let slower = Terms { max_unavailable: Share::Count(1), ..terms };
        let held = Terms { on_failure: OnFailure::Hold, ..terms };
        for changed in [
            token(release, &[seen("a", b"1"), seen("b", b"3")]),
            token(release, &[seen("a", b"1")]),
            token(Digest::of(b"s"), &[seen("a", b"1"), seen("b", b"2")]),
            token(release, &[seen("a", b"1"), other]),
            token(release, &[seen("a", b"1"), placed]),
            token(release, &[seen("a", b"1"), migrating]),
            super::token(release, slower, &both),
            super::token(release, held, &both),
        ] {
            assert_ne!(one, changed);
        }
    }
}
