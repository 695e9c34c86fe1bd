//! `push [DIR]`: ask what it would do, send what is missing, begin, follow.

use std::path::Path;
use std::time::Instant;

use deployd_api::deployment::{
    Deployment, Kind, Migrate, PlanAnswer, PlanRequest, PushRequest, UploadAnswer, UploadRequest, Verdict,
};
use deployd_api::error::ErrorCode;
use deployd_api::exit::ExitCode;
use deployd_api::ids::{AppName, Digest};
use deployd_api::manifest::Manifest;
use deployd_api::release::Origin;
use deployd_api::spec::Strategy;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::deploy::{self, begin};
use super::{Context, plan};
use crate::artifact::{self, ArtifactError, Part};
use crate::build::{Building, Built};
use crate::cli::{Progress, Push};
use crate::client::{BackOff, Client};
use crate::error::CtlError;
use crate::human;
use crate::progress::{Subject, View};
use crate::project;
use crate::table::wrap;

/// Chunks read ahead of the socket: enough to keep it busy, 2 MB of memory.
const READ_AHEAD: usize = 8;
/// How often what went missing meanwhile is sent again.
const UPLOADS: u32 = 3;

pub(crate) async fn run(context: &Context<'_>, args: &Push) -> Result<ExitCode, CtlError> {
    context.on_interrupt("stopped; nothing was touched, and push again resumes the upload".to_owned());
    let building = if args.no_build { Building::Skip } else { Building::Run };
    let plan::Read { spec, artifact: files, manifest, needs } =
        plan::read_project(context, &args.what, building).await?;
    let app = spec.app.clone();
    let origin = project::origin();
    let request = PlanRequest {
        manifest: manifest.clone(),
        spec: spec.clone(),
        strategy: args.what.strategy,
        processes: None,
        migrate: Migrate::Here,
        needs,
    };
    let answer: PlanAnswer =
        context.client.call(Method::POST, &format!("/apps/{app}/plan"), &request).await?;
    if let Some(refused) = answer.refused {
        return Err(CtlError::Answer(Box::new(refused)));
    }
    if answer.to.is_none() {
        return say_nothing(context, &nothing(&answer, origin)?);
    }
    say_header(context, &answer, &origin, files.built.as_ref());
    let subject = Subject { host: context.host.clone(), label: answer.to, replaces: answer.from };
    let mut view = View::new(context.printer, subject);
    let artifact = upload(context, &app, manifest.clone(), &files.root, &mut view).await?;
    let push = PushRequest {
        id: project::new_id()?,
        artifact,
        spec,
        secrets: answer.secrets,
        strategy: args.what.strategy,
        label: None,
        processes: None,
        migrate: Migrate::Here,
        expect: None,
        origin,
    };
    let path = format!("/apps/{app}/deployments");
    let call = || context.client.call::<Deployment>(Method::POST, &path, &push);
    context.on_interrupt(format!("detached while push of {app} began; see: {} status -a {app}", super::CTL));
    let mut again = 0..UPLOADS;
    let deployment = loop {
        match begin(context, Some(&args.wait), call).await {
            // Another deployment of this app used up, or removed, what was there when we asked what is missing.
            Err(CtlError::Answer(body))
                if body.code == ErrorCode::UploadIncomplete && again.next().is_some() =>
            {
                upload(context, &app, manifest.clone(), &files.root, &mut view).await?;
            }
            outcome => break outcome?,
        }
    };
    if deploy::is_nothing(&deployment) {
        return say_nothing(context, &deployment);
    }
    deploy::conclude(context, &deployment, &args.wait, view).await
}

/// What the agent would answer if it were asked to push what is live.
fn nothing(answer: &PlanAnswer, origin: Origin) -> Result<Deployment, CtlError> {
    Ok(Deployment {
        id: project::new_id()?,
        app: answer.app.clone(),
        kind: Kind::Push,
        label: answer.from,
        replaces: answer.from,
        origin,
        started: human::now(),
        step: None,
        live: true,
        watched_until: None,
        verdict: Some(Verdict::Committed),
        failure: None,
    })
}

fn say_nothing(context: &Context<'_>, deployment: &Deployment) -> Result<ExitCode, CtlError> {
    if context.printer.is_json() {
        context.printer.json(deployment)?;
    }
    let label = deployment.label.map(|l| l.to_string()).unwrap_or_default();
    let line = format!("{} {label} is already on {}, nothing to change.", deployment.app, context.host);
    context.printer.last(&line)?;
    Ok(ExitCode::Ok)
}

/// Who moves where, what changed, and that it fits.
fn say_header(context: &Context<'_>, answer: &PlanAnswer, origin: &Origin, built: Option<&Built>) {
    let printer = context.printer;
    let git = origin.git.as_ref().map(|git| format!(" (git {git})")).unwrap_or_default();
    let label = answer.to.map(|l| l.to_string()).unwrap_or_default();
    let replaces = answer.from.map_or("first release".to_owned(), |old| format!("replaces {old}"));
    let strategy = match answer.strategy {
        Strategy::Rolling => "rolling",
        Strategy::Immediate => "immediate",
    };
    if printer.progress != Progress::Live {
        // In a log a line, of stable words; what changed may be nobody's who reads it, and is in `plan`.
        let git = origin.git.as_ref().map(|git| format!(" {git}")).unwrap_or_default();
        printer.talk(&format!("{} {label}{git} -> {} {strategy}, {replaces}", answer.app, context.host));
        return;
    }
    printer.talk(&format!("{} {label}{git} → {}     {strategy}     {replaces}", answer.app, context.host));
    let changed = answer.changed_files.len() as u64;
    let files = if answer.from.is_none() {
        human::plural(answer.files, "file")
    } else {
        format!("{} of {}", human::count(changed), human::plural(answer.files, "file"))
    };
    let config = answer.config.iter().map(plan::change_in_words);
    section(printer, "changed", &std::iter::once(files).chain(config).collect::<Vec<_>>().join(", "));
    if let Some(built) = built {
        section(printer, "build", &format!("{}, {}", built.command, human::took(built.took_ms)));
    }
    section(printer, "fits", &answer.fits.join(", "));
    printer.talk("");
}

fn section(printer: &crate::printer::Printer, heading: &str, text: &str) {
    let mut heading = heading;
    for line in wrap(text, 90) {
        printer.talk(&format!("{heading:<10}{line}"));
        heading = "";
    }
}

/// Sends what the host lacks; an interrupted upload goes on where it was.
async fn upload(
    context: &Context<'_>,
    app: &AppName,
    manifest: Manifest,
    dir: &Path,
    view: &mut View<'_>,
) -> Result<Digest, CtlError> {
    let began = Instant::now();
    let request = UploadRequest { app: app.clone(), manifest };
    let sizes = |missing: &[Digest]| -> u64 {
        let mut seen: std::collections::HashSet<Digest> = missing.iter().copied().collect();
        request.manifest.files().filter(|(_, _, d)| seen.remove(d)).map(|(_, size, _)| size).sum()
    };
    let mut back_off = BackOff::new();
    let mut wire = 0;
    loop {
        let uploads = format!("/apps/{app}/uploads");
        let ask = || context.client.call::<UploadAnswer>(Method::POST, &uploads, &request);
        let answer = Client::patiently(ask).await?;
        let total = sizes(&answer.missing);
        if answer.missing.is_empty() {
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            view.sent(wire, took);
            return Ok(answer.artifact);
        }
        let path = format!("/apps/{app}/uploads/{}", answer.artifact);
        match send(context, &path, &request.manifest, answer.missing, dir, (total, &mut wire), view).await {
            // The push itself is refused (`upload_incomplete`) if anything is missing all the same.
            Ok(()) => {
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                view.sent(wire, took);
                return Ok(answer.artifact);
            }
            Err(error) if error.is_absence() && back_off.wait().await => {}
            Err(error) => return Err(error),
        }
    }
}

/// One `PUT` of all missing contents, compressed; files are read on another thread. `wire` counts what went out.
async fn send(
    context: &Context<'_>,
    path: &str,
    manifest: &Manifest,
    missing: Vec<Digest>,
    dir: &Path,
    (total, wire): (u64, &mut u64),
    view: &mut View<'_>,
) -> Result<(), CtlError> {
    let (sender, receiver) = mpsc::channel::<Result<Part, std::io::Error>>(READ_AHEAD);
    let (manifest, dir) = (manifest.clone(), dir.to_owned());
    let reader = tokio::task::spawn_blocking(move || -> Result<(), ArtifactError> {
        let outcome =
            artifact::send_contents(&dir, &manifest, &missing, |part| sender.blocking_send(Ok(part)).is_ok());
        if outcome.is_err() {
            // An error in the body cuts the request short, so that nothing wrong is taken for whole.
            let _ = sender.blocking_send(Err(std::io::Error::other("the artifact changed")));
        }
        outcome
    });
    let (counter, mut counted) = mpsc::unbounded_channel::<(usize, u64)>();
    let frames = ReceiverStream::new(receiver).map(move |chunk| {
        chunk.map(|part| {
            // Nobody counts any more when the view is gone.
            let _ = counter.send((part.wire.len(), part.read));
            Frame::data(part.wire)
        })
    });
    let body = BodyExt::boxed(StreamBody::new(frames));
    let client = context.client.with_header("content-encoding", artifact::ENCODING.to_owned());
    let request = client.send(Method::PUT, path, body);
    tokio::pin!(request);
    let outcome = loop {
        tokio::select! {
            outcome = &mut request => break outcome,
            Some((bytes, read)) = counted.recv() => {
                *wire += bytes as u64;
                view.sending(read, total);
            }
        }
    };
    // The last parts may have been taken together with the answer.
    while let Ok((bytes, _)) = counted.try_recv() {
        *wire += bytes as u64;
    }
    // The reader knows best why the request broke.
    match reader.await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => outcome.map(drop),
    }
}
