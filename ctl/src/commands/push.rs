//! `push [DIR]`: ask what it would do on every host, send what is missing, switch wave by wave.

use std::rc::Rc;

use deployd_api::deployment::{Deployment, Kind, PushRequest, UploadRequest, Verdict};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::fleet::{Rollout, RolloutHost, RolloutState};
use deployd_api::ids::{AppName, Digest, Label};
use deployd_api::needs::Needs;
use deployd_api::spec::Strategy;
use futures_util::FutureExt;
use hyper::Method;

use super::{Context, Host, header};
use crate::build::Artifact;
use crate::cli::Push;
use crate::client::Client;
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::rollout::crew::{self, Crew};
use crate::rollout::drive::{Drive, Kept, Member, Topic, Verb};
use crate::rollout::lease::{self, Leases};
use crate::rollout::outcome::{self, Outcome, listed};
use crate::rollout::prepare::{self, Answers, Asked, Goods, Target};
use crate::rollout::report::{self, Ending};
use crate::rollout::{plan, record, send, undo};

/// How often what went missing meanwhile is sent again.
const UPLOADS: u32 = 3;

pub(crate) async fn run(context: &Context<'_>, args: &Push) -> Result<ExitCode, CtlError> {
    context.on_interrupt("stopped; nothing was touched, and push again resumes the upload".to_owned());
    let mut target = prepare::target(context)?;
    refuse_detached(args, target.placed.len())?;
    let mut crew = Crew::default();
    if context.is_fleet() {
        crew = prepare::meet(context, &mut target, args.skip_offline).await?;
        if !args.yes && is_new(&crew) {
            confirm(context, &target).await?;
        }
    }
    let goods = prepare::goods(context, &target.project, &args.what).await?;
    let app = target.project.spec.app.clone();
    let hosts: Vec<Host> = target.placed.iter().map(|(host, _)| host.clone()).collect();
    lease::take(context, &app, &hosts, "push", args.wait.lease_timeout).await?;
    context.on_interrupt("stopped; nothing was touched, and push again resumes the upload".to_owned());
    let leases = context.leases()?;
    let answers = prepare::ask(&target, &goods, args.what.strategy, |host| leases.client(host)).await?;
    let refused = answers.refusal().or_else(|| stale(args, &answers));
    if let Some(refused) = refused {
        return Err(CtlError::Answer(Box::new(refused)));
    }
    let ending = ending(&target, &answers, crew);
    if answers.is_nothing() {
        context.release().await;
        return say_nothing(context, &answers, &ending);
    }
    let mut pushing = Pushing::begin(context, args, &target, goods, answers, leases)?;
    pushing.run(ending).await
}

/// A rollout over many hosts is driven from here: nobody else begins the next host.
fn refuse_detached(args: &Push, hosts: usize) -> Result<(), CtlError> {
    if !args.wait.detach || hosts < 2 {
        return Ok(());
    }
    Err(CtlError::Usage {
        message: "--detach is for one host: this command begins one host after the other".to_owned(),
        hint: "leave it out; Ctrl-C stops it, and deployd-ctl rollout resume goes on".to_owned(),
    })
}

/// Whether no host has the app.
fn is_new(crew: &Crew) -> bool {
    crew.met.iter().all(|met| met.status.as_ref().is_none_or(|status| status.live.is_none()))
}

/// The first push of an app names its hosts and asks.
async fn confirm(context: &Context<'_>, target: &Target) -> Result<(), CtlError> {
    let app = &target.project.spec.app;
    let names: Vec<&str> = target.placed.iter().map(|(host, _)| host.name.as_str()).collect();
    let question = format!("{app} is new: it will run on {}.", listed(&names));
    if !context.printer.can_ask() {
        return Err(CtlError::Usage {
            message: format!("{question} There is no terminal to ask whether that is right"),
            hint: "deployd-ctl push --yes".to_owned(),
        });
    }
    let line = context.printer.ask(&format!("{question} Push? [y/N] ")).await?;
    if ["y", "yes"].contains(&line.to_ascii_lowercase().as_str()) {
        return Ok(());
    }
    Err(CtlError::Usage {
        message: "not pushed; nothing was touched".to_owned(),
        hint: "hosts = … in the spec says where it runs".to_owned(),
    })
}

/// Whether hosts changed since the plan that was named.
fn stale(args: &Push, answers: &Answers) -> Option<ErrorBody> {
    let named = args.plan.as_ref()?;
    let now = answers.token();
    (*named != now).then(|| {
        let app = &answers.document.spec.app;
        let what = format!("what a push of {app} would do is not what it was when {named} was made");
        ErrorBody::new(ErrorCode::PlanStale, what, "look at it again: deployd-ctl plan").cause(
            "what",
            format!("the hosts, their releases, the files or the spec changed: now it is {now}"),
        )
    })
}

fn ending(target: &Target, answers: &Answers, crew: Crew) -> Ending {
    let has_it = |a: &&Asked| plan::is_live(&a.answer);
    let has_old = answers.asked.iter().any(|a| a.answer.from.is_some());
    Ending {
        already: answers.asked.iter().filter(has_it).map(|a| a.host.name.clone()).collect(),
        absent: crew.absent,
        on_failure: target.project.on_failure,
        undo: Some(if has_old { "rollback" } else { "remove" }),
    }
}

/// Every host has it.
fn say_nothing(context: &Context<'_>, answers: &Answers, ending: &Ending) -> Result<ExitCode, CtlError> {
    let app = &answers.document.spec.app;
    let offline: Vec<Outcome> =
        ending.absent.iter().map(|(_, failure)| Outcome::Offline { failure: failure.clone() }).collect();
    let code = outcome::exit(&offline);
    let label = answers.asked.first().and_then(|a| a.answer.from);
    if context.printer.is_json() {
        if context.is_fleet() {
            context.printer.json(&report::nothing(app, Verb::Push, label, ending, code))?;
        } else {
            context.printer.json(&nothing(app, label)?)?;
        }
    }
    let place = match (answers.asked.as_slice(), ending.absent.len()) {
        ([only], 0) => only.host.name.clone(),
        (asked, absent) => format!("{} of {} hosts", asked.len(), asked.len() + absent),
    };
    let label = label.map(|l| l.to_string()).unwrap_or_default();
    context.printer.last(&format!("{app} {label} is already on {place}, nothing to change."))?;
    if code != ExitCode::Ok {
        let lines: Vec<String> = ending.absent.iter().map(|(_, why)| why.message.clone()).collect();
        context.printer.fail(&lines, code);
    }
    Ok(code)
}

/// What an agent would answer if it were asked to push what is live.
fn nothing(app: &AppName, label: Option<Label>) -> Result<Deployment, CtlError> {
    Ok(Deployment {
        id: project::new_id()?,
        app: app.clone(),
        kind: Kind::Push,
        label,
        replaces: label,
        origin: project::origin(),
        started: human::now(),
        step: None,
        live: true,
        watched_until: None,
        verdict: Some(Verdict::Committed),
        failure: None,
    })
}

/// A push that has something to do.
struct Pushing<'a> {
    drive: Drive<'a>,
    rollout: Rollout,
    args: &'a Push,
    needs: Needs,
    /// Kept until its files are sent: it may be a temporary folder.
    artifact: Artifact,
    upload: UploadRequest,
    /// Of each member.
    asked: Vec<Asked>,
    /// The place of the one that migrates.
    migrates: Option<usize>,
}

impl<'a> Pushing<'a> {
    fn begin(
        context: &'a Context<'a>,
        args: &'a Push,
        target: &Target,
        goods: Goods,
        answers: Answers,
        leases: Rc<Leases>,
    ) -> Result<Self, CtlError> {
        let origin = project::origin();
        header::push(context, &target.project, &answers, &origin, goods.artifact.built.as_ref());
        let Answers { asked, migrates, document, label, .. } = answers;
        let hosts = asked.len();
        // A host that has the release has been migrated for, too.
        let migrated = asked.iter().any(|a| plan::is_live(&a.answer));
        let migrates = migrates.filter(|_| !migrated);
        let order = plan::order(hosts, migrates);
        let asked: Vec<Asked> =
            order.into_iter().map(|i| asked[i].clone()).filter(|a| !plan::is_live(&a.answer)).collect();
        let migrates = migrates.map(|_| 0);
        let waves = plan::waves(asked.len(), plan::at_once(target.project.max_unavailable, hosts));
        let member = |(a, wave): (&Asked, u32)| -> Result<Member, CtlError> {
            let name = crew::name(&a.host.name)?;
            Ok(Member { host: a.host.clone(), name, wave, from: a.answer.from })
        };
        let members = asked.iter().zip(waves).map(member).collect::<Result<Vec<_>, _>>()?;
        let part = |(member, a): (&Member, &Asked)| RolloutHost {
            host: member.name.clone(),
            wave: member.wave,
            processes: a.placed.processes.clone(),
            from: member.from,
        };
        let rollout = Rollout {
            id: project::new_id()?,
            app: document.spec.app.clone(),
            label,
            document,
            strategy: args.what.strategy,
            origin,
            started: human::now(),
            on_failure: target.project.on_failure,
            hosts: members.iter().zip(&asked).map(part).collect(),
            migrate_on: migrates.and_then(|i| members.get(i)).map(|m| m.name.clone()),
            state: RolloutState::Sending,
        };
        let upload = UploadRequest { app: rollout.app.clone(), manifest: goods.manifest };
        let topic =
            Topic { app: rollout.app.clone(), verb: Verb::Push, label: Some(label), record: Kept::Recorded };
        let drive = Drive::new(context, topic, members, leases);
        Ok(Self {
            drive,
            rollout,
            args,
            needs: goods.needs,
            artifact: goods.artifact,
            upload,
            asked,
            migrates,
        })
    }

    async fn run(&mut self, ending: Ending) -> Result<ExitCode, CtlError> {
        self.send_to_all().await?;
        self.rollout.state = RolloutState::Running;
        self.drive.write_down(&self.rollout).await;
        let this = &*self;
        let call = |index: usize, client: Client| this.call(index, client).boxed_local();
        self.drive.run(&call, &self.args.wait).await?;
        if self.args.wait.detach && !self.drive.has_failed() {
            return self.detach().await;
        }
        let outcomes = self.drive.outcomes();
        if outcome::goes_back(self.rollout.on_failure, &outcomes.iter().collect::<Vec<_>>()) {
            undo::take_back(&self.drive, &self.rollout).await;
        }
        self.rollout.state = outcome::state(&self.drive.outcomes().iter().collect::<Vec<_>>());
        self.drive.write_down(&self.rollout).await;
        self.drive.context.release().await;
        report::end(&self.drive, &ending).await
    }

    /// The record and the files are on all hosts before the first one switches.
    async fn send_to_all(&self) -> Result<(), CtlError> {
        let drive = &self.drive;
        let hosts = drive.hosts();
        if let Some((host, error)) =
            record::put(&drive.leases, &hosts, &self.rollout).await.into_iter().next()
        {
            return Err(self.nothing_touched(&host, error));
        }
        let sent = (0..hosts.len()).map(|index| self.send(index, drive.client(index)));
        let work = crew::all(sent);
        let outcomes = tokio::select! {
            outcomes = work => outcomes,
            body = drive.leases.lost() => return Err(CtlError::Answer(Box::new(body))),
        };
        for (host, outcome) in hosts.iter().zip(outcomes) {
            if let Err(error) = outcome {
                drive.board.close();
                return Err(self.nothing_touched(&host.name, error));
            }
        }
        Ok(())
    }

    async fn send(&self, index: usize, client: Client) -> Result<Digest, CtlError> {
        send::send(&client, &self.upload, &self.artifact.root, self.drive.board.view(index)).await
    }

    /// A host that fails before any has switched.
    fn nothing_touched(&self, host: &str, error: CtlError) -> CtlError {
        if self.drive.members.len() == 1 {
            return error;
        }
        let mut body = if error.is_absence() { crew::absent(host, &error) } else { error.to_body() };
        body.message = format!("{host}: {}. No host has switched", body.message.trim_end_matches('.'));
        CtlError::Answer(Box::new(body))
    }

    /// Begins the deployment of a host. What another deployment used up meanwhile is sent again.
    async fn call(&self, index: usize, client: Client) -> Result<Deployment, CtlError> {
        let asked = &self.asked[index];
        let push = PushRequest {
            id: self.rollout.deployment(&self.drive.members[index].name),
            artifact: self.rollout.document.artifact,
            spec: self.rollout.document.spec.clone(),
            secrets: self.rollout.document.secrets.clone(),
            strategy: self.rollout.strategy,
            label: Some(self.rollout.label),
            processes: asked.placed.processes.clone(),
            migrate: plan::migrate(&self.rollout.document.spec, self.migrates, index),
            needs: self.needs.clone(),
            // Only who looked at a plan wants nothing to have changed.
            expect: asked.answer.state.filter(|_| self.args.plan.is_some()),
            origin: self.rollout.origin.clone(),
        };
        let path = format!("/apps/{}/deployments", self.rollout.app);
        let mut again = 0..UPLOADS;
        loop {
            match client.call::<Deployment>(Method::POST, &path, &push).await {
                Err(CtlError::Answer(body))
                    if body.code == ErrorCode::UploadIncomplete && again.next().is_some() =>
                {
                    self.send(index, client.clone()).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// One host goes on without us.
    async fn detach(&self) -> Result<ExitCode, CtlError> {
        let context = self.drive.context;
        context.release().await;
        let (Some(member), Some(deployment)) =
            (self.drive.members.first(), self.drive.states().first().and_then(|s| s.deployment.clone()))
        else {
            return Ok(ExitCode::Ok);
        };
        super::deploy::say_detached(context, &member.host, &deployment)?;
        Ok(ExitCode::Ok)
    }
}

/// `rolling`.
pub(crate) fn word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Rolling => "rolling",
        Strategy::Immediate => "immediate",
    }
}
