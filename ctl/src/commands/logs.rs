//! `logs`: what the app wrote, with release and instance on every line.

use deployd_api::exit::ExitCode;
use deployd_api::ids::Timestamp;
use deployd_api::status::LogLine;

use super::Context;
use crate::cli::Logs;
use crate::client::BackOff;
use crate::error::CtlError;
use crate::human;
use crate::project;
use crate::table::Tone;

/// Most lines that are fetched after the agent was away.
const LINES_MISSED_MAX: u32 = 10_000;

pub(crate) async fn run(context: &Context<'_>, args: &Logs) -> Result<ExitCode, CtlError> {
    let app = project::need_app(context.global)?;
    let mut since = args.since.map(|since| Timestamp(human::now().0.saturating_sub(since.0)));
    let mut lines = args.lines;
    let mut back_off = BackOff::new();
    let mut began = false;
    loop {
        let path = format!("/apps/{app}/logs?{}", query(args, since, lines));
        match print_stream(context, &path, &mut since).await {
            Ok(_) if !args.follow => return Ok(ExitCode::Ok),
            Ok(true) => back_off = BackOff::new(),
            Ok(false) => {}
            // Only a stream that was followed goes on: an agent that was never there is said at once.
            Err(error) if args.follow && error.is_absence() && (began || since.is_some()) => {}
            Err(error) => return Err(error),
        }
        began = true;
        // After the first stream nothing older is asked for again.
        since = since.or_else(|| Some(human::now()));
        lines = Some(LINES_MISSED_MAX);
        if !back_off.wait().await {
            return Ok(ExitCode::Partial);
        }
    }
}

fn query(args: &Logs, since: Option<Timestamp>, lines: Option<u32>) -> String {
    let mut query = format!("follow={}", args.follow);
    if let Some(lines) = lines {
        query += &format!("&lines={lines}");
    }
    if let Some(since) = since {
        query += &format!("&since_ms={}", since.0);
    }
    if let Some(level) = args.level {
        query += &format!("&level={}", level as u8);
    }
    if let Some(instance) = &args.instance {
        query += &format!("&instance={}", encode(instance));
    }
    if let Some(release) = args.release {
        query += &format!("&release={release}");
    }
    query
}

/// Percent-encoding of what is neither a letter nor a digit.
fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect::<Vec<_>>().concat()
}

/// Prints until the stream ends; whether anything came. `last` is moved behind the last line.
async fn print_stream(
    context: &Context<'_>,
    path: &str,
    last: &mut Option<Timestamp>,
) -> Result<bool, CtlError> {
    let mut stream = context.client.lines(path).await?;
    let mut printed = false;
    while let Some(line) = stream.next::<LogLine>().await? {
        if context.printer.is_json() {
            context.printer.json(&line)?;
        } else {
            context.printer.data(&render(&line, context.printer.colour_out()))?;
        }
        *last = Some(Timestamp(line.at.0 + 1));
        printed = true;
    }
    Ok(printed)
}

fn render(line: &LogLine, colour: bool) -> String {
    let (level, tone) = match line.level {
        0..=3 => ("[error] ", Tone::Bad),
        4 => ("[warn] ", Tone::Warn),
        7.. => ("[debug] ", Tone::Plain),
        _ => ("", Tone::Plain),
    };
    let label = line.label.map(|l| l.to_string()).unwrap_or_default();
    let source = if line.instance.is_empty() { "deployd" } else { &line.instance };
    let source = [label.as_str(), source].join(" ");
    // The log of an app may hold anything: control characters do not reach the terminal.
    let text: String =
        line.message.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    format!("{} {} {}{text}", human::clock_ms(line.at), source.trim(), tone.paint(level, colour))
}
