//! `logs`: what the app wrote on all hosts, in the order of time, with host, release and instance on every line.

mod merge;
mod source;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use deployd_api::status::LogLine;
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Context, Host};
use crate::cli::Logs;
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::table::Tone;

use merge::Merge;
use source::{News, Source};

/// Lines that wait to be printed: a slow terminal slows the hosts, not the memory.
const QUEUE: usize = 1024;
/// Lines of the past when nothing else is asked for.
const LINES_DEFAULT: usize = 100;

/// A line in JSON of a fleet.
#[derive(Debug, Serialize)]
struct HostLine<'a> {
    host: &'a str,
    #[serde(flatten)]
    line: &'a LogLine,
}

pub(crate) async fn run(context: &Context<'_>, args: &Logs) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let (hosts, instance) = meant(context.hosts()?, args.instance.as_deref())?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    for (index, host) in hosts.iter().enumerate() {
        let source = Source::new(&app, args, instance.clone(), hosts.len());
        tokio::spawn(source.run(index, host.client.clone(), sender.clone()));
    }
    drop(sender);
    let print =
        Print { context, hosts: &hosts, width: hosts.iter().map(|h| h.name.len()).max().unwrap_or(0) };
    if let [_] = hosts.as_slice() {
        return print.one(receiver).await;
    }
    print.many(receiver, args).await
}

/// The hosts and the instance that are asked for: `web1/web@1` is one of a host.
fn meant(hosts: Vec<Host>, instance: Option<&str>) -> Result<(Vec<Host>, Option<String>), CtlError> {
    let Some((name, instance)) = instance.and_then(|i| i.split_once('/')) else {
        return Ok((hosts, instance.map(str::to_owned)));
    };
    let names = hosts.iter().map(|h| h.name.clone()).collect::<Vec<_>>().join(" ");
    let found: Vec<Host> = hosts.into_iter().filter(|h| h.name == name).collect();
    if found.is_empty() {
        return Err(CtlError::Usage {
            message: format!("there is no host {name} to read logs from"),
            hint: format!("the hosts are: {names}"),
        });
    }
    Ok((found, Some(instance.to_owned()).filter(|i| !i.is_empty())))
}

struct Print<'a> {
    context: &'a Context<'a>,
    hosts: &'a [Host],
    /// Of the longest name of a host.
    width: usize,
}

impl Print<'_> {
    /// A single host: as its lines come, and its failure is the command's.
    async fn one(&self, mut news: mpsc::Receiver<(usize, News)>) -> Result<ExitCode, CtlError> {
        while let Some((host, news)) = news.recv().await {
            match news {
                News::Line(line) => self.line(host, &line)?,
                News::Failed(error) => return Err(error),
                News::GivenUp => return Ok(ExitCode::Partial),
                News::Away(_) | News::Back => {}
            }
        }
        Ok(ExitCode::Ok)
    }

    /// Several hosts: what comes at about the same time is put in order.
    async fn many(&self, mut news: mpsc::Receiver<(usize, News)>, args: &Logs) -> Result<ExitCode, CtlError> {
        let mut merge = Merge::new(self.hosts.len());
        let mut failed: Vec<(usize, ErrorBody)> = Vec::new();
        loop {
            let due = merge.due().filter(|_| args.follow);
            let next = match due {
                None => news.recv().await,
                Some(due) => {
                    let Ok(next) = tokio::time::timeout_at(due, news.recv()).await else {
                        self.lines(merge.take())?;
                        continue;
                    };
                    next
                }
            };
            let Some((host, news)) = next else { break };
            let name = &self.hosts[host].name;
            match news {
                News::Line(line) => merge.add(host, line),
                News::Away(why) => {
                    let text = format!("! {name} does not answer ({why}); its lines come when it does");
                    self.context.printer.talk(&text);
                }
                News::Back => self.context.printer.talk(&format!("! {name} answers again")),
                News::GivenUp => {}
                News::Failed(error) => {
                    let body = error.to_body();
                    if body.code != ErrorCode::AppNotFound {
                        self.context.printer.talk(&format!("! {name}: {}", body.message));
                    }
                    failed.push((host, body));
                }
            }
            if args.follow && merge.is_full() {
                self.lines(merge.take())?;
            }
        }
        let mut rest = merge.take();
        if !args.follow {
            let limit = match (args.lines, args.since) {
                (Some(lines), _) => lines as usize,
                (None, Some(_)) => rest.len(),
                (None, None) => LINES_DEFAULT,
            };
            rest.drain(..rest.len().saturating_sub(limit));
        }
        self.lines(rest)?;
        end(&failed, self.hosts.len())
    }

    fn lines(&self, lines: Vec<(usize, LogLine)>) -> Result<(), CtlError> {
        lines.iter().try_for_each(|(host, line)| self.line(*host, line))
    }

    fn line(&self, host: usize, line: &LogLine) -> Result<(), CtlError> {
        let printer = self.context.printer;
        let name = &self.hosts[host].name;
        // How a host is reached, not how many there are today, decides the form that a program reads.
        match (printer.is_json(), self.context.global.local) {
            (true, true) => printer.json(line),
            (true, false) => printer.json(&HostLine { host: name, line }),
            (false, true) => printer.data(&render(line, None, printer.colour_out())),
            (false, false) => printer.data(&render(
                line,
                Some(&format!("{name:<width$}", width = self.width)),
                printer.colour_out(),
            )),
        }
    }
}

/// How it ends when no host has more to say.
fn end(failed: &[(usize, ErrorBody)], hosts: usize) -> Result<ExitCode, CtlError> {
    let absent = |body: &ErrorBody| body.code == ErrorCode::AppNotFound;
    match failed.iter().find(|(_, body)| !absent(body)).or(failed.first()) {
        Some((_, body)) if failed.len() == hosts => Err(CtlError::Answer(Box::new(body.clone()))),
        Some((_, body)) if !absent(body) => Ok(ExitCode::Partial),
        _ => Ok(ExitCode::Ok),
    }
}

/// `14:32:01.120 v43 web@1 text`; of a fleet `14:32:01.120 v43 web1 web@1 | text`.
fn render(line: &LogLine, host: Option<&str>, colour: bool) -> String {
    let (level, tone) = match line.level {
        0..=3 => ("[error] ", Tone::Bad),
        4 => ("[warn] ", Tone::Warn),
        7.. => ("[debug] ", Tone::Plain),
        _ => ("", Tone::Plain),
    };
    let label = line.label.map(|l| format!("{l} ")).unwrap_or_default();
    let source = if line.instance.is_empty() { "deployd" } else { &line.instance };
    let source = host.map_or_else(|| source.to_owned(), |host| format!("{host} {source} |"));
    // The log of an app may hold anything: control characters do not reach the terminal.
    let text: String =
        line.message.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    format!("{} {label}{source} {}{text}", human::clock_ms(line.at), tone.paint(level, colour))
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::{Label, Timestamp};

    use super::*;

    #[test]
    fn a_line_of_a_fleet_names_its_host() {
        let line = LogLine {
            at: Timestamp(1_000_040_000_007),
            label: Label::new(43),
            instance: "web@1".into(),
            level: 3,
            message: "no \u{1b}[31mdb".into(),
        };
        let (alone, fleet) = (render(&line, None, false), render(&line, Some("web1 "), false));
        assert!(alone.ends_with(".007 v43 web@1 [error] no \u{fffd}[31mdb"), "{alone}");
        assert!(fleet.ends_with(".007 v43 web1  web@1 | [error] no \u{fffd}[31mdb"), "{fleet}");
    }

    #[test]
    fn the_end_tells_hosts_that_failed() {
        let body = |code| ErrorBody::new(code, "m", "h");
        let (gone, none) = (body(ErrorCode::AgentUnreachable), body(ErrorCode::AppNotFound));
        for (failed, want) in [
            (vec![], ExitCode::Ok),
            (vec![(0, none.clone())], ExitCode::Ok),
            (vec![(0, none.clone()), (1, gone.clone())], ExitCode::Partial),
            (vec![(0, none.clone()), (1, none.clone()), (2, none)], ExitCode::Usage),
        ] {
            assert_eq!(end(&failed, 3).unwrap_or_else(|e| e.exit()), want, "{failed:?}");
        }
    }
}
