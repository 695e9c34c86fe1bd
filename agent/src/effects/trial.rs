//! Judging a release: its checks against the real port, and whether its processes stay up.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{CheckName, ListenerName};
use deployd_api::spec::{Check, CheckKind, Millis};
use deployd_core::action::{Instance, Socket, Trial};
use deployd_core::health::{Judgement, Sample, Tally};
use futures_util::future::join_all;

use super::RealHost;
use super::failure::step_failed;
use super::instances::{app_of, ended};
use crate::driver::{Done, Run, clock};
use crate::host::probe::{self, HttpProbe, Probed, Target};

/// How often it is looked whether the processes are up.
const LOOK: Duration = Duration::from_millis(100);

/// One check under way.
struct Running<'a> {
    name: &'a CheckName,
    check: &'a Check,
    tally: Tally,
    next: Instant,
    passing: bool,
}

impl RealHost {
    /// Waits until every check passes and every process is up.
    pub(super) async fn check(
        &self,
        trial: &Trial,
        timeout: Millis,
        restarts: u32,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        let began = Instant::now();
        let limit = Duration::from(timeout).saturating_sub(run.elapsed);
        let targets = self.targets(trial, run).await?;
        let mut running = running(trial);
        let crashes = self.crashes(trial, run.elapsed).await?;
        loop {
            let up = self.look(trial, &crashes, restarts + 1, run).await?;
            for check in running.iter_mut().filter(|c| !c.passing && c.next <= Instant::now()) {
                // No try begins after the end: the step's deadline has room for one.
                if check.tally.tries() > 0 && began.elapsed() >= limit {
                    break;
                }
                self.one_try(trial, check, &targets, began.elapsed()).await?;
            }
            if up && running.iter().all(|c| c.passing) {
                return Ok(passed(&running));
            }
            if began.elapsed() >= limit {
                return Err(self.not_passed(trial, &running, limit, run).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps looking for a while: a check that fails too often, or a process that ends, is a failure.
    pub(super) async fn watch(
        &self,
        trial: &Trial,
        duration: Millis,
        restarts: u32,
        settle: Millis,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        let began = Instant::now();
        let limit = Duration::from(duration).saturating_sub(run.elapsed);
        let targets = self.targets(trial, run).await?;
        let mut running = running(trial);
        let crashes = self.crashes(trial, run.elapsed).await?;
        // A check that failed last is tried until it passes or has failed too often: time alone is no pass.
        // And one that was not tried yet is tried once: the agent may have been away for all of the time.
        let open = |c: &Running<'_>| c.tally.is_failing() || c.tally.tries() == 0;
        while began.elapsed() < limit || running.iter().any(open) {
            self.look(trial, &crashes, restarts + 1, run).await?;
            for check in running.iter_mut().filter(|c| c.next <= Instant::now()) {
                if began.elapsed() >= limit && !open(check) {
                    continue;
                }
                check.passing = false;
                let judged = self.one_try(trial, check, &targets, began.elapsed()).await?;
                if let Judgement::Failed(why) = judged {
                    return Err(self.check_failed(trial, check.name, check, &why, run).await);
                }
            }
            let left = limit.saturating_sub(began.elapsed());
            tokio::time::sleep(if left.is_zero() { LOOK } else { LOOK.min(left) }).await;
        }
        // What happened during the last try counts; a process that just ended is counted when it is started again.
        let ended = Instant::now();
        while !self.look(trial, &crashes, restarts + 1, run).await?
            && ended.elapsed() < Duration::from(settle)
        {
            tokio::time::sleep(LOOK).await;
        }
        Ok(passed(&running))
    }

    /// Automatic restarts before the step began, by unit. What came up since then crashed in it, perhaps in an earlier
    /// life of the agent.
    async fn crashes(&self, trial: &Trial, elapsed: Duration) -> Result<BTreeMap<String, u32>, ErrorBody> {
        let began = clock::now().0.saturating_sub(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let mut out = BTreeMap::new();
        for instance in &trial.instances {
            let state = self.systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
            let before = state.map_or(0, |s| {
                let since = s.active_enter.is_some_and(|up| up.0 > began);
                s.n_restarts.saturating_sub(u32::from(since))
            });
            out.insert(instance.unit.clone(), before);
        }
        Ok(out)
    }

    /// Whether all processes are up; a failure when one ended `limit` times.
    async fn look(
        &self,
        trial: &Trial,
        before: &BTreeMap<String, u32>,
        limit: u32,
        run: &Run,
    ) -> Result<bool, ErrorBody> {
        let mut up = true;
        for instance in &trial.instances {
            let state = self.systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
            let Some(state) = state else {
                return Err(self.start_failed(instance, "its unit is gone", run).await);
            };
            let crashed = state.n_restarts.saturating_sub(before.get(&instance.unit).copied().unwrap_or(0));
            if crashed >= limit || (state.is_down() && state.active_state == "failed") {
                let times = if crashed > 1 { format!(", {crashed} times") } else { String::new() };
                return Err(self.start_failed(instance, &format!("{}{times}", ended(&state)), run).await);
            }
            up &= state.is_active();
        }
        self.look_at_listeners(trial, run).await?;
        Ok(up)
    }

    /// A release that shut its own listener down would be judged by the answers of another.
    async fn look_at_listeners(&self, trial: &Trial, run: &Run) -> Result<(), ErrorBody> {
        for socket in &trial.sockets {
            if !self.held.is_shut(&socket.unit) {
                continue;
            }
            return Err(self.has_no_listener(trial, socket, run).await);
        }
        Ok(())
    }

    async fn has_no_listener(&self, trial: &Trial, socket: &Socket, run: &Run) -> ErrorBody {
        let why = self.absent(socket);
        match trial.instances.first() {
            Some(instance) => self.start_failed(instance, &why, run).await,
            None => step_failed(&std::io::Error::other(why)),
        }
    }

    /// Where each listener of the trial is reached, steered to the release that is judged.
    async fn targets(&self, trial: &Trial, run: &Run) -> Result<BTreeMap<ListenerName, Target>, ErrorBody> {
        let mut out = BTreeMap::new();
        for socket in &trial.sockets {
            let target = self.target(socket, run).await?;
            if matches!(target, Target::Tcp { mark: None, .. }) {
                // Unmarked it would be answered by another release.
                return Err(self.has_no_listener(trial, socket, run).await);
            }
            out.insert(socket.listener.clone(), target);
        }
        Ok(out)
    }

    async fn target(&self, socket: &Socket, run: &Run) -> Result<Target, ErrorBody> {
        let Some(addr) = socket.address.loopback() else {
            return Ok(Target::Unix(socket.address.listen_stream().into()));
        };
        let index = self.index(socket, run).await?;
        Ok(Target::Tcp { addr, mark: index.map(|i| self.settings.mark_prefix.mark(i)) })
    }

    async fn one_try(
        &self,
        trial: &Trial,
        running: &mut Running<'_>,
        targets: &BTreeMap<ListenerName, Target>,
        age: Duration,
    ) -> Result<Judgement, ErrorBody> {
        let sample = self.sample(trial, running.name, running.check, targets).await?;
        running.passing = sample == Sample::Pass;
        running.next = Instant::now() + Duration::from(running.check.interval);
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Ok(running.tally.add(running.check, age, sample))
    }

    async fn sample(
        &self,
        trial: &Trial,
        name: &CheckName,
        check: &Check,
        targets: &BTreeMap<ListenerName, Target>,
    ) -> Result<Sample, ErrorBody> {
        let limit = Duration::from(check.timeout);
        let target = |l: &ListenerName| targets.get(l).ok_or_else(|| no_listener(l));
        let listener = match &check.kind {
            CheckKind::Http { listener, .. } | CheckKind::Tcp { listener } => listener,
            CheckKind::Exec { command, .. } => {
                let site = trial.commands.get(name).ok_or_else(|| no_site(name))?;
                let target = site.listener.as_ref().map(target).transpose()?;
                // No dash inside a part: the same name would stand for two checks of two apps.
                let (user, check) = (site.surroundings.user.replace('-', "_"), name.unit_part());
                let unit = format!("deployd-check-{user}-{check}-{}.service", trial.tag);
                return self.exec_check(&unit, command, &site.surroundings, limit, target).await;
            }
            // The unit's own start waits for it.
            CheckKind::Notify { .. } => return Ok(Sample::Pass),
        };
        let target = targets.get(listener).ok_or_else(|| no_listener(listener))?;
        let ports = trial.ports.get(listener).map(Vec::as_slice);
        let probed = probe_once(check, target, ports, limit).await;
        let Some(probed) = probed else { return Ok(Sample::Pass) };
        Ok(match &probed.failure {
            None => Sample::Pass,
            Some(failure) => Sample::Fail(describe(check, &probed, failure, " on the candidate")),
        })
    }

    async fn not_passed(
        &self,
        trial: &Trial,
        running: &[Running<'_>],
        limit: Duration,
        run: &Run,
    ) -> ErrorBody {
        if let Some(check) = running.iter().find(|c| !c.passing) {
            let why = check.tally.last_failure().unwrap_or("it was never tried").to_owned();
            let why = format!("{why}, {} tries in {} s", check.tally.tries(), limit.as_secs());
            return self.check_failed(trial, check.name, check, &why, run).await;
        }
        match trial.instances.first() {
            Some(i) => {
                self.start_failed(i, &format!("it was not up within {} s", limit.as_secs()), run).await
            }
            None => step_failed(&std::io::Error::other("a release without processes was judged")),
        }
    }

    async fn check_failed(
        &self,
        trial: &Trial,
        name: &CheckName,
        running: &Running<'_>,
        why: &str,
        run: &Run,
    ) -> ErrorBody {
        let label = trial.tag.label;
        let of = served_by(trial, running.check);
        let app = app_of(run).await;
        let live = self.settings.live.get();
        let host = &live.name;
        let mut hint = format!("deployd-ctl logs -a {app} --release {label}");
        if let Some(i) = of {
            hint += &format!(" --instance {}@{}", i.process, i.number);
        }
        let message = format!("{app} {label} did not pass check \"{name}\" on {host}");
        let body = ErrorBody::new(ErrorCode::CheckFailed, message, hint)
            .about(name.as_str())
            .cause("what", why.to_owned());
        match of {
            Some(instance) => {
                let instance_name = format!("{}@{}", instance.process, instance.number);
                let place = format!("{host}, {instance_name} of {label}; [checks.{name}]");
                self.with_log(body.cause("where", place), &instance.unit).await
            }
            None => body,
        }
    }
}

/// What a proxy accepts says nothing: each app behind one is asked.
async fn private(ports: &[u16], limit: Duration) -> Probed {
    let target = |port: &u16| Target::Tcp { addr: (Ipv4Addr::LOCALHOST, *port).into(), mark: None };
    let targets: Vec<Target> = ports.iter().map(target).collect();
    let mut all = join_all(targets.iter().map(|t| probe::tcp(t, limit))).await;
    let worst = all.iter().position(|p| p.failure.is_some()).unwrap_or(0);
    if all.is_empty() {
        let failure = Some(probe::Failure::Request("the listener has no private port".to_owned()));
        return Probed { latency: Duration::ZERO, status: None, excerpt: None, failure };
    }
    all.swap_remove(worst)
}

fn running(trial: &Trial) -> Vec<Running<'_>> {
    let now = Instant::now();
    let start = |(name, check)| Running { name, check, tally: Tally::default(), next: now, passing: false };
    trial.checks.iter().map(start).collect()
}

fn passed(running: &[Running<'_>]) -> Done {
    if running.is_empty() {
        return Done::default();
    }
    let tries = |c: &Running<'_>| format!("{} ok", c.name);
    Done::note(running.iter().map(tries).collect::<Vec<_>>().join(", "))
}

fn served_by<'a>(trial: &'a Trial, check: &Check) -> Option<&'a Instance> {
    let process = match &check.kind {
        CheckKind::Exec { process, .. } | CheckKind::Notify { process } => Some(process),
        CheckKind::Http { .. } | CheckKind::Tcp { .. } => None,
    };
    let own = trial.instances.iter().find(|i| process.is_some_and(|p| i.process == *p));
    own.or_else(|| trial.instances.first())
}

/// One try of a check that is sent to a listener, or to the private ports behind it; `None` when this check
/// is not.
pub(super) async fn probe_once(
    check: &Check,
    target: &Target,
    ports: Option<&[u16]>,
    limit: Duration,
) -> Option<Probed> {
    match &check.kind {
        CheckKind::Http { path, method, headers, host, status, json, .. } => {
            let probe = HttpProbe {
                method: method.clone(),
                path: path.clone(),
                host: host.clone(),
                headers: headers.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
                statuses: status.clone(),
                json: json.clone(),
                timeout: limit,
            };
            Some(probe::http(target, &probe).await)
        }
        CheckKind::Tcp { .. } => Some(match ports {
            // What answers on the listener is the proxy.
            Some(ports) => private(ports, limit).await,
            None => probe::tcp(target, limit).await,
        }),
        CheckKind::Exec { .. } | CheckKind::Notify { .. } => None,
    }
}

/// What a try found, in words; `place` is said after what was asked.
pub(super) fn describe(
    check: &Check,
    probed: &probe::Probed,
    failure: &probe::Failure,
    place: &str,
) -> String {
    let what = match &check.kind {
        CheckKind::Http { method, path, .. } => format!("{method} {path}{place}: "),
        _ => String::new(),
    };
    let status =
        probed.status.map(|s| format!("{s} in {} ms, ", probed.latency.as_millis())).unwrap_or_default();
    let body = probed
        .excerpt
        .as_deref()
        .filter(|e| !e.is_empty())
        .map(|e| format!("; body: {e}"))
        .unwrap_or_default();
    format!("{what}{status}{failure}{body}")
}

fn no_site(name: &CheckName) -> ErrorBody {
    let message = format!("the plan does not say where check {name} runs");
    ErrorBody::new(ErrorCode::Internal, message, "please report this defect of deployd")
}

fn no_listener(name: &ListenerName) -> ErrorBody {
    let message = format!("the check's listener {name} is not one of the release");
    ErrorBody::new(ErrorCode::Internal, message, "please report this defect of deployd")
}
