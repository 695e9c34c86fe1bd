//! `doctor`: compares what should be with what is, and says what to do about each difference.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use deployd_api::error::ErrorBody;
use deployd_api::ids::AppName;
use deployd_api::status::{DoctorReport, Finding, Severity};
use deployd_core::state::{AppState, Tag};
use deployd_core::units::{self, Activation};

use crate::effects::{RealHost, bound, step_failed};
use crate::host::facts;
use crate::host::systemd::UnitBrief;
use crate::store::disk;
use crate::store::releases::verify::Depth;
use crate::supervisor::{Supervisor, store_failed};

type Deployd = Arc<Supervisor<RealHost>>;

/// Looks at the whole host. `looked` is what others found, by the name of their check.
pub async fn report(
    deployd: &Deployd,
    looked: Vec<(&'static str, Vec<Finding>)>,
) -> Result<DoctorReport, ErrorBody> {
    let host = deployd.host();
    let live = host.settings.live.get();
    let disk = disk::observe(Path::new(&host.settings.apps_dir)).map_err(|e| step_failed(&e))?;
    let mut report = DoctorReport {
        host: live.name.clone(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        systemd: host.systemd.version().await.map_err(|e| step_failed(&e))?,
        disk_free: disk.free_bytes,
        disk_total: disk.total_bytes,
        apps: 0,
        findings: Vec::new(),
        passed: Vec::new(),
    };
    let mut look = Look::default();
    look.at("disk", disk_findings(live.disk_reserve, disk.free_bytes));
    for (what, findings) in looked {
        look.at(what, findings);
    }
    let mut expected = BTreeSet::new();
    let mut apps = 0;
    for (app, state) in deployd.apps().await {
        // While it is kept as it is, what is recorded and what is can be compared; it must not be for long.
        let idle = deployd.keep_idle(&app).await;
        let state = state.lock().await.clone();
        apps += u32::from(state.live.is_some());
        expected.extend(expected_units(&state));
        if idle.is_some() {
            let units = host.systemd.list(&["deployd-*"]).await.map_err(|e| step_failed(&e))?;
            look.at("units", unit_findings(&state, &units));
            look.at("boot", boot_findings(&state));
            look.at("groups", group_findings(&state)?);
            look.at("store", store_findings(host, &state).await?);
            drop(idle);
            look.at("store", content_findings(host, &state).await?);
        }
    }
    look.at("states", state_findings(deployd.unreadable()));
    if deployd.store().unfinished().await.map_err(|e| store_failed(&e))?.is_empty() {
        let units = host.systemd.list(&["deployd-*"]).await.map_err(|e| step_failed(&e))?;
        // What was deployed since its app was looked at is no leftover, and what went since is neither.
        for (_, state) in deployd.apps().await {
            expected.extend(expected_units(&*state.lock().await));
        }
        let unknown: Vec<String> = deployd.unreadable().keys().map(units::prefix).collect();
        look.at("leftovers", leftover_findings(&expected, &unknown, &units));
    }
    look.at("journal", journal_findings(deployd).await?);
    report.apps = apps;
    (report.passed, report.findings) = look.end();
    Ok(report)
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Look {
    clean: Vec<&'static str>,
    unclean: BTreeSet<&'static str>,
    findings: Vec<Finding>,
}

impl Look {
    fn at(&mut self, what: &'static str, findings: Vec<Finding>) {
        if !findings.is_empty() {
            self.unclean.insert(what);
        } else if !self.clean.contains(&what) {
            self.clean.push(what);
        }
        self.findings.extend(findings);
    }

    /// The checks that found nothing for any app, and the findings, errors first.
    fn end(mut self) -> (Vec<String>, Vec<Finding>) {
        self.findings.sort_by_key(|f| f.severity);
        let passed = self.clean.into_iter().filter(|c| !self.unclean.contains(c));
        (passed.map(str::to_owned).collect(), self.findings)
    }
}

fn finding(severity: Severity, code: &str, subject: &str, what: String, next: String) -> Finding {
    Finding { severity, code: code.to_owned(), subject: subject.to_owned(), what, next }
}

fn disk_findings(reserve: u64, free: u64) -> Vec<Finding> {
    if free >= reserve {
        return Vec::new();
    }
    let what = format!("{} MB free, the reserve is {} MB: pushes are refused", free >> 20, reserve >> 20);
    let next = "journalctl --vacuum-size=1G, apt-get clean, or lower disk_reserve in agent.toml".to_owned();
    vec![finding(Severity::Error, "disk_low", "/var/lib/deployd", what, next)]
}

/// Apps that serve, and that nobody can deploy.
fn state_findings(unreadable: &BTreeMap<AppName, String>) -> Vec<Finding> {
    let told = unreadable.iter().map(|(app, why)| {
        let what =
            format!("what the agent knows of {app} cannot be read: {why}. It serves, and is left alone");
        let next = "install the deployd that wrote it, or restore /var/lib/deployd/state.db".to_owned();
        finding(Severity::Error, "state_unreadable", app.as_str(), what, next)
    });
    told.collect()
}

/// Everything of an app that may rightly be there.
fn tags(state: &AppState) -> Vec<Tag> {
    let named = [state.live, state.candidate, state.warm];
    named.into_iter().flatten().chain(state.draining.iter().copied()).collect()
}

fn expected_units(state: &AppState) -> Vec<String> {
    let mut out = vec![units::slice(&state.app), units::target(&state.app)];
    // The host's, as long as any release may need it.
    out.extend(state.releases.values().find(|r| r.beam).map(|_| units::EPMD.to_owned()));
    for tag in tags(state) {
        let Some(release) = state.releases.get(&tag.label) else { continue };
        let of = Activation { tag, release };
        out.extend(of.sockets().into_iter().map(|s| s.unit));
        for process in of.processes() {
            let all = of.instances_of(&process).into_iter().chain(of.proxies_of(&process));
            out.extend(all.map(|i| i.unit));
        }
    }
    out
}

fn unit_findings(state: &AppState, units: &[UnitBrief]) -> Vec<Finding> {
    let Some(tag) = state.live.filter(|_| !state.stopped) else { return Vec::new() };
    let Some(release) = state.releases.get(&tag.label) else { return Vec::new() };
    let of = Activation { tag, release };
    let wanted = of.sockets().into_iter().map(|s| s.unit).chain(of.instances().into_iter().map(|i| i.unit));
    let down = wanted.filter(|name| !units.iter().any(|u| u.name == *name && u.active_state == "active"));
    down.map(|name| {
        let what = format!("{name} of the live release {} is not active", tag.label);
        let next = format!("systemctl status {name} says why; systemctl start {name}");
        finding(Severity::Error, "unit_down", &name, what, next)
    })
    .collect()
}

fn boot_findings(state: &AppState) -> Vec<Finding> {
    let (Some(committed), false) = (state.committed, state.stopped) else { return Vec::new() };
    let Some(release) = state.releases.get(&committed.label) else { return Vec::new() };
    let wanted = Activation { tag: committed, release }.target_file();
    let app = state.app.as_str();
    let same = std::fs::read_to_string(&wanted.path).is_ok_and(|now| now == wanted.content);
    let linked = Path::new(&units::wanted_by(&state.app)).symlink_metadata().is_ok();
    if same && linked {
        return Vec::new();
    }
    let what = format!("{} is not what {} should boot", wanted.path, committed.label);
    let next = format!(
        "the next push or rollback writes it; or deployd-ctl stop -a {app}, then deployd-ctl start -a {app}: \
         clients are refused between them"
    );
    vec![finding(Severity::Error, "boot_target", app, what, next)]
}

/// A socket that nobody serves would take connections and never answer.
fn group_findings(state: &AppState) -> Result<Vec<Finding>, ErrorBody> {
    let mut out = Vec::new();
    let Some(spec) = state.live_spec().filter(|_| !state.stopped) else { return Ok(out) };
    for (name, listener) in &spec.listen {
        let Some(on) = bound(&listener.address) else { continue };
        let (members, port) = (facts::listening(on).map_err(|e| step_failed(&e))?, on.port());
        let known = state.groups.get(&listener.address.listen_stream()).map_or(0, Vec::len);
        if members != known {
            let what = format!("port {port} has {members} listening sockets, {known} are known");
            let next = if members > known {
                format!(
                    "ss -ltnp 'sport = :{port}' shows who holds them; end what is not of deployd-{}-*: \
                     systemctl stop UNIT, or kill PID",
                    state.app.unit_part()
                )
            } else {
                let app = &state.app;
                format!("deployd-ctl stop -a {app}, then deployd-ctl start -a {app}, opens them anew")
            };
            out.push(finding(Severity::Error, "group_members", name.as_str(), what, next));
        }
    }
    Ok(out)
}

async fn store_findings(host: &RealHost, state: &AppState) -> Result<Vec<Finding>, ErrorBody> {
    let releases = host.releases.clone();
    let app = state.app.clone();
    let trees = crate::effects::on_disk(move || releases.list(&app)).await?;
    let trees = trees.map_err(|e| step_failed(&e))?;
    let kept: BTreeSet<_> = state.releases.values().filter(|r| r.is_kept()).map(|r| r.label).collect();
    let running: BTreeSet<_> = tags(state).into_iter().map(|t| t.label).collect();
    let mut out = Vec::new();
    for tree in &trees {
        if !kept.contains(&tree.label()) && !running.contains(&tree.label()) {
            let what = format!("the tree {tree} belongs to no release");
            let next = format!("rm -r {}/{}/releases/{tree}", host.settings.apps_dir, state.app);
            out.push(finding(Severity::Warn, "tree_left", state.app.as_str(), what, next));
        }
    }
    for label in kept.iter().filter(|l| !trees.iter().any(|t| t.label() == **l)) {
        let what = format!("the files of {label} are gone: it cannot be gone back to");
        let next = "push that build again".to_owned();
        out.push(finding(Severity::Error, "tree_missing", state.app.as_str(), what, next));
    }
    Ok(out)
}

/// The live release's files, byte by byte.
async fn content_findings(host: &RealHost, state: &AppState) -> Result<Vec<Finding>, ErrorBody> {
    let Some(live) = state.live else { return Ok(Vec::new()) };
    let (releases, app) = (host.releases.clone(), state.app.clone());
    let compare = move || {
        let tree = releases.list(&app).ok()?.into_iter().find(|tree| tree.label() == live.label)?;
        let why = releases.verify(&app, &tree, Depth::Content).err()?;
        // A push or a rollback may have replaced and removed it meanwhile.
        releases.tree(&app, &tree).exists().then(|| why.to_string())
    };
    let Some(why) = crate::effects::on_disk(compare).await? else { return Ok(Vec::new()) };
    let what = format!("the files of {} are not those that were pushed: {why}", live.label);
    let app = &state.app;
    let next =
        format!("find out who changed them; then push that build again, or deployd-ctl rollback -a {app}");
    Ok(vec![finding(Severity::Error, "tree_changed", state.app.as_str(), what, next)])
}

/// Units of ours that no app accounts for; not those of apps of which nothing is known.
fn leftover_findings(expected: &BTreeSet<String>, unknown: &[String], units: &[UnitBrief]) -> Vec<Finding> {
    // Those of apps with such a name are instances, or sockets.
    let ours = |name: &str| {
        let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        crate::commands::is_command(name)
            || begins(&["deployd-fd@", "deployd-fd-nb@"])
            || (begins(&["deployd-relay-", "deployd-check-", "deployd-seal-"])
                && name.ends_with(".service")
                && !name.contains('@'))
    };
    let app_unit = |u: &&UnitBrief| {
        let kind = [".service", ".socket"].iter().any(|k| u.name.ends_with(k));
        kind && !ours(&u.name) && !expected.contains(&u.name) && u.load_state != "not-found"
    };
    let left = units.iter().filter(|u| !unknown.iter().any(|prefix| u.name.starts_with(prefix)));
    let left = left.filter(app_unit).filter(|u| u.active_state != "inactive");
    left.map(|u| {
        let what = format!("{} is {} and belongs to no release that runs", u.name, u.active_state);
        finding(Severity::Error, "unit_left", &u.name, what, format!("systemctl stop {}", u.name))
    })
    .collect()
}

async fn journal_findings(deployd: &Deployd) -> Result<Vec<Finding>, ErrorBody> {
    let mut out = Vec::new();
    let known = deployd.apps().await.into_iter().map(|(app, _)| app);
    for app in known.chain(deployd.unreadable().keys().cloned()) {
        let recent = deployd.store().recent(&app, 1).await.map_err(|e| store_failed(&e))?;
        if let Some(row) = recent.first()
            && let Err(e) = deployd.store().load(&row.new.id).await
        {
            let what = format!("the journal of the last {} cannot be read: {e}", row.new.kind);
            let next = "what runs is not touched by it; the next push writes a new one".to_owned();
            out.push(finding(Severity::Error, "journal_damaged", app.as_str(), what, next));
        }
        let stuck = recent.first().filter(|r| r.finish.as_ref().is_some_and(|f| f.verdict == "stuck"));
        if let Some(row) = stuck {
            let what = format!("the last {} is stuck", row.new.kind);
            let next = format!("deployd journal show {app} tells what was not undone");
            out.push(finding(Severity::Error, "stuck", app.as_str(), what, next));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_passed_when_it_found_nothing_for_any_app() {
        let mut look = Look::default();
        let one = || vec![finding(Severity::Error, "unit_down", "x", String::new(), String::new())];
        for (what, findings) in [("units", vec![]), ("boot", vec![]), ("units", one()), ("boot", vec![])] {
            look.at(what, findings);
        }
        let (passed, findings) = look.end();
        assert_eq!((passed, findings.len()), (vec!["boot".to_owned()], 1));
    }
}
