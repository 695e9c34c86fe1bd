//! The system's ssh: the user's own configuration, agent and known hosts. One connection a host is kept for
//! all commands, and files go through it as input of a command, never as arguments.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::target::host_of;
use super::{answer, refused};
use crate::error::CtlError;

/// What ssh ends with when it is the connection that failed.
const CONNECTION: i32 = 255;
/// Lines of an error that are shown.
const LINES: usize = 8;

/// A host over ssh.
#[derive(Debug)]
pub(crate) struct Ssh {
    /// Its name in the fleet, for errors.
    name: String,
    target: String,
    options: Vec<String>,
    /// Commands run as root by this word before them.
    root: Option<&'static str>,
    _folder: tempfile::TempDir,
}

/// What a command reads.
pub(crate) enum Input {
    Nothing,
    Text(String),
    File(PathBuf),
}

impl Ssh {
    pub(crate) fn new(name: &str, target: &str, options: &[String]) -> Result<Self, CtlError> {
        let folder = tempfile::tempdir().map_err(CtlError::Runtime)?;
        let control = folder.path().join("c");
        // What comes first counts: the caller's own options.
        let own = options.iter().cloned();
        let ours = [
            "ControlMaster=auto".to_owned(),
            format!("ControlPath={}", control.display()),
            "ControlPersist=60".to_owned(),
            "ConnectTimeout=10".to_owned(),
        ];
        let options = own.chain(ours).flat_map(|option| ["-o".to_owned(), option]).collect();
        Ok(Self { name: name.to_owned(), target: target.to_owned(), options, root: None, _folder: folder })
    }

    /// The address that ssh connects to, by its configuration.
    pub(crate) async fn address(&self) -> String {
        let asked = self.command(&["-G"]).arg("--").arg(&self.target).output().await;
        let text = asked.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        let found = text.lines().find_map(|line| line.strip_prefix("hostname "));
        found.unwrap_or_else(|| host_of(&self.target)).trim().to_owned()
    }

    /// Commands from now on are run as root by `sudo`.
    pub(crate) fn use_sudo(&mut self) {
        self.root = Some("sudo -n");
    }

    /// Runs a script of `sh`, and gives what it writes.
    pub(crate) async fn run(&self, doing: &str, script: &str, input: Input) -> Result<String, CtlError> {
        let output = self.output(script, input).await.map_err(|e| self.not_run(&e))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(doing, &output))
    }

    async fn output(&self, script: &str, input: Input) -> io::Result<Output> {
        let words = format!("{} sh -c {}", self.root.unwrap_or(""), quoted(script));
        let mut command = self.command(&[]);
        command.arg("--").arg(&self.target).arg(words.trim_start());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let text = match input {
            Input::Nothing => {
                command.stdin(Stdio::null());
                None
            }
            Input::File(path) => {
                command.stdin(File::open(path)?);
                None
            }
            Input::Text(text) => {
                command.stdin(Stdio::piped());
                Some(text)
            }
        };
        let mut child = command.spawn()?;
        if let (Some(text), Some(mut stdin)) = (text, child.stdin.take()) {
            // A command that ended without reading says more by its own error.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    }

    fn command(&self, first: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(first).args(&self.options);
        command
    }

    /// Ends the kept connection. It would end by itself a minute later.
    pub(crate) async fn close(&self) {
        let mut command = self.command(&["-O", "exit"]);
        command.arg("--").arg(&self.target);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    }

    fn not_run(&self, error: &io::Error) -> CtlError {
        let next = "install it (openssh-client), or add the host without: hosts add NAME --csr FILE --address ADDRESS";
        let body = refused(format!("{} is not added: cannot run ssh", self.name), next);
        answer(body.about(self.name.clone()).cause("what", error.to_string()))
    }

    fn failed(&self, doing: &str, output: &Output) -> CtlError {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        let (message, next) = if output.status.code() == Some(CONNECTION) {
            (format!("{} is not added: ssh cannot connect", self.name), connecting(&text, &self.target))
        } else {
            let next = "mend that on the host and run it again: what is done is not done twice".to_owned();
            (format!("{} is not added: {doing} failed on it", self.name), next)
        };
        let mut body = refused(message, next).about(self.name.clone());
        if output.status.code() == Some(CONNECTION) {
            // Nobody was reached, which is another end than a host that refuses.
            body.code = deployd_api::error::ErrorCode::AgentUnreachable;
        }
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            body = body.cause("what", (*line).to_owned());
        }
        if lines.is_empty() {
            body = body.cause("what", output.status.to_string());
        }
        answer(body.cause("where", format!("{}, ssh {}", self.name, self.target)))
    }
}

/// What helps against an error of ssh.
fn connecting(text: &str, target: &str) -> String {
    if text.contains("Host key verification failed") {
        format!(
            "look at the host's key once: ssh {target}; where no person is: --ssh-option StrictHostKeyChecking=accept-new"
        )
    } else if text.contains("Permission denied") {
        format!("let your key in: ssh-copy-id {target}; another key: --ssh-option IdentityFile=FILE")
    } else {
        format!("try it by hand: ssh {target} true")
    }
}

/// One word of a shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted("echo 'a b'; $x"), "'echo '\\''a b'\\''; $x'");
    }
}
