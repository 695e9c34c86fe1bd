//! The block that every failure is shown as: what, where, log, undone, next.

use deployd_api::error::ErrorBody;

use crate::hint::runnable;
use crate::table::{Tone, WIDTH, wrap};

/// Column at which the text begins.
const INDENT: usize = 10;

/// The lines of a failure.
pub(crate) fn render(body: &ErrorBody, colour: bool) -> Vec<String> {
    let head = format!("{}: {}", body.code, runnable(&body.message));
    let mut lines = wrap(&head, WIDTH - 6);
    if let Some(first) = lines.first_mut() {
        *first = format!("{} {first}", Tone::Bad.paint("error", colour));
    }
    let mut last = "";
    for (heading, text) in &body.causes {
        let shown = if heading == last { "" } else { heading };
        // What an app logged stays as it was written.
        let text = if heading == "log" { text.clone() } else { runnable(text) };
        lines.extend(section(shown, &text));
        last = heading;
    }
    lines.extend(section("next", &runnable(&body.hint)));
    lines
}

fn section(heading: &str, text: &str) -> Vec<String> {
    let mut heading = heading;
    let mut lines = Vec::new();
    for line in wrap(text, WIDTH - INDENT) {
        lines.push(format!("  {heading:<width$}{line}", width = INDENT - 2).trim_end().to_owned());
        heading = "";
    }
    lines
}
