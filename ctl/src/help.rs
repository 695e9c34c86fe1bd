//! `help`: a verb, all verbs, or the keys of the spec; and `completions`. With `init` they need no agent.

use clap::CommandFactory;

use crate::cli::{Cli, Command, Completions, Global, Help};
use crate::commands;
use crate::error::CtlError;
use crate::printer::Printer;

/// The keys of the spec, each with its default and meaning.
const SPEC: &str = include_str!("help/spec.txt");

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
    let mut cli = Cli::command();
    cli.build();
    match args.topic.as_deref() {
        None => Ok(cli.render_help().to_string()),
        Some("spec") => Ok(SPEC.to_owned()),
        Some("all") => Ok(every(&mut cli)),
        Some(verb) => match cli.find_subcommand_mut(verb) {
            Some(command) => Ok(command.render_help().to_string()),
            None => Err(CtlError::Usage {
                message: format!("there is no verb {verb}"),
                hint: "deployd-ctl help lists them; help all explains them, help spec the keys".to_owned(),
            }),
        },
    }
}

/// What is common first, then only what each verb adds.
fn every(cli: &mut clap::Command) -> String {
    let mut text = cli.render_help().to_string();
    let is_verb = |c: &&mut clap::Command| !c.is_hide_set();
    for verb in cli.get_subcommands_mut().filter(is_verb) {
        let own = verb.clone().mut_args(|a| if a.is_global_set() { a.hide(true) } else { a });
        let about = own.get_about().map(ToString::to_string).unwrap_or_default();
        text += &format!("\n\n{}: {about}\n\n", own.get_name());
        let mut own = own.about(None::<&str>).disable_help_flag(true);
        text += own.render_help().to_string().trim();
        text.push('\n');
    }
    text
}

fn completions(args: &Completions) -> String {
    let mut cli = Cli::command();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "deployd-ctl", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the page is a spec, and each key that it explains is one that the parser knows.
    #[test]
    fn the_keys_of_the_page_are_those_of_the_parser() {
        let (keys, example) = SPEC.split_once("EXAMPLE\n").unwrap();
        let example: String = example.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
        deployd_api::spec::parse(&example).unwrap();
        let mut table = String::new();
        let mut count = 0;
        for line in keys.lines() {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
                table = name.replace("NAME", "x");
            } else if line.starts_with("  ") && !line.starts_with("   ") {
                let key = line.split_whitespace().next().unwrap();
                let text = format!("app = \"a\"\n[{table}]\n{key} = []\n");
                let errors =
                    deployd_api::spec::parse(&text).map_or_else(|e| e.render("f"), |_| String::new());
                assert!(!errors.contains("unknown key"), "{table}.{key}: {errors}");
                count += 1;
            }
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(count > 25, "only {count} keys: the test reads another form than the page has");
    }
}
