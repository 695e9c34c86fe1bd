//! `help`: a verb, all verbs, or the keys of the spec; and `completions`. With `init` they need no agent.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command, Completions, Global, Help};
use crate::commands;
use crate::error::CtlError;
use crate::printer::Printer;

mod verbs;

use verbs::{EXAMPLES, GROUPS, SHORT};

/// The keys of the spec, each with its default and meaning.
const SPEC: &str = include_str!("help/spec.txt");
/// The name of the program.
const NAME: &str = "deployd-ctl";
/// What the short help ends with.
const MORE: &str = "More: deployd-ctl help all, help VERB, help spec (the keys of deployd.toml)";

/// Reads a command line. What clap tells of it is the short help, with an example for each verb.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let command = shortened(command());
    let matches = command.try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut Cli::command()))
}

/// The definitions, with what only help needs.
fn command() -> clap::Command {
    let verbs = Cli::command().after_help(MORE);
    verbs.mut_subcommands(|verb| explained(verb, ""))
}

/// A verb and its own verbs, each with an example.
fn explained(verb: clap::Command, parent: &str) -> clap::Command {
    let path = format!("{parent}{}", verb.get_name());
    let inner = format!("{path} ");
    let verb = verb.disable_help_subcommand(true).mut_subcommands(|own| explained(own, &inner));
    let example = EXAMPLES.iter().find(|(of, _)| *of == path);
    match example {
        Some((_, words)) if verb.get_after_help().is_none() => {
            verb.after_help(format!("Example: deployd-ctl {words}"))
        }
        _ => verb,
    }
}

/// The verbs of every day only; all are in `help all`.
fn shortened(command: clap::Command) -> clap::Command {
    let order = |name: &str| SHORT.iter().position(|verb| *verb == name);
    command.mut_subcommands(|verb| match order(verb.get_name()) {
        Some(place) => verb.display_order(place),
        None => verb.hide(true),
    })
}

/// Answers a command that needs no agent; `None` for every other.
pub(crate) fn answer(command: &Command, global: &Global, printer: &Printer) -> Option<Result<(), CtlError>> {
    let text = match command {
        Command::Init(args) => return Some(commands::init::run(args, global, printer)),
        Command::Help(args) => explain(args),
        Command::Completions(args) => Ok(completions(args)),
        _ => return None,
    };
    Some(text.and_then(|text| printer.data(text.trim_end())))
}

fn explain(args: &Help) -> Result<String, CtlError> {
    let words: Vec<&str> = args.topic.iter().map(String::as_str).collect();
    let mut cli = command();
    match words.as_slice() {
        _ if args.all => Ok(every(cli)),
        [] => Ok(shortened(cli).render_help().to_string()),
        ["spec"] => Ok(SPEC.to_owned()),
        ["all"] => Ok(every(cli)),
        words => {
            cli.build();
            let found = words.iter().try_fold(&mut cli, |verb, word| verb.find_subcommand_mut(word));
            found.map(|verb| verb.render_help().to_string()).ok_or_else(|| CtlError::Usage {
                message: format!("there is no verb {}", words.join(" ")),
                hint: "deployd-ctl help all lists them; help VERB explains one, help spec the keys"
                    .to_owned(),
            })
        }
    }
}

/// The verbs in groups, what is common to them, then what each adds.
fn every(mut cli: clap::Command) -> String {
    cli.build();
    let rest = |name: &str| GROUPS.iter().all(|(_, verbs)| !verbs.contains(&name));
    let names: Vec<String> = cli.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let left: Vec<&str> = names.iter().map(String::as_str).filter(|name| rest(name)).collect();
    let groups = GROUPS.iter().map(|(title, verbs)| (*title, verbs.to_vec())).chain([("Other", left)]);
    let (mut list, mut details) = (String::new(), String::new());
    for (title, verbs) in groups {
        let found: Vec<clap::Command> =
            verbs.iter().filter_map(|verb| cli.find_subcommand(verb)).cloned().collect();
        if found.is_empty() {
            continue;
        }
        list += &format!("\n{title}:\n");
        for verb in found {
            list += &format!("  {:<12} {}\n", verb.get_name(), about(&verb));
            details += &detail(&verb, "");
        }
    }
    let text = cli.render_help().to_string();
    let (head, _) = text.split_once("\n\nCommands:").unwrap_or((&text, ""));
    let flags = text.find("\nOptions:").or_else(|| text.find("\nFlags of every command:"));
    let flags = flags.map_or("", |at| text[at..].trim_end().trim_end_matches(MORE).trim_end());
    format!("{head}\n{list}{flags}\n{details}")
}

fn about(verb: &clap::Command) -> String {
    verb.get_about().map(ToString::to_string).unwrap_or_default()
}

/// What a verb adds to the flags of every command, and its own verbs after it.
fn detail(verb: &clap::Command, parent: &str) -> String {
    let path = format!("{parent}{}", verb.get_name());
    let own = verb.clone().mut_args(|a| if a.is_global_set() { a.hide(true) } else { a });
    let mut own = own.about(None::<&str>).disable_help_flag(true);
    let mut text = format!("\n\n{path}: {}\n\n{}\n", about(verb), own.render_help().to_string().trim());
    for inner in verb.get_subcommands() {
        text += &detail(inner, &format!("{path} "));
    }
    text
}

fn completions(args: &Completions) -> String {
    // The script for bash takes the `-` of a name apart and then does not find the verbs of verbs: it is made for
    // a name without one, and registered for ours.
    const PLAIN: &str = "deployd_ctl";
    let is_bash = args.shell == clap_complete::Shell::Bash;
    let mut cli = Cli::command();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, if is_bash { PLAIN } else { NAME }, &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    if !is_bash {
        return text;
    }
    let registered = |line: &str| match line.strip_suffix(PLAIN) {
        Some(rest) if rest.trim_start().starts_with("complete ") => format!("{rest}{NAME}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(registered).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    /// Every verb by its whole name: `releases clear`.
    fn paths(command: &clap::Command, parent: &str, found: &mut Vec<String>) {
        for verb in command.get_subcommands() {
            let path = format!("{parent}{}", verb.get_name());
            paths(verb, &format!("{path} "), found);
            found.push(path);
        }
    }

    #[test]
    fn every_verb_has_a_group_and_an_example_that_works() {
        let cli = Cli::command();
        let mut all = Vec::new();
        paths(&cli, "", &mut all);
        for path in &all {
            let first = path.split(' ').next().unwrap();
            let groups = GROUPS.iter().filter(|(_, verbs)| verbs.contains(&first)).count();
            assert_eq!(groups, 1, "{first} is in {groups} groups of `help all`");
            let example = EXAMPLES.iter().find(|(of, _)| of == path);
            let (_, words) = example.unwrap_or_else(|| panic!("{path} has no example"));
            let words = words.split(' ').map(|w| w.trim_matches('"'));
            let read = Cli::try_parse_from(std::iter::once("deployd-ctl").chain(words));
            assert!(read.is_ok(), "{path}: {}", read.unwrap_err());
        }
        assert!(SHORT.iter().all(|verb| GROUPS.iter().any(|(_, verbs)| verbs.contains(verb))));
    }

    #[test]
    fn short_help_is_short_and_help_all_has_all() {
        let help = |all, topic: &[&str]| {
            explain(&Help { all, topic: topic.iter().map(|t| (*t).to_owned()).collect() }).unwrap()
        };
        let (short, long) = (help(false, &[]), help(true, &[]));
        assert_eq!(long, help(false, &["all"]));
        assert!(short.contains("\n  push ") && !short.contains("\n  restart "), "{short}");
        assert!(short.lines().count() < 40 && short.ends_with(&format!("{MORE}\n")), "{short}");
        let mut all = Vec::new();
        paths(&Cli::command(), "", &mut all);
        for path in all {
            assert!(long.contains(&format!("\n{path}: ")), "{path} is not in:\n{long}");
        }
        assert!(help(false, &["releases", "clear"]).contains("Example: deployd-ctl releases clear v44"));
        assert!(explain(&Help { all: false, topic: vec!["releases".into(), "x".into()] }).is_err());
    }

    /// The example of the page is a spec, and it explains the keys that the parser knows: each, and no other.
    #[test]
    fn the_keys_of_the_page_are_those_of_the_parser() {
        let (page, example) = SPEC.split_once("EXAMPLE\n").unwrap();
        let example: String = example.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
        deployd_api::spec::parse(&example).unwrap();
        let (mut table, mut told) = (String::new(), BTreeSet::new());
        let word = |line: &str| line.split_whitespace().next().unwrap().to_owned();
        for line in page.lines().skip_while(|line| !line.starts_with("app ")) {
            assert!(line.chars().count() <= 100, "{line}");
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
                name.clone_into(&mut table);
                told.insert((String::new(), name.split('.').next().unwrap().to_owned()));
            } else if line.starts_with("  ") && !line.starts_with("   ") {
                told.insert((table.clone(), word(line)));
            } else if line.starts_with(|c: char| c.is_ascii_lowercase()) {
                told.insert((String::new(), word(line)));
            }
        }
        let known = deployd_api::spec::keys().into_iter();
        let known =
            known.flat_map(|(of, keys)| keys.iter().map(move |key| (of.to_owned(), (*key).to_owned())));
        assert_eq!(told, known.collect());
    }
}
