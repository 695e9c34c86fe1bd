//! Everything before the first byte: what is pushed, to which hosts, and what each of them says to it.

use std::collections::{BTreeMap, BTreeSet};

use deployd_api::deployment::{Migrate, PlanAnswer, PlanRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Label, ProcessName};
use deployd_api::manifest::Manifest;
use deployd_api::needs::Needs;
use deployd_api::release::ReleaseDocument;
use deployd_api::secret::SecretName;
use deployd_api::spec::{Project, Strategy};
use hyper::Method;

use super::crew::{self, Crew};
use super::outcome::listed;
use super::plan::{self, Placed, Seen, Terms};
use crate::artifact;
use crate::build::{self, Artifact, Building};
use crate::cli::Plan;
use crate::client::Client;
use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::needs;
use crate::project;

/// Where an app goes.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) project: Project,
    pub(crate) placed: Vec<(Host, Placed)>,
    /// Hosts of the app that `--host` leaves out.
    pub(crate) others: Vec<(Host, Placed)>,
}

/// What is pushed.
#[derive(Debug)]
pub(crate) struct Goods {
    pub(crate) artifact: Artifact,
    pub(crate) manifest: Manifest,
    pub(crate) needs: Needs,
}

/// A host that takes part, with what it said.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) host: Host,
    pub(crate) placed: Placed,
    pub(crate) answer: PlanAnswer,
}

/// What the hosts said.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) asked: Vec<Asked>,
    /// Which of them would migrate.
    pub(crate) migrates: Option<usize>,
    pub(crate) document: ReleaseDocument,
    pub(crate) terms: Terms,
    pub(crate) label: Label,
}

impl Answers {
    /// Whether every host has it already.
    pub(crate) fn is_nothing(&self) -> bool {
        self.asked.iter().all(|a| plan::is_live(&a.answer))
    }

    pub(crate) fn token(&self) -> String {
        let seen = |(index, a): (usize, &Asked)| Seen {
            processes: a.placed.processes.clone(),
            migrate: plan::migrate(&self.document.spec, self.migrates, index),
            host: a.host.name.clone(),
            state: a.answer.state,
            strategy: a.answer.strategy,
        };
        let seen: Vec<Seen> = self.asked.iter().enumerate().map(seen).collect();
        plan::token(self.document.digest(), self.terms, &seen)
    }

    /// Why it is refused, by all hosts that refuse; what they say alike is said once.
    pub(crate) fn refusal(&self) -> Option<ErrorBody> {
        let refusing: Vec<(&str, &ErrorBody)> = self
            .asked
            .iter()
            .filter_map(|a| Some((a.host.name.as_str(), a.answer.refused.as_ref()?)))
            .collect();
        let (_, first) = refusing.first()?;
        if self.asked.len() == 1 {
            return Some((*first).clone());
        }
        let app = &self.document.spec.app;
        let names: Vec<&str> = refusing.iter().map(|(host, _)| *host).collect();
        let count = format!("{} of {} hosts", names.len(), self.asked.len());
        let what = format!("{app} is refused by {count}; nothing was touched");
        let mut body = ErrorBody::new(first.code, what, &first.hint);
        let mut hints: Vec<&str> = Vec::new();
        for (text, hosts, refused) in refusals(&self.asked) {
            body = body.cause("refused", format!("{}: {text}", listed(&hosts)));
            body.causes.extend(refused.causes.iter().cloned());
            if !hints.contains(&refused.hint.as_str()) {
                hints.push(&refused.hint);
            }
        }
        body.hint = hints.join("\n");
        Some(body)
    }

    /// Hosts that lack the newest version of a secret, as one that joined later does.
    fn secrets_differ(&self) -> Option<ErrorBody> {
        let mut newest: BTreeMap<&SecretName, u32> = BTreeMap::new();
        for (name, version) in self.asked.iter().flat_map(|a| &a.answer.secrets) {
            let known = newest.entry(name).or_default();
            *known = (*known).max(*version);
        }
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let mut behind = Vec::new();
        for one in &self.asked {
            let has = |name: &SecretName| one.answer.secrets.get(name);
            let lacks: Vec<&str> = newest
                .iter()
                .filter(|(name, v)| has(name) != Some(v))
                .map(|(name, _)| name.as_str())
                .collect();
            if !lacks.is_empty() {
                names.extend(&lacks);
                behind.push(format!("{} has not the newest of {}", one.host.name, lacks.join(" ")));
            }
        }
        let app = &self.asked.first()?.answer.app;
        if behind.is_empty() {
            return None;
        }
        let names = names.into_iter().collect::<Vec<_>>().join(" ");
        let what = format!("the secrets of {app} are not the same on all hosts; nothing was touched");
        let hint = format!(
            "set them again, which is on all hosts: deployd-ctl secrets set {names} -a {app}; or from a file of \
             NAME=VALUE: deployd-ctl secrets import FILE -a {app}"
        );
        let body = ErrorBody::new(ErrorCode::SecretMissing, what, hint);
        Some(behind.into_iter().fold(body, |body, line| body.cause("where", line)))
    }
}

/// Refusals with the hosts that make them.
pub(crate) fn refusals(asked: &[Asked]) -> Vec<(String, Vec<&str>, &ErrorBody)> {
    let mut groups: Vec<(String, Vec<&str>, &ErrorBody)> = Vec::new();
    for one in asked {
        let Some(refused) = &one.answer.refused else { continue };
        let host = one.host.name.as_str();
        match groups.iter_mut().find(|(_, _, known)| *known == refused) {
            Some((_, hosts, _)) => hosts.push(host),
            None => groups.push((refused.message.clone(), vec![host], refused)),
        }
    }
    groups
}

/// Reads the spec and finds its hosts.
pub(crate) fn target(context: &Context<'_>) -> Result<Target, CtlError> {
    let project = project::read_project(context.global)?;
    if !context.is_fleet() {
        let place = |host: Host| (host.clone(), Placed { host: host.name, processes: None });
        let placed = context.hosts()?.into_iter().map(place).collect();
        return Ok(Target { placed, others: Vec::new(), project });
    }
    // Where a process runs is a question of the whole app, whatever is pushed to now.
    let hosts = context.reached.all_of(&project.hosts)?;
    let mut chosen: BTreeMap<ProcessName, Vec<String>> = BTreeMap::new();
    for (name, process) in project.spec.processes.iter().filter(|(_, p)| !p.hosts.is_empty()) {
        let own = context.reached.all_of(&process.hosts)?;
        chosen.insert(name.clone(), own.into_iter().map(|host| host.name).collect());
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let placed = plan::place(&project.spec, &names, &chosen).map_err(|e| CtlError::Usage {
        message: e.to_string(),
        hint: "compare hosts of the spec and of [processes.*] with fleet.toml".to_owned(),
    })?;
    let now = context.hosts_of(&project.hosts)?;
    let (placed, others) = hosts
        .into_iter()
        .zip(placed)
        .partition(|(host, _): &(Host, Placed)| now.iter().any(|other| other.name == host.name));
    Ok(Target { project, placed, others })
}

/// Which hosts are there. Hosts that are not stop it, unless they may be left out.
pub(crate) async fn meet(
    context: &Context<'_>,
    target: &mut Target,
    skip_offline: bool,
) -> Result<Crew, CtlError> {
    let hosts: Vec<Host> = target.placed.iter().map(|(host, _)| host.clone()).collect();
    let crew = crew::meet(context, &hosts, &target.project.spec.app).await?;
    if !crew.absent.is_empty() && (!skip_offline || crew.met.is_empty()) {
        return Err(CtlError::Answer(Box::new(all_absent(&target.project.spec.app, &crew))));
    }
    target.placed.retain(|(host, _)| crew.met.iter().any(|met| met.host.name == host.name));
    Ok(crew)
}

fn all_absent(app: &AppName, crew: &Crew) -> ErrorBody {
    let names: Vec<&str> = crew.absent.iter().map(|(host, _)| host.as_str()).collect();
    let verb = if names.len() == 1 { "does" } else { "do" };
    let what = format!("{} {verb} not answer; nothing was touched", listed(&names));
    let hint = if crew.met.is_empty() {
        format!("see: deployd-ctl hosts check {}", names.first().unwrap_or(&""))
    } else {
        format!(
            "deployd-ctl hosts check {}, or leave them out: deployd-ctl push --skip-offline (exit 6; they catch \
             up when {app} is pushed again)",
            names.first().unwrap_or(&"")
        )
    };
    let mut body = ErrorBody::new(ErrorCode::AgentUnreachable, what, hint);
    for (host, why) in &crew.absent {
        let why: Vec<&str> = why.causes.iter().map(|(_, text)| text.as_str()).collect();
        body = body.cause("where", format!("{host}: {}", why.join(": ")));
    }
    body
}

/// Builds, and reads what there is to send; the reading runs beside, so that Ctrl-C works.
pub(crate) async fn goods(context: &Context<'_>, project: &Project, args: &Plan) -> Result<Goods, CtlError> {
    let building = if args.no_build { Building::Skip } else { Building::Run };
    let path = context.global.spec();
    let artifact = build::make(context.printer, project, &path, args.dir.as_deref(), building).await?;
    let (root, spec) = (artifact.root.clone(), project.spec.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<_, CtlError> {
        let manifest = artifact::scan(&root)?;
        let needs = needs::read(&root, &manifest, &spec);
        needs::refuse_foreign(&spec.app, &needs)?;
        Ok((manifest, needs))
    });
    let (manifest, needs) = read.await.map_err(|e| CtlError::Runtime(e.into()))??;
    Ok(Goods { artifact, manifest, needs })
}

/// Asks every host what a push would do there.
pub(crate) async fn ask(
    target: &Target,
    goods: &Goods,
    strategy: Option<Strategy>,
    client_of: impl Fn(&Host) -> Client,
) -> Result<Answers, CtlError> {
    let spec = &target.project.spec;
    let path = format!("/apps/{}/plan", spec.app);
    let places: Vec<Placed> = target.placed.iter().map(|(_, placed)| placed.clone()).collect();
    let migrates = plan::migrates(spec, &places);
    let call = |client: Client, placed: &Placed, migrate: Migrate| {
        let request = PlanRequest {
            manifest: goods.manifest.clone(),
            spec: spec.clone(),
            strategy,
            processes: placed.processes.clone(),
            migrate,
            needs: goods.needs.clone(),
        };
        let path = &path;
        async move { client.call::<PlanAnswer>(Method::POST, path, &request).await }
    };
    let own = target.placed.iter().enumerate();
    let calls = own
        .map(|(index, (host, placed))| call(client_of(host), placed, plan::migrate(spec, migrates, index)));
    // The label is nobody else's on them either, as far as they answer.
    let others =
        target.others.iter().map(|(host, placed)| call(host.client.clone(), placed, Migrate::Elsewhere));
    let mut asked = Vec::new();
    for ((host, placed), answer) in target.placed.iter().zip(crew::all(calls).await) {
        let answer = answer.map_err(|error| match error {
            error if error.is_absence() && target.placed.len() > 1 => {
                CtlError::Answer(Box::new(crew::absent(&host.name, &error)))
            }
            error => error,
        })?;
        asked.push(Asked { host: host.clone(), placed: placed.clone(), answer });
    }
    let others: Vec<PlanAnswer> = crew::all(others).await.into_iter().flatten().collect();
    let label = plan::label(&asked.iter().map(|a| &a.answer).chain(&others).collect::<Vec<_>>());
    let mut document = ReleaseDocument::new(goods.manifest.digest(), spec.clone());
    if let Some(first) = asked.first() {
        document.secrets = first.answer.secrets.clone();
    }
    let terms =
        Terms { max_unavailable: target.project.max_unavailable, on_failure: target.project.on_failure };
    let answers = Answers { asked, migrates, document, terms, label };
    match answers.secrets_differ() {
        Some(body) => Err(CtlError::Answer(Box::new(body))),
        None => Ok(answers),
    }
}
