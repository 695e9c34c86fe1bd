//! `status`: what runs, one row a host, release and process; without an app one row an app.

mod apps;
mod headline;
#[cfg(test)]
mod made_up;
mod rows;

use deployd_api::error::ErrorBody;
use deployd_api::exit::ExitCode;
use deployd_api::fleet::{CertificateInfo, HostInfo, Lease};
use deployd_api::ids::AppName;
use deployd_api::status::AppStatus;
use serde::Serialize;

use super::heard::{Heard, ask, if_known, settle};
use super::{CTL, Context};
use crate::cli::Status;
use crate::error::CtlError;
use crate::printer::Volume;
use crate::project;
use crate::table::{WIDTH, wrap};
use crate::{certificates, human};

/// What a host tells of an app.
#[derive(Debug)]
struct Seen {
    app: AppStatus,
    lease: Option<Lease>,
    certificate: Option<CertificateInfo>,
}

/// What a host tells of all its apps.
#[derive(Debug)]
struct All {
    apps: Vec<AppStatus>,
    certificate: Option<CertificateInfo>,
}

/// A host in JSON of a fleet.
#[derive(Debug, Serialize)]
struct HostJson<'a, T> {
    host: &'a str,
    #[serde(flatten)]
    what: T,
    certificate: Option<&'a CertificateInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorBody>,
}

pub(crate) async fn run(context: &Context<'_>, args: &Status) -> Result<ExitCode, CtlError> {
    let app = if args.all { None } else { project::find_app(context.global)? };
    match app {
        Some(app) => one(context, &app).await,
        None => every(context).await,
    }
}

async fn one(context: &Context<'_>, app: &AppName) -> Result<ExitCode, CtlError> {
    let printer = context.printer;
    let path = format!("/apps/{app}");
    let heard = ask(&context.hosts()?, |client| {
        let path = path.clone();
        async move {
            let lease = format!("{path}/lease");
            let (app, lease, info) = tokio::join!(
                client.get::<AppStatus>(&path),
                if_known::<Lease>(&client, &lease),
                if_known::<HostInfo>(&client, "/host"),
            );
            Ok(Seen { app: app?, lease, certificate: info.and_then(|i| i.certificate) })
        }
    })
    .await;
    let code = settle(&heard)?;
    if printer.is_json() {
        return print_json(context, &heard).map(|()| code);
    }
    for line in wrap(&headline::headline(app, &heard), WIDTH) {
        printer.data(&line)?;
    }
    if printer.volume != Volume::Quiet {
        printer.data("")?;
        for line in rows::lines(&heard, printer.colour_out(), rows::Which::of(printer.volume)) {
            printer.data(&line)?;
        }
    }
    print_certificates(context, &heard, |seen| seen.certificate.as_ref())?;
    Ok(code)
}

fn print_json(context: &Context<'_>, heard: &[Heard<Seen>]) -> Result<(), CtlError> {
    #[derive(Serialize)]
    struct What<'a> {
        app: Option<&'a AppStatus>,
        lease: Option<&'a Lease>,
    }
    if let ([Heard { answer: Ok(seen), .. }], true) = (heard, context.global.local) {
        return context.printer.json(&seen.app);
    }
    let hosts: Vec<_> = heard
        .iter()
        .map(|h| {
            let seen = h.answer.as_ref().ok();
            HostJson {
                host: &h.host,
                what: What { app: seen.map(|s| &s.app), lease: seen.and_then(|s| s.lease.as_ref()) },
                certificate: seen.and_then(|s| s.certificate.as_ref()),
                error: h.answer.as_ref().err(),
            }
        })
        .collect();
    context.printer.json(&hosts)
}

async fn every(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let printer = context.printer;
    let heard = ask(&context.hosts()?, |client| async move {
        let (apps, info) =
            tokio::join!(client.get::<Vec<AppStatus>>("/apps"), if_known::<HostInfo>(&client, "/host"));
        Ok(All { apps: apps?, certificate: info.and_then(|i| i.certificate) })
    })
    .await;
    let code = settle(&heard)?;
    if printer.is_json() {
        return print_all_json(context, &heard).map(|()| code);
    }
    for line in apps::lines(&heard, printer.colour_out()) {
        printer.data(&line)?;
    }
    print_certificates(context, &heard, |all| all.certificate.as_ref())?;
    Ok(code)
}

fn print_all_json(context: &Context<'_>, heard: &[Heard<All>]) -> Result<(), CtlError> {
    #[derive(Serialize)]
    struct What<'a> {
        apps: Option<&'a [AppStatus]>,
    }
    if let ([Heard { answer: Ok(all), .. }], true) = (heard, context.global.local) {
        return context.printer.json(&all.apps);
    }
    let hosts: Vec<_> = heard
        .iter()
        .map(|h| {
            let all = h.answer.as_ref().ok();
            HostJson {
                host: &h.host,
                what: What { apps: all.map(|a| a.apps.as_slice()) },
                certificate: all.and_then(|a| a.certificate.as_ref()),
                error: h.answer.as_ref().err(),
            }
        })
        .collect();
    context.printer.json(&hosts)
}

/// Certificates that end soon: nothing else on the screen would tell it in time.
fn print_certificates<T>(
    context: &Context<'_>,
    heard: &[Heard<T>],
    of: impl Fn(&T) -> Option<&CertificateInfo>,
) -> Result<(), CtlError> {
    if context.printer.volume == Volume::Quiet {
        return Ok(());
    }
    let found = heard.iter().filter_map(|h| Some((h.host.as_str(), of(h.answer.as_ref().ok()?)?)));
    let ends = certificates::ending(found, human::now());
    if !ends.is_empty() {
        context.printer.data("")?;
    }
    for line in ends.iter().flat_map(|text| wrap(&format!("certificates: {text}: {CTL} doctor"), WIDTH)) {
        context.printer.data(&line)?;
    }
    Ok(())
}
