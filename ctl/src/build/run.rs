//! Runs the build line. What it prints goes to stderr as it comes, and its last lines into the error.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::Built;
use crate::error::CtlError;
use crate::printer::{Printer, Volume};

/// Lines of the build that its failure shows.
const LINES_SHOWN: usize = 20;
/// Bytes of a line that are kept.
const LINE_BYTES: usize = 400;
/// What may deploy is none of a build's business: its dependencies are code of strangers.
const OF_CTL: [&str; 2] = ["DEPLOYD_IDENTITY", "DEPLOYD_PASSPHRASE"];

/// Runs the line in the folder; `place` is the spec's file in messages.
pub(super) async fn run(
    printer: &Printer,
    app: &AppName,
    place: &str,
    folder: &Path,
    command: &str,
) -> Result<Built, CtlError> {
    let began = Instant::now();
    let mut tail = Tail::default();
    let failed = |what: String, lines: Vec<String>| {
        let message = format!("the build of {app} failed: {what}; nothing was sent");
        let hint = "mend what it says; what was built before is pushed with --no-build";
        let mut body = ErrorBody::new(ErrorCode::BuildFailed, message, hint)
            .cause("what", command)
            .cause("where", format!("{place}: [build] command"));
        for line in lines {
            body = body.cause("log", line);
        }
        CtlError::Answer(Box::new(body))
    };
    let ended = follow(printer, folder, command, &mut tail).await;
    let status =
        ended.map_err(|e| failed(format!("sh cannot be run in {}: {e}", folder.display()), Vec::new()))?;
    if !status.success() {
        // On a terminal, and in a log, its output stands right above.
        let lines =
            if printer.volume == Volume::Quiet || printer.is_json() { tail.lines() } else { tail.last(5) };
        return Err(failed(in_words(status), lines));
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Built { command: command.to_owned(), took_ms })
}

fn in_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(127), _) => "exit status 127, a command was not found".to_owned(),
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("it was ended by {name}")
        }
        (None, None) => "it ended without a status".to_owned(),
    }
}

/// The child, its output copied, until it has ended. Programs that it leaves running are not waited for.
async fn follow(printer: &Printer, folder: &Path, command: &str, tail: &mut Tail) -> io::Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    let mut line = Command::new("sh");
    line.arg("-c").arg(command).current_dir(folder).stdin(Stdio::null());
    line.stdout(writer.try_clone()?).stderr(writer).process_group(0);
    for name in OF_CTL {
        line.env_remove(name);
    }
    let child = line.spawn()?;
    // The command still holds the writing ends, and the pipe would never end.
    drop(line);
    let mut group = Group { child, ended: false };
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut buffer = vec![0; 16 << 10];
    let mut take = |bytes: &[u8]| {
        printer.draw(&String::from_utf8_lossy(bytes));
        tail.take(bytes);
    };
    let status = loop {
        tokio::select! {
            status = group.child.wait() => break status?,
            ready = reader.readable() => {
                ready?;
                match reader.try_read(&mut buffer) {
                    // Nobody writes any more; its end is near.
                    Ok(0) => break group.child.wait().await?,
                    Ok(read) => take(&buffer[..read]),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
        }
    };
    group.ended = true;
    while let Ok(read @ 1..) = reader.try_read(&mut buffer) {
        take(&buffer[..read]);
    }
    Ok(status)
}

/// The build's processes: they end with a push that is stopped.
struct Group {
    child: Child,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let (false, Some(id)) = (self.ended, id) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGTERM);
        }
    }
}

/// The last lines of what was printed.
#[derive(Debug, Default)]
struct Tail {
    whole: VecDeque<String>,
    open: Vec<u8>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // What is drawn over with \r is a line like any other.
            match byte {
                b'\n' | b'\r' => self.close(),
                byte if self.open.len() < LINE_BYTES => self.open.push(*byte),
                _ => {}
            }
        }
    }

    fn close(&mut self) {
        let line = plain(&String::from_utf8_lossy(&std::mem::take(&mut self.open)));
        if line.trim().is_empty() {
            return;
        }
        if self.whole.len() == LINES_SHOWN {
            self.whole.pop_front();
        }
        self.whole.push_back(line);
    }

    fn lines(mut self) -> Vec<String> {
        self.close();
        self.whole.into()
    }

    fn last(self, count: usize) -> Vec<String> {
        let mut lines = self.lines();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }
}

/// Without colours and other sequences for terminals.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            // `ESC [ … letter`; a lone ESC takes the next character along.
            if rest.next() == Some('[') {
                rest.by_ref().find(char::is_ascii_alphabetic);
            }
        } else if !c.is_control() || c == '\t' {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_without_colours() {
        let mut tail = Tail::default();
        for n in 0..30 {
            tail.take(format!("line {n}\r\n").as_bytes());
        }
        tail.take(b"\x1b[31merror:\x1b[0m no\n\n  \nunfinished");
        let lines = tail.lines();
        assert_eq!(lines.len(), LINES_SHOWN);
        assert_eq!(lines[LINES_SHOWN - 3..], ["line 29", "error: no", "unfinished"]);
        let mut long = Tail::default();
        long.take(&[b'x'; 10_000]);
        assert_eq!(long.lines()[0].len(), LINE_BYTES);
    }
}
