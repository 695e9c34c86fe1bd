//! The first lines of a push: who moves where, what changed, and that it fits.

use deployd_api::release::Origin;
use deployd_api::spec::Project;

use super::push::word;
use super::{Context, plan};
use crate::build::Built;
use crate::cli::Progress;
use crate::human;
use crate::printer::Printer;
use crate::rollout::outcome::listed;
use crate::rollout::plan::{at_once, is_live};
use crate::rollout::prepare::{Answers, Asked};
use crate::table::{WIDTH, length, wrap};

/// Most hosts whose own words about what fits are shown.
const HOSTS_SHOWN: usize = 4;

pub(crate) fn push(
    context: &Context<'_>,
    project: &Project,
    answers: &Answers,
    origin: &Origin,
    built: Option<&Built>,
) {
    let printer = context.printer;
    let (app, label) = (&project.spec.app, answers.label);
    let moving: Vec<&Asked> = answers.asked.iter().filter(|a| !is_live(&a.answer)).collect();
    let Some(first) = moving.first() else { return };
    let names: Vec<&str> = moving.iter().map(|a| a.host.name.as_str()).collect();
    let (hosts, strategy) = (listed(&names), word(first.answer.strategy));
    let replaces = replaces(&moving);
    if printer.progress != Progress::Live {
        // In a log a line, of stable words; what changed may be nobody's who reads it, and is in `plan`.
        let git = origin.git.as_ref().map(|git| format!(" {git}")).unwrap_or_default();
        printer.talk(&format!("{app} {label}{git} -> {hosts} {strategy}, {replaces}"));
        return;
    }
    let git = origin.git.as_ref().map(|git| format!(" (git {git})")).unwrap_or_default();
    let group: Vec<String> = project.hosts.iter().map(ToString::to_string).collect();
    let (group, pace) = if context.is_fleet() && moving.len() > 1 {
        let at_once = at_once(project.max_unavailable, answers.asked.len());
        let group = if group.is_empty() { String::new() } else { format!("{}: ", group.join(" ")) };
        (group, format!(", {} at a time", human::plural(at_once as u64, "host")))
    } else {
        (String::new(), String::new())
    };
    let line = format!("{app} {label}{git} → {group}{hosts}     {strategy}{pace}     {replaces}");
    if length(&line) <= WIDTH {
        printer.talk(&line);
    } else {
        for line in wrap(&line.replace("     ", " "), WIDTH) {
            printer.talk(&line);
        }
    }
    section(printer, "changed", &changed(&first.answer));
    if let Some(built) = built {
        section(printer, "build", &format!("{}, {}", built.command, human::took(built.took_ms)));
    }
    for line in fits(&moving) {
        section(printer, if line.0 { "fits" } else { "" }, &line.1);
    }
    printer.talk("");
}

fn replaces(moving: &[&Asked]) -> String {
    let mut old: Vec<_> = moving.iter().map(|a| a.answer.from).collect();
    old.sort_unstable();
    old.dedup();
    match old.as_slice() {
        [None] => "first release".to_owned(),
        many => {
            let labels: Vec<String> = many.iter().flatten().map(ToString::to_string).collect();
            format!("replaces {}", labels.join(" and "))
        }
    }
}

fn changed(answer: &deployd_api::deployment::PlanAnswer) -> String {
    let changed = answer.changed_files.len() as u64;
    let files = if answer.from.is_none() {
        human::plural(answer.files, "file")
    } else {
        format!("{} of {}", human::count(changed), human::plural(answer.files, "file"))
    };
    let config = answer.config.iter().map(plan::change_in_words);
    std::iter::once(files).chain(config).collect::<Vec<_>>().join(", ")
}

/// What all hosts say alike once, then what each says of itself; whether a line has the heading.
pub(crate) fn fits(moving: &[&Asked]) -> Vec<(bool, String)> {
    let Some((first, rest)) = moving.split_first() else { return Vec::new() };
    let is_common = |word: &&String| rest.iter().all(|a| a.answer.fits.contains(word));
    let common: Vec<&str> = first.answer.fits.iter().filter(is_common).map(String::as_str).collect();
    let mut lines: Vec<String> = Vec::new();
    if !common.is_empty() {
        lines.push(common.join(", "));
    }
    for asked in moving.iter().take(HOSTS_SHOWN) {
        let own = |word: &&String| !common.contains(&word.as_str());
        let own: Vec<&str> = asked.answer.fits.iter().filter(own).map(String::as_str).collect();
        if !own.is_empty() {
            lines.push(format!("{}: {}", asked.host.name, own.join(", ")));
        }
    }
    if moving.len() > HOSTS_SHOWN && lines.len() > 1 {
        lines.push(format!("… and {} more hosts", moving.len() - HOSTS_SHOWN));
    }
    lines.into_iter().enumerate().map(|(i, line)| (i == 0, line)).collect()
}

fn section(printer: &Printer, heading: &str, text: &str) {
    let mut heading = heading;
    for line in wrap(text, 90) {
        printer.talk(&format!("{heading:<10}{line}"));
        heading = "";
    }
}
