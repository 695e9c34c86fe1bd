//! The first line of `status`: what is true of the whole fleet now, and whether a push would have to wait. Pure.

use deployd_api::ids::{AppName, Label};
use deployd_api::status::AppStatus;

use super::Seen;
use crate::commands::heard::Heard;
use crate::human;

/// Hosts that have the same release in the same state.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) label: Option<Label>,
    pub(super) stopped: bool,
    pub(super) hosts: Vec<(&'a str, &'a AppStatus)>,
}

/// The groups, the largest first; of equal ones the newest release.
pub(super) fn groups<'a>(apps: impl Iterator<Item = (&'a str, &'a AppStatus)>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (host, app) in apps {
        match groups.iter_mut().find(|g| (g.label, g.stopped) == (app.live, app.stopped)) {
            Some(group) => group.hosts.push((host, app)),
            None => groups.push(Group { label: app.live, stopped: app.stopped, hosts: vec![(host, app)] }),
        }
    }
    groups.sort_by_key(|g| std::cmp::Reverse((g.hosts.len(), g.label)));
    groups
}

impl Group<'_> {
    fn state(&self) -> &'static str {
        if self.stopped { "stopped" } else { "live" }
    }

    fn names(&self) -> String {
        human::names(&self.hosts.iter().map(|(host, _)| *host).collect::<Vec<_>>())
    }

    /// ` since 14:32 (ops-1, git 8c1f2ab), committed 14:37`
    fn story(&self) -> String {
        let apps = || self.hosts.iter().map(|(_, app)| app);
        let since = apps().filter_map(|a| a.live_since).max();
        let since = since.map(|at| format!(" since {}", human::since(at))).unwrap_or_default();
        let origin = self.hosts.first().map(|(_, app)| app.origin.clone()).unwrap_or_default();
        let git = origin.git.map(|git| format!(", git {git}")).unwrap_or_default();
        let by = if origin.by.is_empty() { "unknown" } else { &origin.by };
        let watched = apps().filter_map(|a| a.deployment.as_ref()?.watched_until).max();
        let committed = match apps().map(|a| a.committed).collect::<Option<Vec<_>>>() {
            Some(all) => all.iter().max().map(|at| format!("committed {}", human::since(*at))),
            None => watched.map(|until| format!("watched until {}", human::clock(until))),
        };
        format!("{since} ({by}{git}), {}", committed.unwrap_or_else(|| "not committed".to_owned()))
    }
}

/// What is true now, in one line.
pub(super) fn headline(app: &AppName, heard: &[Heard<Seen>]) -> String {
    // Hosts of other apps are none of this one's.
    let meant = heard.iter().filter(|h| !h.is_not_here()).count();
    let seen = || heard.iter().filter_map(|h| Some((h.host.as_str(), h.answer.as_ref().ok()?)));
    let groups = groups(seen().map(|(host, seen)| (host, &seen.app)));
    let mut text = format!("{app} {}.", releases(&groups, meant));
    let named = |of: &dyn Fn(&Heard<Seen>) -> bool| -> Option<String> {
        let hosts: Vec<&str> = heard.iter().filter(|h| of(h)).map(|h| h.host.as_str()).collect();
        (!hosts.is_empty()).then(|| human::names(&hosts))
    };
    if let Some(hosts) = named(&|h| h.trouble() == Some("no answer")) {
        text += &format!(" No answer from {hosts}.");
    }
    if let Some(hosts) = named(&|h| h.trouble().is_some_and(|why| why != "no answer")) {
        text += &format!(" Nothing known of {hosts}.");
    }
    if let Some(hosts) = named(&Heard::is_not_here) {
        text += &format!(" Not on {hosts}.");
    }
    format!("{text} {}", waiting(&seen().collect::<Vec<_>>()))
}

/// `v43 live on 3 of 3 hosts since …`, or what is mixed.
fn releases(groups: &[Group<'_>], total: usize) -> String {
    let Some(first) = groups.first() else { return "is not known".to_owned() };
    let place = match total {
        1 => first.names(),
        _ => format!("{} of {} hosts", human::count(first.hosts.len() as u64), human::count(total as u64)),
    };
    let what = |group: &Group<'_>, alone: bool| match (group.label, alone || group.stopped) {
        (Some(label), true) => format!("{label} {}", group.state()),
        (Some(label), false) => label.to_string(),
        (None, _) if group.hosts.iter().any(|(_, a)| a.deployment.is_some()) => {
            "gets its first release".to_owned()
        }
        (None, _) => "has no release".to_owned(),
    };
    let alone = groups.len() == 1;
    let story = if first.label.is_some() { first.story() } else { String::new() };
    if alone {
        return format!("{} on {place}{story}", what(first, true));
    }
    let others = groups[1..].iter().map(|group| format!(", {} on {}", what(group, false), group.names()));
    format!("is mixed: {} on {place}{story}{}", what(first, false), others.collect::<String>())
}

/// Whether a push would have to wait.
fn waiting(seen: &[(&str, &Seen)]) -> String {
    if let Some(lease) = seen.iter().find_map(|(_, s)| s.lease.as_ref()) {
        let since = human::clock(lease.since);
        return format!("Being deployed by {} ({}) since {since}.", lease.holder, lease.reason);
    }
    let running: Vec<_> = seen.iter().filter_map(|(h, s)| Some((*h, s.app.deployment.as_ref()?))).collect();
    let Some((_, first)) = running.iter().min_by_key(|(_, d)| d.started) else {
        return "Free to push.".to_owned();
    };
    let label = first.label.map(|l| format!(" {l}")).unwrap_or_default();
    let step = first.step.as_ref().map(|step| format!(": {step}")).unwrap_or_default();
    let hosts: Vec<&str> = running.iter().map(|(h, _)| *h).collect();
    let place = if seen.len() > 1 { format!(" on {}", human::names(&hosts)) } else { String::new() };
    let since = human::clock(first.started);
    format!("{}{label} by {} since {since}{place}{step}.", first.kind, first.origin.by)
}

#[cfg(test)]
mod tests {
    use deployd_api::error::{ErrorBody, ErrorCode};
    use deployd_api::fleet::Lease;
    use deployd_api::ids::{DeploymentId, Timestamp};

    use super::super::made_up::{LONG_AGO, app, heard, host};
    use super::*;

    fn line(heard: &[Heard<Seen>]) -> String {
        headline(&"shop".parse().unwrap(), heard)
    }

    #[test]
    fn one_truth_for_the_fleet() {
        let story = "since 9 Sep 2001 (ops-1, git 8c1f2ab), committed 9 Sep 2001";
        let three = heard(&[("web1", Some(43)), ("web2", Some(43)), ("web3", Some(43))]);
        assert_eq!(line(&three), format!("shop v43 live on 3 of 3 hosts {story}. Free to push."));
        assert_eq!(line(&three[..1]), format!("shop v43 live on web1 {story}. Free to push."));
        let mixed = heard(&[("web1", Some(43)), ("web2", Some(43)), ("web3", Some(42)), ("web4", None)]);
        assert_eq!(
            line(&mixed),
            format!(
                "shop is mixed: v43 on 2 of 4 hosts {story}, v42 on web3, has no release on web4. Free to push."
            )
        );
        let many: Vec<Heard<Seen>> = (0..1000).map(|i| host(&format!("h{i}"), Ok(app(43)))).collect();
        assert!(line(&many).starts_with("shop v43 live on 1,000 of 1,000 hosts since"));
    }

    #[test]
    fn who_is_missing_is_said() {
        let error = |code| Err(ErrorBody::new(code, "m", "h"));
        let hosts = [
            host("web1", Ok(app(43))),
            host("web2", error(ErrorCode::AgentUnreachable)),
            host("jobs1", error(ErrorCode::AppNotFound)),
            host("jobs2", error(ErrorCode::Forbidden)),
        ];
        let text = line(&hosts);
        assert!(text.starts_with("shop v43 live on 1 of 3 hosts since"), "{text}");
        assert!(
            text.ends_with(". No answer from web2. Nothing known of jobs2. Not on jobs1. Free to push."),
            "{text}"
        );
    }

    #[test]
    fn a_lease_is_told_before_a_deployment() {
        let mut hosts = heard(&[("web1", Some(43)), ("web2", Some(43))]);
        let Ok(seen) = &mut hosts[1].answer else { panic!() };
        seen.lease = Some(Lease {
            id: DeploymentId::from_random([1; 16]),
            epoch: 1,
            holder: "ops-1".into(),
            reason: "push v44".into(),
            since: Timestamp(LONG_AGO),
            renewed_ms_ago: 100,
            expires_in_ms: 14_000,
        });
        let text = line(&hosts);
        assert!(text.contains("Being deployed by ops-1 (push v44) since "), "{text}");
        assert!(!text.contains("Free"), "{text}");
    }
}
