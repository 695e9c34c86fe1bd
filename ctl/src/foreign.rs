//! Verbs of fly, kamal, heroku and cap, answered with ours.
//!
//! The table names verbs of the whole product. Whether this version has one is asked of its command line, so
//! the answer to `fly scale` changes by itself when `scale` comes.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::cli::Cli;
use crate::hint::CTL;

mod words;

use words::{ELSEWHERE, PLANNED, VERBS};

/// Whether the command line says `--local`, also when it cannot be read otherwise.
pub(crate) fn is_local(arguments: &[OsString]) -> bool {
    arguments.iter().skip(1).take_while(|a| *a != "--").any(|a| a == "--local")
}

/// The answer to an unknown verb, when we know what was meant.
pub(crate) fn answer(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let words: Vec<&str> = arguments.iter().skip(1).filter_map(|a| a.to_str()).collect();
    let at = words.iter().position(|w| w == word)?;
    let own = Cli::command();
    let has = |verb: &str| has(&own, verb);
    spellings(&words, at).iter().find_map(|spelling| translate(spelling, has))
}

/// What may have been meant, longest first: with the word before it (`secrets ls`), with the words behind it
/// (`ssh console`, `lock release`), alone.
fn spellings(words: &[&str], at: usize) -> Vec<String> {
    let plain = |i: usize| words.get(i).filter(|w| !w.starts_with('-'));
    let before = at.checked_sub(1).and_then(plain).map(|b| format!("{b} {}", words[at]));
    let two = plain(at + 1).map(|next| format!("{} {next}", words[at]));
    let three = two.as_ref().and_then(|two| plain(at + 2).map(|next| format!("{two} {next}")));
    [three, two, before, Some(words[at].to_owned())].into_iter().flatten().collect()
}

/// The answer to one spelling. `has` tells which verbs exist.
fn translate(theirs: &str, has: impl Fn(&str) -> bool) -> Option<String> {
    // cap names a stage first; here each stage is a spec.
    let (stage, rest) = match theirs.split_once(' ') {
        Some((stage @ ("production" | "staging"), rest)) => (Some(stage), rest),
        _ => (None, theirs),
    };
    let file = stage.map(|stage| format!(" -c {stage}.toml")).unwrap_or_default();
    if let Some((_, ours)) = VERBS.iter().find(|(verb, _)| *verb == rest) {
        let exists = has(&verb_of(ours));
        return Some(if exists {
            format!("unknown command \"{theirs}\"; here it is: {CTL} {ours}{file}")
        } else {
            format!("\"{theirs}\" is {ours} here, which is not built yet in this version; see {CTL} help all")
        });
    }
    if PLANNED.contains(&rest) && !has(rest) {
        return Some(format!("\"{rest}\" is not built yet in this version; see {CTL} help all"));
    }
    let (_, how) = ELSEWHERE.iter().find(|(verb, _)| *verb == theirs)?;
    Some(format!("unknown command \"{theirs}\"; {how}"))
}

/// `secrets set` of `secrets set K=V`.
fn verb_of(ours: &str) -> String {
    let plain =
        |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    ours.split_whitespace().take(2).take_while(plain).collect::<Vec<_>>().join(" ")
}

/// Whether the command line has this verb, or verb of a verb.
fn has(own: &clap::Command, verb: &str) -> bool {
    let mut words = verb.split(' ');
    let Some(first) = words.next().and_then(|w| own.find_subcommand(w)) else { return false };
    // A verb without verbs of its own takes other words as arguments.
    words.all(|word| !first.has_subcommands() || first.find_subcommand(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_a_verb_of_ours() {
        let own = Cli::command();
        for (theirs, ours) in VERBS {
            let verb = verb_of(ours);
            let first = verb.split(' ').next().unwrap();
            let planned = own.find_subcommand(first).is_none() && PLANNED.contains(&first);
            assert!(has(&own, &verb) || planned, "{theirs} → {ours}: no verb {verb}");
            assert!(!has(&own, theirs), "{theirs} is a verb of ours: it needs no answer");
            assert_eq!(VERBS.iter().filter(|(other, _)| other == theirs).count(), 1, "{theirs} stands twice");
        }
        for (theirs, _) in ELSEWHERE {
            assert!(VERBS.iter().all(|(other, _)| other != theirs), "{theirs} stands twice");
        }
    }

    #[test]
    fn what_people_type_is_found() {
        let all = |_: &str| true;
        for (typed, want) in [
            ("deploy", "deployd-ctl push"),
            ("ssh console -a shop", "deployd-ctl exec"),
            ("secrets ls", "deployd-ctl secrets list"),
            ("config:set A=b", "deployd-ctl secrets set"),
            ("production deploy", "deployd-ctl push -c production.toml"),
            ("app exec bash", "deployd-ctl exec"),
            ("setup", "deployd-ctl hosts add"),
            ("launch", "deployd-ctl init"),
            ("machine list", "deployd-ctl status"),
            ("lock release", "deployd-ctl rollout abort"),
            ("certs add", "Caddy in front"),
        ] {
            let words: Vec<&str> = typed.split(' ').collect();
            // `secrets` exists, so what is unknown is the word behind it.
            let at = usize::from(words[0] == "secrets");
            let answer = spellings(&words, at).iter().find_map(|s| translate(s, all)).unwrap_or_default();
            assert!(answer.contains(want), "{typed}: {answer}");
        }
        assert_eq!(translate("nothing", all), None);
        let planned = translate("ssh console", |_| false).unwrap();
        assert_eq!(
            planned,
            "\"ssh console\" is exec here, which is not built yet in this version; see deployd-ctl help all"
        );
    }

    #[test]
    fn local_is_seen_before_the_command_line_is_read() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(is_local(&words("ctl deploy --local")));
        assert!(!is_local(&words("ctl exec -- psql --local")));
    }
}
