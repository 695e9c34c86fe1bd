//! `plan [DIR]`: what a push would do; nothing is changed.

use deployd_api::deployment::{ConfigChange, Migrate, PlanAnswer, PlanRequest};
use deployd_api::exit::ExitCode;
use deployd_api::manifest::Manifest;
use deployd_api::needs::Needs;
use deployd_api::spec::{Spec, Strategy};
use hyper::Method;

use super::Context;
use crate::artifact;
use crate::build::{self, Artifact, Building};
use crate::cli::{Plan, PlanOnly};
use crate::error::CtlError;
use crate::hint::runnable;
use crate::human;
use crate::needs;
use crate::project;
use crate::table::{cut, wrap};

/// Most changed paths that are listed without `-v`.
const PATHS_SHOWN: usize = 20;

/// What a push needs to know of the folder.
pub(crate) struct Read {
    pub(crate) spec: Spec,
    pub(crate) artifact: Artifact,
    pub(crate) manifest: Manifest,
    pub(crate) needs: Needs,
}

/// Builds, and reads what there is to send; the reading runs beside, so that Ctrl-C works.
pub(crate) async fn read_project(
    context: &Context<'_>,
    args: &Plan,
    building: Building,
) -> Result<Read, CtlError> {
    let project = project::read_project(context.global)?;
    let path = context.global.spec();
    let artifact = build::make(context.printer, &project, &path, args.dir.as_deref(), building).await?;
    let (root, spec) = (artifact.root.clone(), project.spec);
    let read = tokio::task::spawn_blocking(move || -> Result<_, CtlError> {
        let manifest = artifact::scan(&root)?;
        let needs = needs::read(&root, &manifest, &spec);
        needs::refuse_foreign(&spec.app, &needs)?;
        Ok((spec, manifest, needs))
    });
    let (spec, manifest, needs) = read.await.map_err(|e| CtlError::Runtime(e.into()))??;
    Ok(Read { spec, artifact, manifest, needs })
}

/// `POOL_SIZE 10 → 20`.
pub(crate) fn change_in_words(change: &ConfigChange) -> String {
    format!("{} {}", change.key, value_in_words(change))
}

fn value_in_words(change: &ConfigChange) -> String {
    match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        // A whole table has no value of its own.
        (None, Some(to)) => format!("(new) {to}").trim_end().to_owned(),
        (Some(from), None) => format!("(gone) {from}").trim_end().to_owned(),
        (None, None) => "(changed)".to_owned(),
    }
}

pub(crate) async fn run(context: &Context<'_>, args: &PlanOnly) -> Result<ExitCode, CtlError> {
    let building = if args.build { Building::Run } else { Building::Skip };
    // The files are only read: a temporary folder of theirs ends here.
    let Read { spec, manifest, needs, artifact: _ } = read_project(context, &args.what, building).await?;
    let path = format!("/apps/{}/plan", spec.app);
    let request = PlanRequest {
        manifest,
        spec,
        strategy: args.what.strategy,
        processes: None,
        migrate: Migrate::Here,
        needs,
    };
    let answer: PlanAnswer = context.client.call(Method::POST, &path, &request).await?;
    let code = answer.refused.as_ref().map_or(ExitCode::Ok, |refused| refused.code.exit());
    if context.printer.is_json() {
        context.printer.json(&answer)?;
        return Ok(code);
    }
    for line in render(context, &answer) {
        context.printer.data(&line)?;
    }
    if code != ExitCode::Ok {
        context.printer.talk(&format!("exit {}", code as u8));
    }
    Ok(code)
}

fn render(context: &Context<'_>, answer: &PlanAnswer) -> Vec<String> {
    let (app, host) = (&answer.app, &context.host);
    let from = answer.from.map(|l| l.to_string());
    let Some(to) = answer.to else {
        let label = from.unwrap_or_default();
        return vec![format!("{app} {label} is already on {host}, nothing to change.")];
    };
    let is_first = answer.from.is_none();
    let moves = from.map_or(to.to_string(), |from| format!("{from} → {to}"));
    let strategy = match answer.strategy {
        Strategy::Rolling => "rolling",
        Strategy::Immediate => "immediate",
    };
    let mut lines =
        vec![format!("{app} {moves} on {host}, {strategy}. Nothing has been changed."), String::new()];
    let changed = answer.changed_files.len();
    let verbose = context.printer.is_verbose();
    let of = if is_first { String::new() } else { format!("{} of ", human::count(changed as u64)) };
    let files = human::plural(answer.files, "file");
    lines.push(format!("code      {of}{files}, {} to send", human::size(answer.bytes_to_send)));
    let all = verbose || changed <= PATHS_SHOWN;
    let shown = if all { changed } else { PATHS_SHOWN };
    lines.extend(answer.changed_files[..shown].iter().map(|path| cut(&format!("  {path}"), 100)));
    if !all {
        lines.push(format!("  … and {} more (-v)", human::count((changed - shown) as u64)));
    }
    let width = answer.config.iter().map(|c| c.key.chars().count()).max().unwrap_or(0);
    let config: Vec<String> =
        answer.config.iter().map(|c| format!("{:<width$}  {}", c.key, value_in_words(c))).collect();
    lines.extend(section("config", &config));
    let steps = if verbose { answer.steps.clone() } else { wrap(&answer.outline.join(", "), 90) };
    lines.extend(section("steps", &steps));
    lines.extend(section("fits", &wrap(&answer.fits.join(", "), 90)));
    lines.extend(refusal(answer));
    lines
}

fn refusal(answer: &PlanAnswer) -> Vec<String> {
    let Some(refused) = &answer.refused else { return Vec::new() };
    let mut text = vec![refused.message.clone()];
    text.extend(refused.causes.iter().map(|(_, text)| text.clone()));
    text.push(refused.hint.clone());
    section("refused", &text.iter().flat_map(|t| wrap(&runnable(t), 90)).collect::<Vec<_>>())
}

/// Lines under a heading in the first column.
fn section(heading: &str, lines: &[String]) -> Vec<String> {
    let head = |i: usize| if i == 0 { heading } else { "" };
    lines.iter().enumerate().map(|(i, line)| cut(&format!("{:<10}{line}", head(i)), 100)).collect()
}
