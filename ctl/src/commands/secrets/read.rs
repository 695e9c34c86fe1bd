//! Where values come from: a prompt, standard input, a file, an argument, a dotenv file.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use age::secrecy::ExposeSecret as _;
use deployd_api::secret::{SecretName, SecretValue, VALUE_MAX};
use zeroize::Zeroizing;

use crate::cli::Given;
use crate::commands::Context;
use crate::error::CtlError;
use crate::pki::passphrase;

type Values = BTreeMap<SecretName, SecretValue>;
/// A file of secrets is no larger than this.
const FILE_MAX: u64 = 4 << 20;

/// Where the value of an argument is.
#[derive(Debug, PartialEq, Eq)]
enum Source<'a> {
    Prompt,
    Stdin,
    File(&'a Path),
    Argument(&'a str),
}

/// The values of `secrets set`.
pub(super) async fn given(context: &Context<'_>, arguments: &[Given]) -> Result<Values, CtlError> {
    let mut parsed = BTreeMap::new();
    for argument in arguments {
        let (name, source) = parse(&argument.0)?;
        if parsed.contains_key(&name) {
            return Err(usage(format!("{name} is given twice"), "give each name once"));
        }
        parsed.insert(name, source);
    }
    if parsed.values().filter(|s| **s == Source::Stdin).count() > 1 {
        return Err(usage("standard input can be only one value", "use files for the others: NAME=@FILE"));
    }
    if parsed.values().any(|s| matches!(s, Source::Argument(_))) {
        context
            .printer
            .talk("hint: a value in an argument stays in the shell's history; NAME alone asks for it");
    }
    let mut values = BTreeMap::new();
    for (name, source) in parsed {
        let value = match source {
            Source::Argument(text) => SecretValue::new(text.as_bytes().to_vec()),
            Source::Prompt => prompt(&name)?,
            Source::Stdin => one_line(read_stdin().await?),
            Source::File(path) => one_line(read_file(path)?),
        };
        values.insert(refuse_long(name, &value)?, value);
    }
    Ok(values)
}

/// The values of a dotenv file; `-` is standard input.
pub(super) async fn import(path: &Path) -> Result<Values, CtlError> {
    let bytes = if path == Path::new("-") { read_stdin().await? } else { read_file(path)? };
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| usage(format!("{} is not UTF-8", path.display()), "bytes go as NAME=@FILE"))?;
    let values = dotenv(text).map_err(|(line, what)| {
        let hint = "each line is NAME=VALUE; values with spaces or lines stand in quotes";
        usage(format!("{}:{line}: {what}", path.display()), hint)
    })?;
    if values.is_empty() {
        return Err(usage(format!("{} names no secret", path.display()), "each line is NAME=VALUE"));
    }
    values.into_iter().map(|(name, value)| Ok((refuse_long(name, &value)?, value))).collect()
}

fn usage(message: impl Into<String>, hint: &str) -> CtlError {
    CtlError::Usage { message: message.into(), hint: hint.to_owned() }
}

/// An error never shows what stands behind the `=`.
fn parse(argument: &str) -> Result<(SecretName, Source<'_>), CtlError> {
    let (name, rest) = match argument.split_once('=') {
        Some((name, rest)) => (name, Some(rest)),
        None => (argument, None),
    };
    let name = name.parse::<SecretName>().map_err(|e| {
        // Without a `=` it may be a value that came without its name.
        let what =
            if rest.is_some() { e.to_string() } else { format!("an argument is no name: {}", e.reason) };
        usage(what, "write NAME, NAME=VALUE, NAME=- or NAME=@FILE")
    })?;
    let source = match rest {
        None => Source::Prompt,
        Some("-") => Source::Stdin,
        Some(rest) => {
            rest.strip_prefix('@').map_or(Source::Argument(rest), |path| Source::File(Path::new(path)))
        }
    };
    Ok((name, source))
}

fn prompt(name: &SecretName) -> Result<SecretValue, CtlError> {
    if !std::io::stdin().is_terminal() {
        let hint = format!("send it: … | deployd-ctl secrets set {name}=-");
        return Err(usage(format!("there is no terminal to ask for {name}"), &hint));
    }
    let asked = passphrase::hidden(&format!("{name} (not shown): ")).map_err(CtlError::Runtime)?;
    let typed = asked.ok_or_else(passphrase::stopped)?;
    let typed = typed.expose_secret();
    if typed.is_empty() {
        return Err(usage(format!("nothing was typed for {name}"), "an empty value is set with NAME="));
    }
    Ok(SecretValue::new(typed.as_bytes().to_vec()))
}

async fn read_stdin() -> Result<Zeroizing<Vec<u8>>, CtlError> {
    let read = || read_all(std::io::stdin().lock());
    let read = tokio::task::spawn_blocking(read).await.map_err(|e| CtlError::Runtime(e.into()))?;
    read.map_err(CtlError::Runtime)
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, CtlError> {
    std::fs::File::open(path)
        .and_then(read_all)
        .map_err(|e| usage(format!("cannot read {}: {e}", path.display()), "name a file that is there"))
}

fn read_all(from: impl std::io::Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_MAX + 1));
    from.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A text of one line loses the end of that line, which `echo` and editors add. Anything else stays as it is.
fn one_line(mut bytes: Zeroizing<Vec<u8>>) -> SecretValue {
    if bytes.iter().position(|b| *b == b'\n').is_some_and(|at| at + 1 == bytes.len()) {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    SecretValue::new(std::mem::take(&mut *bytes))
}

fn refuse_long(name: SecretName, value: &SecretValue) -> Result<SecretName, CtlError> {
    if value.reveal().len() <= VALUE_MAX {
        return Ok(name);
    }
    let message = format!("the value of {name} is longer than {} KiB", VALUE_MAX >> 10);
    Err(usage(message, "large files belong into the release"))
}

/// Lines of `NAME=VALUE`, with `export`, comments, and quotes: single ones are literal, double ones know `\n`,
/// `\"`, `\\` and `\$` and may go over lines. An error is a line and what is wrong there, never a value.
fn dotenv(text: &str) -> Result<Values, (usize, String)> {
    let mut values = Values::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    while !rest.is_empty() {
        let number = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let entry = line.trim();
        if entry.is_empty() || entry.starts_with('#') {
            rest = after;
            continue;
        }
        let wrong = |what: String| (number, what);
        let name = line.split('=').next().filter(|_| line.contains('='));
        let name = name.ok_or_else(|| wrong("there is no `=`".to_owned()))?;
        let value_at = name.len() + 1;
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let name: SecretName = name.parse().map_err(|e: deployd_api::ids::InvalidId| wrong(e.to_string()))?;
        let (value, end) = value(&rest[value_at..]).map_err(|what| wrong(format!("{name}: {what}")))?;
        rest = rest[value_at + end..].split_once('\n').map_or("", |(_, next)| next);
        if values.insert(name.clone(), SecretValue::new(value.into_bytes())).is_some() {
            return Err(wrong(format!("{name} is there twice")));
        }
    }
    Ok(values)
}

/// The value that a text begins with, and how many bytes it takes.
fn value(text: &str) -> Result<(String, usize), &'static str> {
    let indent = text.len() - text.trim_start_matches([' ', '\t']).len();
    let begun = &text[indent..];
    let Some(quote) = begun.chars().next().filter(|c| "\"'".contains(*c)) else {
        let line = begun.split('\n').next().unwrap_or_default();
        let plain = line.split(" #").next().unwrap_or_default().trim();
        return Ok((plain.to_owned(), indent + line.len()));
    };
    let mut value = String::new();
    let mut chars = begun.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => {
                let behind = begun[at + 1..].split('\n').next().unwrap_or_default().trim();
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err("something stands behind the closing quote");
                }
                return Ok((value, indent + at + 1));
            }
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("the closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_where_the_value_is() {
        for (argument, name, source) in [
            ("A", "A", Source::Prompt),
            ("A=", "A", Source::Argument("")),
            ("A=x=y", "A", Source::Argument("x=y")),
            ("A=-", "A", Source::Stdin),
            ("A=--", "A", Source::Argument("--")),
            ("A=@/etc/x", "A", Source::File(Path::new("/etc/x"))),
        ] {
            let (parsed, from) = parse(argument).unwrap();
            assert_eq!((parsed.as_str(), from), (name, source), "{argument}");
        }
        for bad in ["A-B=hunter2", "hunter2!", "=hunter2", "9=hunter2"] {
            let said = format!("{:?}", parse(bad).unwrap_err());
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_line_loses_its_end_and_nothing_else_does() {
        for (given, kept) in
            [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\nb\n", "a\nb\n"), ("\n", ""), ("a\n\n", "a\n\n")]
        {
            assert_eq!(one_line(Zeroizing::new(given.into())).reveal(), kept.as_bytes(), "{given:?}");
        }
    }

    #[test]
    fn dotenv_files_are_read_as_people_write_them() {
        let text = "\u{feff}# comment\n\nA=1\nexport B = two words # and why\r\nC='it is $literal \\n'\n\
                    D=\"a\\nb \\\"c\\\" \\$d\"\nKEY=\"-----BEGIN-----\nabc\n-----END-----\n\"  # pem\nE=\nF=a#b\nG=x=y";
        let values = dotenv(text).unwrap();
        let text = |name: &str| String::from_utf8(values[&name.parse().unwrap()].reveal().to_vec()).unwrap();
        for (name, value) in [
            ("A", "1"),
            ("B", "two words"),
            ("C", "it is $literal \\n"),
            ("D", "a\nb \"c\" $d"),
            ("KEY", "-----BEGIN-----\nabc\n-----END-----\n"),
            ("E", ""),
            ("F", "a#b"),
            ("G", "x=y"),
        ] {
            assert_eq!(text(name), value, "{name}");
        }
        assert_eq!(values.len(), 8);
    }

    #[test]
    fn what_is_wrong_in_a_file_has_a_line_and_no_value() {
        for (text, line, said) in [
            ("A=1\nhunter2\n", 2, "no `=`"),
            ("\n\nA='hunter2\n", 3, "closing quote is missing"),
            ("A=\"hunter2\" hunter2\n", 1, "behind the closing quote"),
            ("A=\"x\ny\"\nA=hunter2", 3, "twice"),
            ("LD_PRELOAD=hunter2", 1, "meaning of its own"),
        ] {
            let (at, what) = dotenv(text).unwrap_err();
            assert_eq!(at, line, "{text:?}");
            assert!(what.contains(said) && !what.contains("hunter2"), "{what}");
        }
    }
}
