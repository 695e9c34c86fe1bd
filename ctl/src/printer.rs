//! The only place that writes: data to stdout, talk to stderr, `-q`, `-o json`, colour.

use std::io::{self, BufRead, IsTerminal, Write};

use deployd_api::exit::ExitCode;
use serde::Serialize;

use crate::cli::{Global, Output, Progress};
use crate::error::CtlError;
use crate::failure;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volume {
    /// The last line.
    Quiet,
    Normal,
    /// Every step.
    Verbose,
}

/// Decides the stream, the form and the colour.
#[derive(Debug)]
pub(crate) struct Printer {
    pub(crate) output: Output,
    pub(crate) volume: Volume,
    pub(crate) progress: Progress,
    colour_out: bool,
    colour_err: bool,
}

impl Printer {
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = |terminal: bool| {
            let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
            terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        };
        let terminal = io::stderr().is_terminal();
        Self {
            output: global.output,
            volume: match (global.quiet, global.verbose) {
                (true, _) => Volume::Quiet,
                (_, true) => Volume::Verbose,
                _ => Volume::Normal,
            },
            progress: match global.progress {
                Progress::Auto if terminal && !global.verbose => Progress::Live,
                Progress::Auto => Progress::Lines,
                chosen => chosen,
            },
            colour_out: wanted(io::stdout().is_terminal()),
            colour_err: wanted(terminal),
        }
    }

    /// Whether the result is JSON.
    pub(crate) fn is_verbose(&self) -> bool {
        self.volume == Volume::Verbose
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub(crate) fn colour_out(&self) -> bool {
        self.colour_out
    }

    pub(crate) fn colour_err(&self) -> bool {
        self.colour_err
    }

    /// A line of the result.
    #[expect(clippy::unused_self, reason = "whoever prints has a printer")]
    pub(crate) fn data(&self, line: &str) -> Result<(), CtlError> {
        writeln!(io::stdout(), "{line}").map_err(CtlError::Output)
    }

    /// The result as JSON, one line.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CtlError> {
        let text = serde_json::to_string(value).map_err(|e| CtlError::Output(e.into()))?;
        self.data(&text)
    }

    /// The last line: what is true now, and what undoes it. With JSON it is talk.
    pub(crate) fn last(&self, line: &str) -> Result<(), CtlError> {
        if self.is_json() {
            self.talk(line);
            return Ok(());
        }
        self.data(line)
    }

    /// Talk, unless `-q`. A stderr that is gone stops no deployment.
    pub(crate) fn talk(&self, line: &str) {
        if self.volume != Volume::Quiet {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    /// Raw text to the terminal, for what is drawn again.
    pub(crate) fn draw(&self, text: &str) {
        if self.volume != Volume::Quiet {
            let mut stderr = io::stderr();
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        }
    }

    /// Asks, also with `-q`, and waits for a line. Only where [`Self::can_ask`].
    pub(crate) async fn ask(&self, question: &str) -> Result<String, CtlError> {
        let mut stderr = io::stderr();
        stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).map_err(CtlError::Output)?;
        let read = || -> io::Result<String> {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line)?;
            Ok(line.trim().to_owned())
        };
        // Beside: Ctrl-C works meanwhile.
        let line = tokio::task::spawn_blocking(read).await;
        line.map_err(|e| CtlError::Runtime(e.into()))?.map_err(CtlError::Runtime)
    }

    /// Whether there is somebody to ask.
    #[expect(clippy::unused_self, reason = "whoever prints has a printer")]
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal()
    }

    /// The lines of a failure, also with `-q`, and the exit code.
    #[expect(clippy::unused_self, reason = "whoever prints has a printer")]
    pub(crate) fn fail(&self, lines: &[String], code: ExitCode) {
        let mut stderr = io::stderr();
        for line in lines.iter().filter(|l| !l.is_empty()) {
            let _ = writeln!(stderr, "{line}");
        }
        let _ = writeln!(stderr, "exit {}", code as u8);
    }

    /// Shows why the command failed, and its exit code.
    pub(crate) fn end_with(&self, error: &CtlError) -> ExitCode {
        let code = error.exit();
        if code == ExitCode::Ok {
            return code;
        }
        let lines: Vec<String> = match error {
            CtlError::Detached(text) => text.lines().map(str::to_owned).collect(),
            CtlError::Usage { message, hint } => {
                vec![format!("error: {message}"), format!("  next    {hint}")]
            }
            _ => failure::render(&error.to_body(), self.colour_err),
        };
        self.fail(&lines, code);
        if self.is_json() {
            #[derive(Serialize)]
            struct Failed {
                error: deployd_api::error::ErrorBody,
                exit: u8,
            }
            let _ = self.json(&Failed { error: error.to_body(), exit: code as u8 });
        }
        code
    }
}
