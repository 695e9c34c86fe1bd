//! What a command is on this host: its unit, its words, what is around it. Pure.

use deployd_api::command::{CommandKind, CommandRequest};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{Label, ProcessName};
use deployd_api::spec::Spec;
use deployd_core::state::{AppState, Tag};
use deployd_core::units::{Activation, Surroundings};

/// How the units of commands begin that end with their caller.
pub const EXEC_PREFIX: &str = "deployd-command-";
/// How the process is called in the unit of one that goes on: `logs --instance run-0a1b2c3d` shows it.
pub const RUN_PREFIX: &str = "run_";
/// Most bytes that the words may have together: the kernel's limit for all of argv and environment is 2 MiB.
const WORDS_MAX: usize = 128 << 10;

/// A command, ready to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// What becomes of it when its caller goes.
    pub kind: CommandKind,
    /// Its unit.
    pub unit: String,
    /// Its words, with the trampoline's.
    pub words: Vec<String>,
    /// The first of its own words, for the audit: the others may hold a secret.
    pub program: String,
    /// User, sandbox, environment, secrets.
    pub surroundings: Surroundings,
    /// `$TERM`.
    pub term: Option<String>,
    /// The process that it runs beside.
    pub process: ProcessName,
    /// The release that it is of.
    pub label: Label,
}

/// What of the host an order depends on.
#[derive(Debug, Clone, Default)]
pub struct Place<'a> {
    /// The host's name.
    pub host: &'a str,
    /// Its region.
    pub region: Option<&'a str>,
    /// The shell that is there.
    pub shell: &'a str,
    /// Names of the files in `bin` of the release.
    pub programs: &'a [String],
}

/// Makes the order, or says why not.
pub fn order(state: &AppState, request: &CommandRequest, place: &Place<'_>) -> Result<Order, ErrorBody> {
    let app = &state.app;
    let live = state.live.and_then(|tag| Some((tag, state.releases.get(&tag.label)?)));
    let Some((tag, release)) = live else {
        let message = format!("no release of {app} is live on this host, so there is nothing to run it in");
        let hint = format!("push first; deployd-ctl status -a {app} shows where it is live");
        return Err(ErrorBody::new(ErrorCode::WrongState, message, hint));
    };
    let process = process(&release.document.spec, request)?;
    let own = words(request, &release.document.spec, &process, release.beam, place);
    refuse_words(&own)?;
    let of = Activation { tag, release };
    Ok(Order {
        kind: request.kind,
        unit: unit(state, tag, request),
        words: of.beside(&own),
        program: own.first().cloned().unwrap_or_default(),
        surroundings: of.command_surroundings(&process, place.host, place.region),
        term: request.terminal.as_ref().map(|t| term(&t.term)),
        process,
        label: tag.label,
    })
}

fn unit(state: &AppState, tag: Tag, request: &CommandRequest) -> String {
    let (app, id) = (state.app.unit_part(), request.short_id());
    match request.kind {
        CommandKind::Run => format!("deployd-{app}-{RUN_PREFIX}{id}-{tag}@1.service"),
        CommandKind::Exec | CommandKind::Console => format!("{EXEC_PREFIX}{app}-{id}.service"),
    }
}

/// The one that was named, else `web`, else the first.
fn process(spec: &Spec, request: &CommandRequest) -> Result<ProcessName, ErrorBody> {
    let names = || spec.processes.keys();
    let found = match &request.process {
        Some(name) => names().find(|n| *n == name),
        None => names().find(|n| n.as_str() == "web").or_else(|| names().next()),
    };
    found.cloned().ok_or_else(|| {
        let asked = request.process.as_ref().map(ToString::to_string).unwrap_or_default();
        let all: Vec<&str> = names().map(ProcessName::as_str).collect();
        let message = format!("{} has no process {asked} on this host", spec.app);
        ErrorBody::new(ErrorCode::BadRequest, message, format!("its processes: {}", all.join(", ")))
            .about(asked)
    })
}

fn words(
    request: &CommandRequest,
    spec: &Spec,
    process: &ProcessName,
    beam: bool,
    place: &Place<'_>,
) -> Vec<String> {
    if !request.words.is_empty() {
        return request.words.clone();
    }
    if request.kind == CommandKind::Console
        && beam
        && let Some(program) = release_program(spec, process, place.programs)
    {
        return vec![program, "remote".to_owned()];
    }
    vec![place.shell.to_owned()]
}

/// The script of a Mix release that is started: `bin/shop` of `bin/shop start`, else one of the app's name, else
/// the only one.
fn release_program(spec: &Spec, process: &ProcessName, programs: &[String]) -> Option<String> {
    let started = spec.processes.get(process).and_then(|p| p.exec.first());
    let name = |path: &String| path.trim_start_matches("./").strip_prefix("bin/").map(str::to_owned);
    let started = started.and_then(name).filter(|n| programs.contains(n));
    let scripts = || programs.iter().filter(|n| !n.contains('.'));
    let app = || scripts().find(|n| n.replace('_', "-") == spec.app.as_str()).cloned();
    let only = || scripts().next().filter(|_| scripts().count() == 1).cloned();
    started.or_else(app).or_else(only).map(|name| format!("bin/{name}"))
}

fn refuse_words(words: &[String]) -> Result<(), ErrorBody> {
    let wrong = |what: &str, hint: &str| Err(ErrorBody::new(ErrorCode::BadRequest, what, hint));
    if words.iter().any(|word| word.contains('\0')) {
        return wrong("a word of the command holds a NUL byte", "no program can be given one: remove it");
    }
    if words.first().is_some_and(String::is_empty) {
        return wrong("the first word of the command is empty", "name a program: bin/shop, or one in PATH");
    }
    if words.iter().map(String::len).sum::<usize>() > WORDS_MAX {
        return wrong("the words of the command are longer than 128 KiB", "send it as input: -- CMD < FILE");
    }
    Ok(())
}

/// What may stand in `$TERM`.
fn term(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    let ok = (1..=64).contains(&text.len()) && text.bytes().all(plain);
    if ok { text.to_owned() } else { "dumb".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use deployd_api::command::{Size, Terminal};
    use deployd_api::ids::{DeploymentId, Digest, Timestamp};
    use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
    use deployd_core::secrets::{Form, Sealed};
    use deployd_core::state::Release;
    use deployd_core::units::Setting;

    use super::*;

    fn state(beam: bool) -> AppState {
        let text = "app = \"shop\"\n[env]\nA = \"b\"\n[processes.web]\nexec = \"bin/shop start\"\n\
                    [processes.jobs]\nexec = \"./bin/jobs\"\n[listen.http]\naddress = \":8080\"\nprocess = \"web\"\n";
        let spec = deployd_api::spec::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let secrets = BTreeMap::from([("TOKEN".parse().unwrap(), 2)]);
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        let release = Release {
            earlier: vec![],
            label: "v7".parse().unwrap(),
            digest: Digest::of(b"x"),
            secrets: Sealed::of("/apps", &spec.app, &secrets, Form::Sealed),
            document: ReleaseDocument { secrets, ..ReleaseDocument::new(Digest::of(b"a"), spec) },
            tree: "/apps/shop/releases/v7-0".to_owned(),
            runtime: "/rt".to_owned(),
            beam,
            epmd: None,
            state: ReleaseState::Live,
            created: Timestamp(0),
            origin: Origin::default(),
            changed: vec![],
            failure: None,
            size: 0,
            runs: 2,
            base_port: 0,
        };
        state.live = Some("v7.2".parse().unwrap());
        state.releases.insert(release.label, release);
        state
    }

    fn ask(kind: CommandKind, words: &[&str]) -> CommandRequest {
        let words = words.iter().map(|w| (*w).to_owned()).collect();
        let id = DeploymentId::from_random([7; 16]);
        CommandRequest { id, kind, words, process: None, terminal: None, by: String::new() }
    }

    fn make(state: &AppState, request: &CommandRequest) -> Result<Order, ErrorBody> {
        let programs = ["shop".to_owned(), "shop.bat".to_owned(), "jobs".to_owned()];
        order(state, request, &Place { host: "web1", region: None, shell: "/bin/bash", programs: &programs })
    }

    #[test]
    fn a_command_is_as_the_running_instance_is() {
        let made = make(&state(true), &ask(CommandKind::Exec, &["bin/shop", "remote"])).unwrap();
        let trampoline = ["/rt/deployd-exec", "run", "--"];
        assert_eq!(made.words, [&trampoline[..], &["/apps/shop/releases/v7-0/bin/shop", "remote"]].concat());
        let lines: String = made.surroundings.settings().iter().map(Setting::line).collect();
        for line in [
            "User=dpl-shop\n",
            "Slice=deployd-shop.slice\n",
            "Environment=RELEASE_NODE=shop-v7_2-1\n",
            "Environment=\"PORT=8080\"\n",
            "Environment=\"A=b\"\n",
            "LoadCredentialEncrypted=secrets:/apps/shop/secrets/",
            "NoNewPrivileges=yes\n",
        ] {
            assert!(lines.contains(line), "{line} is not in\n{lines}");
        }
    }

    #[test]
    fn without_words_it_is_a_shell_or_a_console() {
        let own = |beam, kind, process: Option<&str>| {
            let mut request = ask(kind, &[]);
            request.process = process.map(|p| p.parse().unwrap());
            make(&state(beam), &request).unwrap().words[3..].join(" ")
        };
        assert_eq!(own(true, CommandKind::Exec, None), "/bin/bash");
        assert_eq!(own(false, CommandKind::Console, None), "/bin/bash");
        let tree = "/apps/shop/releases/v7-0";
        assert_eq!(own(true, CommandKind::Console, None), format!("{tree}/bin/shop remote"));
        assert_eq!(own(true, CommandKind::Console, Some("jobs")), format!("{tree}/bin/jobs remote"));
    }

    #[test]
    fn units_say_what_they_are() {
        let unit = |kind| make(&state(false), &ask(kind, &["x"])).unwrap().unit;
        let (exec, run) = (unit(CommandKind::Exec), unit(CommandKind::Run));
        assert!(exec.starts_with("deployd-command-shop-"), "{exec}");
        assert!(run.starts_with("deployd-shop-run_") && run.ends_with("-v7.2@1.service"), "{run}");
        assert!(super::super::is_command(&exec) && super::super::is_command(&run));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let nothing = AppState::new("shop".parse().unwrap(), 50_000);
        let mut other = ask(CommandKind::Exec, &["x"]);
        other.process = Some("mail".parse().unwrap());
        let long = "x".repeat(WORDS_MAX + 1);
        for (state, request, said) in [
            (&nothing, ask(CommandKind::Exec, &["x"]), "no release of shop is live"),
            (&state(false), other, "no process mail"),
            (&state(false), ask(CommandKind::Exec, &["a\0b"]), "NUL"),
            (&state(false), ask(CommandKind::Exec, &[""]), "empty"),
            (&state(false), ask(CommandKind::Run, &[&long]), "128 KiB"),
        ] {
            let refusal = make(state, &request).unwrap_err();
            assert!(refusal.message.contains(said) && !refusal.hint.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn a_terminal_has_a_plain_name() {
        for (given, got) in
            [("xterm-256color", "xterm-256color"), ("", "dumb"), ("a\nb", "dumb"), ("%i", "dumb")]
        {
            let size = Size { rows: 1, columns: 1 };
            let mut request = ask(CommandKind::Exec, &["x"]);
            request.terminal = Some(Terminal { term: given.to_owned(), size });
            assert_eq!(make(&state(false), &request).unwrap().term.as_deref(), Some(got));
        }
    }
}
