//! `doctor`: what is wrong with the host, errors first.

use deployd_api::exit::ExitCode;
use deployd_api::status::{DoctorReport, Severity};

use super::Context;
use crate::error::CtlError;
use crate::hint::runnable;
use crate::human;
use crate::printer::Volume;
use crate::table::{Cell, Table, Tone, WIDTH, wrap};

pub(crate) async fn run(context: &Context<'_>) -> Result<ExitCode, CtlError> {
    let report: DoctorReport = context.client.get("/doctor").await?;
    let code = if report.findings.is_empty() { ExitCode::Ok } else { ExitCode::Findings };
    let printer = context.printer;
    if printer.is_json() {
        printer.json(&report)?;
        return Ok(code);
    }
    if printer.volume != Volume::Quiet {
        printer.data(&format!("ctl {}", env!("CARGO_PKG_VERSION")))?;
        printer.data("")?;
        for line in host_table(&report).render(printer.colour_out()) {
            printer.data(&line)?;
        }
        printer.data("")?;
    }
    let findings = findings(&report, printer.colour_out());
    for line in &findings {
        printer.data(line)?;
    }
    if !findings.is_empty() {
        printer.data("")?;
    }
    let passed = human::plural(report.passed.len() as u64, "check");
    for line in wrap(&format!("{passed} passed: {}", report.passed.join(", ")), WIDTH) {
        printer.data(&line)?;
    }
    if code != ExitCode::Ok {
        printer.talk(&format!("exit {}", code as u8));
    }
    Ok(code)
}

fn host_table(report: &DoctorReport) -> Table {
    let number = |severity| report.findings.iter().filter(|f| f.severity == severity).count() as u64;
    let (errors, warnings) = (number(Severity::Error), number(Severity::Warn));
    let parts: Vec<String> = [(errors, "error"), (warnings, "warning")]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| human::plural(*n, word))
        .collect();
    let tone = match (errors, warnings) {
        (1.., _) => Tone::Bad,
        (0, 1..) => Tone::Warn,
        (0, 0) => Tone::Plain,
    };
    let mut table = Table::new(&["HOST", "AGENT", "SYSTEMD", "DISK FREE", ">APPS", "FINDINGS"]);
    table.row(vec![
        report.host.as_str().into(),
        report.agent.as_str().into(),
        report.systemd.as_str().into(),
        format!("{} of {}", human::size(report.disk_free), human::size(report.disk_total)).into(),
        report.apps.to_string().into(),
        Cell(if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }, tone),
    ]);
    table
}

fn findings(report: &DoctorReport, colour: bool) -> Vec<String> {
    let mut sorted: Vec<_> = report.findings.iter().collect();
    sorted.sort_by_key(|f| f.severity);
    let width = |of: fn(&deployd_api::status::Finding) -> &str| {
        sorted.iter().map(|f| of(f).chars().count()).max().unwrap_or(0)
    };
    let (code, subject) = (width(|f| &f.code), width(|f| &f.subject));
    let indent = 7 + code + 2 + subject + 2;
    let mut lines = Vec::new();
    for finding in sorted {
        let (word, tone) = match finding.severity {
            Severity::Error => ("error", Tone::Bad),
            Severity::Warn => ("warn ", Tone::Warn),
        };
        let head =
            format!("{}  {:<code$}  {:<subject$}  ", tone.paint(word, colour), finding.code, finding.subject);
        let max = WIDTH.saturating_sub(indent).max(30);
        let text = wrap(&runnable(&finding.what), max).into_iter().chain(wrap(&runnable(&finding.next), max));
        for (i, line) in text.enumerate() {
            let lead = if i == 0 { head.clone() } else { " ".repeat(indent) };
            lines.push(format!("{lead}{line}").trim_end().to_owned());
        }
    }
    lines
}
