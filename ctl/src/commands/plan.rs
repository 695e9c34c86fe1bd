//! `plan [DIR]`: what a push would do on each host; nothing is changed.

use deployd_api::deployment::{ConfigChange, PlanAnswer};
use deployd_api::error::ErrorBody;
use deployd_api::exit::ExitCode;
use deployd_api::ids::{AppName, Label};
use deployd_api::spec::Project;
use serde::Serialize;

use super::push::word;
use super::{CTL, Context, header};
use crate::cli::Plan;
use crate::error::CtlError;
use crate::hint::runnable;
use crate::human;
use crate::rollout::outcome::listed;
use crate::rollout::plan::{at_once, is_live};
use crate::rollout::prepare::{self, Answers, Asked};
use crate::table::{cut, wrap};

/// Most changed paths that are listed without `-v`.
const PATHS_SHOWN: usize = 20;

/// What `-o json` gives for the hosts of a fleet.
#[derive(Debug, Serialize)]
struct FleetPlan<'p> {
    app: &'p AppName,
    label: Label,
    /// None while a host refuses.
    token: Option<String>,
    hosts: Vec<HostPlan<'p>>,
    absent: Vec<&'p ErrorBody>,
}

#[derive(Debug, Serialize)]
struct HostPlan<'p> {
    host: &'p str,
    plan: &'p PlanAnswer,
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

pub(crate) async fn run(context: &Context<'_>, args: &Plan) -> Result<ExitCode, CtlError> {
    let mut target = prepare::target(context)?;
    let mut absent: Vec<(String, ErrorBody)> = Vec::new();
    if context.is_fleet() {
        // A host that is away is told; a push would stop there.
        absent = prepare::meet(context, &mut target, true).await?.absent;
    }
    let goods = prepare::goods(context, &target.project, args).await?;
    let answers = prepare::ask(&target, &goods, args.strategy, |host| host.client.clone()).await?;
    let refused = answers.asked.iter().find_map(|a| a.answer.refused.as_ref());
    let code = match refused {
        Some(refused) => refused.code.exit(),
        None if absent.is_empty() => ExitCode::Ok,
        None => ExitCode::Partial,
    };
    if context.printer.is_json() {
        say_json(context, &answers, &absent)?;
        return Ok(code);
    }
    for line in render(context, &target.project, &answers, &absent) {
        context.printer.data(&line)?;
    }
    if code != ExitCode::Ok {
        context.printer.talk(&format!("exit {}", code as u8));
    }
    Ok(code)
}

fn say_json(
    context: &Context<'_>,
    answers: &Answers,
    absent: &[(String, ErrorBody)],
) -> Result<(), CtlError> {
    if let (false, [only]) = (context.is_fleet(), answers.asked.as_slice()) {
        return context.printer.json(&only.answer);
    }
    let hosts = answers.asked.iter().map(|a| HostPlan { host: &a.host.name, plan: &a.answer }).collect();
    context.printer.json(&FleetPlan {
        app: &answers.document.spec.app,
        label: answers.label,
        token: answers.refusal().is_none().then(|| answers.token()),
        hosts,
        absent: absent.iter().map(|(_, why)| why).collect(),
    })
}

/// `web1`, or `web1 web2 web3`; counted when there is nothing to do.
fn places(answers: &Answers) -> String {
    listed(&answers.asked.iter().map(|a| a.host.name.as_str()).collect::<Vec<_>>())
}

fn render(
    context: &Context<'_>,
    project: &Project,
    answers: &Answers,
    absent: &[(String, ErrorBody)],
) -> Vec<String> {
    let app = &answers.document.spec.app;
    let moving: Vec<&Asked> = answers.asked.iter().filter(|a| !is_live(&a.answer)).collect();
    let Some(first) = moving.first() else {
        return nothing(app, answers, absent);
    };
    let from = first.answer.from.map(|l| l.to_string());
    let to = answers.label;
    let moves = from.map_or(to.to_string(), |from| format!("{from} → {to}"));
    let strategy = word(first.answer.strategy);
    let head = format!("{app} {moves} on {}, {strategy}. Nothing has been changed.", places(answers));
    let mut lines = wrap(&head, 100);
    lines.push(String::new());
    lines.extend(code_lines(context, &moving));
    let answer = &first.answer;
    let width = answer.config.iter().map(|c| c.key.chars().count()).max().unwrap_or(0);
    let config: Vec<String> =
        answer.config.iter().map(|c| format!("{:<width$}  {}", c.key, value_in_words(c))).collect();
    lines.extend(section("config", &config));
    lines.extend(section("steps", &steps(context, project, answers, &moving)));
    let fits: Vec<String> = header::fits(&moving).into_iter().flat_map(|(_, line)| wrap(&line, 90)).collect();
    lines.extend(section("fits", &fits));
    lines.extend(refusals(answers));
    let away: Vec<String> = absent.iter().map(|(_, why)| why.message.clone()).collect();
    lines.extend(section("offline", &away));
    lines.extend(section("token", &token(answers, absent)));
    lines
}

fn nothing(app: &AppName, answers: &Answers, absent: &[(String, ErrorBody)]) -> Vec<String> {
    let label = answers.asked.first().and_then(|a| a.answer.from).map(|l| l.to_string()).unwrap_or_default();
    let place = match (answers.asked.as_slice(), absent) {
        ([only], []) => only.host.name.clone(),
        (asked, absent) => format!("{} of {} hosts", asked.len(), asked.len() + absent.len()),
    };
    let mut lines = vec![format!("{app} {label} is already on {place}, nothing to change.")];
    lines.extend(absent.iter().map(|(_, why)| why.message.clone()));
    lines
}

fn code_lines(context: &Context<'_>, moving: &[&Asked]) -> Vec<String> {
    let Some(first) = moving.first() else { return Vec::new() };
    let answer = &first.answer;
    let changed = answer.changed_files.len();
    let of =
        if answer.from.is_none() { String::new() } else { format!("{} of ", human::count(changed as u64)) };
    let files = human::plural(answer.files, "file");
    let bytes = |a: &&Asked| a.answer.bytes_to_send;
    let (least, most) =
        (moving.iter().map(bytes).min().unwrap_or(0), moving.iter().map(bytes).max().unwrap_or(0));
    let send = match (moving.len(), least == most) {
        (1, _) => format!("{} to send", human::size(most)),
        (_, true) => format!("{} to send to each host", human::size(most)),
        _ => format!("{} to {} to send to each host", human::size(least), human::size(most)),
    };
    let mut lines = vec![format!("code      {of}{files}, {send}")];
    let all = context.printer.is_verbose() || changed <= PATHS_SHOWN;
    let shown = if all { changed } else { PATHS_SHOWN };
    lines.extend(answer.changed_files[..shown].iter().map(|path| cut(&format!("  {path}"), 100)));
    if !all {
        lines.push(format!("  … and {} more (-v)", human::count((changed - shown) as u64)));
    }
    lines
}

/// What happens on each host; hosts that do the same are named together.
fn steps(context: &Context<'_>, project: &Project, answers: &Answers, moving: &[&Asked]) -> Vec<String> {
    let of = |a: &Asked| {
        if context.printer.is_verbose() { a.answer.steps.clone() } else { a.answer.outline.clone() }
    };
    let shown = |steps: &[String], before: &str| {
        if context.printer.is_verbose() && before.is_empty() {
            steps.to_vec()
        } else {
            wrap(&format!("{before}{}", steps.join(", ")), 90)
        }
    };
    if let [only] = moving {
        return shown(&of(only), "");
    }
    let mut groups: Vec<(Vec<String>, Vec<&str>)> = Vec::new();
    for asked in moving {
        let own = of(asked);
        match groups.iter_mut().find(|(steps, _)| *steps == own) {
            Some((_, hosts)) => hosts.push(&asked.host.name),
            None => groups.push((own, vec![&asked.host.name])),
        }
    }
    let mut lines: Vec<String> =
        groups.iter().flat_map(|(steps, hosts)| shown(steps, &format!("{}: ", listed(hosts)))).collect();
    let first = answers.migrates.and_then(|i| answers.asked.get(i)).or(moving.first().copied());
    let pace = at_once(project.max_unavailable, answers.asked.len());
    if let Some(first) = first {
        let pace = human::plural(pace as u64, "host");
        lines.push(format!("{} first; then {pace} at a time, when those before are live", first.host.name));
    }
    lines
}

fn refusals(answers: &Answers) -> Vec<String> {
    let many = answers.asked.len() > 1;
    let mut lines = Vec::new();
    for (message, hosts, refused) in prepare::refusals(&answers.asked) {
        let head = if many { format!("{}: {message}", listed(&hosts)) } else { message };
        let mut text = vec![head];
        text.extend(refused.causes.iter().map(|(_, text)| text.clone()));
        text.push(refused.hint.clone());
        lines.extend(text.iter().flat_map(|t| wrap(&runnable(t), 90)));
    }
    section("refused", &lines)
}

fn token(answers: &Answers, absent: &[(String, ErrorBody)]) -> Vec<String> {
    let refusing: Vec<&str> =
        answers.asked.iter().filter(|a| a.answer.refused.is_some()).map(|a| a.host.name.as_str()).collect();
    let text = match refusing.as_slice() {
        [] => {
            let token = answers.token();
            let without = if absent.is_empty() { "" } else { " --skip-offline" };
            // The command stays on one line, to be copied.
            return vec![
                format!("{token}, valid while the hosts stay as they are:"),
                format!("{CTL} push --plan {token}{without}"),
            ];
        }
        [one] => format!("none, since {one} refuses"),
        many => format!("none, since {} refuse", listed(many)),
    };
    wrap(&text, 90)
}

/// Lines under a heading in the first column.
fn section(heading: &str, lines: &[String]) -> Vec<String> {
    let head = |i: usize| if i == 0 { heading } else { "" };
    lines.iter().enumerate().map(|(i, line)| cut(&format!("{:<10}{line}", head(i)), 100)).collect()
}
