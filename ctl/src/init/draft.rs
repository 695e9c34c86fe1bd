//! What `init` found, and the `deployd.toml` that says it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use deployd_api::spec::split_words;

/// The port of an app that names none.
pub(super) const PORT: u16 = 8080;
/// Column of the comments.
const COMMENT_COLUMN: usize = 40;

/// A `deployd.toml` in the making.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// The project in words: `an Elixir project with Phoenix`.
    pub(crate) project: String,
    pub(crate) app: Option<String>,
    /// The groups of the fleet; `None` without a `fleet.toml`.
    pub(crate) groups: Option<Vec<String>>,
    /// The line, and where its result is.
    pub(crate) build: Option<(String, String)>,
    pub(crate) env: BTreeMap<String, String>,
    /// Names that the sources cannot do without and that look like secrets.
    pub(crate) secrets: Vec<String>,
    pub(crate) processes: Vec<Process>,
    pub(crate) port: Option<u16>,
    pub(crate) check: Option<Check>,
    pub(crate) migrate: Option<Migrate>,
    /// Keys of `[deploy]`, as TOML.
    pub(crate) deploy: Vec<(&'static str, String)>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

/// A process of the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) exec: String,
    /// More keys, as TOML.
    pub(crate) keys: Vec<(&'static str, String)>,
}

/// How the health of the app is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    /// A path, and where it was found.
    Path { path: String, from: String },
    /// `/`: a redirect is good, too.
    Root,
    /// Nothing answers on `/`.
    Tcp,
}

/// What runs before hosts switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Migrate {
    Command(String),
    /// A command that needs something first.
    Later {
        command: String,
        needs: String,
    },
}

impl Draft {
    pub(super) fn new(project: &str) -> Self {
        Self { project: project.to_owned(), ..Self::default() }
    }

    /// Whether nothing was recognised.
    pub(crate) fn is_unknown(&self) -> bool {
        self.project == "unknown"
    }

    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Adds a process, or gives an existing one another command.
    pub(super) fn run(&mut self, name: &str, exec: impl Into<String>) -> &mut Process {
        let at = self.processes.iter().position(|p| p.name == name).unwrap_or_else(|| {
            let process = Process { name: name.to_owned(), exec: String::new(), keys: Vec::new() };
            self.processes.push(process);
            self.processes.len() - 1
        });
        self.processes[at].exec = exec.into();
        &mut self.processes[at]
    }

    /// The port that the app listens on.
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(PORT)
    }

    /// The file.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        let app = self.app.as_deref().unwrap_or("app");
        let _ = writeln!(out, "# deployd.toml: how {app} runs. All keys: deployd-ctl help spec");
        let _ = writeln!(out, "app = {}", quoted(app));
        self.render_hosts(&mut out);
        if !self.secrets.is_empty() {
            let names: Vec<String> = self.secrets.iter().map(|name| quoted(name)).collect();
            let example = self.secrets.first().map_or("NAME", String::as_str);
            line(
                &mut out,
                &format!("secrets = [{}]", names.join(", ")),
                &format!("set before the first push: deployd-ctl secrets set {example}"),
            );
        }
        if let Some((command, artifact)) = &self.build {
            out.push_str("\n[build]\n");
            line(&mut out, &format!("command = {}", quoted(command)), "run by push (--no-build skips it)");
            line(&mut out, &format!("artifact = {}", quoted(artifact)), "a folder or a .tar(.gz|.zst)");
        }
        self.render_env(&mut out);
        self.render_processes(&mut out);
        self.render_check(&mut out);
        self.render_migrate(&mut out);
        if !self.deploy.is_empty() {
            out.push_str("\n[deploy]\n");
            self.deploy.iter().for_each(|(key, value)| line(&mut out, &format!("{key} = {value}"), ""));
        }
        out
    }

    fn render_hosts(&self, out: &mut String) {
        let Some(groups) = self.groups.as_ref().filter(|groups| groups.len() > 1) else { return };
        let first = groups.iter().find(|group| *group == "web").or(groups.first());
        let Some(group) = first else { return };
        let comment = format!("a group or label of fleet.toml: {}", groups.join(", "));
        line(out, &format!("hosts = {}", quoted(group)), &comment);
    }

    fn render_env(&self, out: &mut String) {
        if self.env.is_empty() && !self.listens() {
            return;
        }
        out.push_str("\n[env]\n");
        if self.listens() {
            line(out, &format!("PORT = \"{}\"", self.port()), "the port of [listen.http]");
        }
        for (name, value) in self.env.iter().filter(|(name, _)| *name != "PORT") {
            line(out, &format!("{name} = {}", quoted(value)), "");
        }
    }

    fn render_processes(&self, out: &mut String) {
        let unknown = [Process { name: "web".to_owned(), exec: String::new(), keys: Vec::new() }];
        let processes = if self.processes.is_empty() { &unknown[..] } else { &self.processes };
        for (at, process) in processes.iter().enumerate() {
            let _ = writeln!(out, "\n[processes.{}]", process.name);
            let comment = match at {
                0 if process.exec.is_empty() => {
                    "FILL IN the command that runs it: \"bin/shop start\", \"node app.js\""
                }
                0 => "words, no shell; the current folder is the release",
                _ => "",
            };
            line(out, &format!("exec = {}", words(&process.exec)), comment);
            process.keys.iter().for_each(|(key, value)| line(out, &format!("{key} = {value}"), ""));
        }
        if self.listens() {
            let _ = writeln!(out, "\n[listen.http]");
            line(out, &format!("address = \":{}\"", self.port()), "the app finds the port in $PORT");
            let web = processes.iter().any(|p| p.name == "web") || processes.len() == 1;
            if let (false, Some(first)) = (web, processes.first()) {
                line(out, &format!("process = {}", quoted(&first.name)), "");
            }
        }
    }

    /// Whether it has a listener: all but those that are known to be workers.
    fn listens(&self) -> bool {
        self.check.is_some() || self.port.is_some() || self.processes.is_empty()
    }

    fn render_check(&self, out: &mut String) {
        if !self.listens() {
            return;
        }
        out.push_str("\n[checks.health]\n");
        match self.check.as_ref().unwrap_or(&Check::Root) {
            Check::Path { path, from } => line(out, &format!("path = {}", quoted(path)), from),
            Check::Root => {
                line(out, "path = \"/\"", "better: a path that says whether the app is well");
                line(out, "expect.status = \"200-399\"", "a redirect to a login is well, too");
            }
            Check::Tcp => {
                line(out, "kind = \"tcp\"", "better: path = \"/health\", once the app has one");
            }
        }
    }

    fn render_migrate(&self, out: &mut String) {
        match &self.migrate {
            Some(Migrate::Command(command)) => {
                out.push_str("\n[migrate]\n");
                line(
                    out,
                    &format!("command = {}", words(command)),
                    "once, on one host, before any host switches",
                );
            }
            Some(Migrate::Later { command, needs }) => {
                let _ = writeln!(out, "\n# [migrate]    # {needs}\n# command = {}", words(command));
            }
            None => {}
        }
    }
}

/// One line, its comment in a column.
fn line(out: &mut String, text: &str, comment: &str) {
    if comment.is_empty() {
        let _ = writeln!(out, "{text}");
    } else {
        let _ = writeln!(out, "{text:<COMMENT_COLUMN$} # {comment}");
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    let safe = !text.contains(|c: char| c.is_control() || c == '"' || c == '\\');
    if safe { format!("\"{text}\"") } else { toml::Value::String(text.to_owned()).to_string() }
}

/// A command line: as it is, if its words are plain; for a shell if it was written for one.
fn words(command: &str) -> String {
    let for_shell = ["&&", "||", ";", "|", ">", "<", "$", "`", "*"].iter().any(|sign| command.contains(sign));
    if for_shell || (!command.is_empty() && split_words(command).is_err()) {
        return format!("[\"sh\", \"-c\", {}]", quoted(command));
    }
    quoted(command)
}
