//! Elixir: `mix.exs`, read as text. It is code, and code of the project is not run here.

use super::draft::{Check, Draft, Migrate};
use super::health;
use super::sources::Sources;

/// Variables that are no secrets although the sources insist on them.
const PLAIN: [&str; 6] = ["PORT", "PHX_HOST", "HOST", "PHX_SERVER", "POOL_SIZE", "MIX_ENV"];
/// What stands in the sources of a program that listens by itself.
const LISTENS: [&str; 4] = ["\"PORT\"", "gen_tcp.listen", "LISTEN_FDS", ":socket.bind"];
/// Parts of names that secrets have.
const SECRET_WORDS: [&str; 8] =
    ["SECRET", "KEY", "TOKEN", "PASSWORD", "DATABASE_URL", "DSN", "SALT", "CREDENTIAL"];

pub(super) fn read(sources: &Sources) -> Option<Draft> {
    let mix = without_comments(&sources.text("mix.exs")?);
    let has = |dependency: &str| mix.contains(&format!("{{:{dependency},"));
    let (phoenix, ecto) = (has("phoenix"), has("ecto_sql") || has("ecto"));
    let with: Vec<&str> =
        [(phoenix, "Phoenix"), (ecto, "Ecto")].into_iter().filter_map(|(h, n)| h.then_some(n)).collect();
    let kind = if mix.contains("apps_path:") { "an Elixir umbrella project" } else { "an Elixir project" };
    let project =
        if with.is_empty() { kind.to_owned() } else { format!("{kind} with {}", with.join(" and ")) };
    let mut draft = Draft::new(&project);
    let app = atom_after(&mix, "app:");
    let named = release_name(&mix);
    let name = named.or(app).map_or_else(|| sources.folder_name().replace('-', "_"), str::to_owned);
    if named.is_none() && app.is_none() {
        draft.notes.push("mix.exs names no release: mend the name in [build] and exec".to_owned());
    }
    draft.app = Some(name.clone());
    let assets = if mix.contains("\"assets.deploy\":") { "assets.deploy, " } else { "" };
    let which = if named.is_some() { format!("release {name}") } else { "release".to_owned() };
    let command = format!("MIX_ENV=prod mix do deps.get, {assets}{which} --overwrite");
    draft.build = Some((command, format!("_build/prod/rel/{name}")));
    draft.run("web", format!("bin/{name} start"));
    draft.check = check(sources, &mix, phoenix);
    draft.migrate = migrate(sources, &name, ecto);
    read_runtime(sources, &mut draft);
    Some(draft)
}

/// What `config/runtime.exs` insists on.
fn read_runtime(sources: &Sources, draft: &mut Draft) {
    let Some(runtime) = sources.text("config/runtime.exs").map(|text| without_comments(&text)) else {
        return;
    };
    if runtime.contains("\"PHX_SERVER\"") {
        draft.set_env("PHX_SERVER", "true");
    }
    if runtime.contains("\"PHX_HOST\"") {
        draft.notes.push("set PHX_HOST in [env] to the name under which people reach it".to_owned());
    }
    let mut plain = Vec::new();
    for name in insisted(&runtime).into_iter().filter(|name| !PLAIN.contains(name)) {
        if SECRET_WORDS.iter().any(|word| name.contains(word)) {
            draft.secrets.push(name.to_owned());
        } else {
            plain.push(name);
        }
    }
    if !plain.is_empty() {
        draft.notes.push(format!("config/runtime.exs also needs in [env]: {}", plain.join(", ")));
    }
}

/// `System.fetch_env!("A")` and `System.get_env("B") || raise …`, in order, each once.
fn insisted(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (call, needs_raise) in [("System.fetch_env!(\"", false), ("System.get_env(\"", true)] {
        for part in text.split(call).skip(1) {
            let Some((name, rest)) = part.split_once('"') else { continue };
            let rest = rest.trim_start_matches(')').trim_start();
            let raises = rest.strip_prefix("||").is_some_and(|rest| rest.trim_start().starts_with("raise"));
            let is_name = !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if is_name && (!needs_raise || raises) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn check(sources: &Sources, mix: &str, phoenix: bool) -> Option<Check> {
    let router = sources.search(&["ex"], |file, text| {
        (file.ends_with("router.ex") && text.contains(":router")).then(|| health::find_in_router(file, text))
    });
    match router {
        Some(check) => Some(check),
        None if phoenix => Some(Check::Root),
        None => {
            let depends =
                ["bandit", "plug_cowboy", "cowboy"].iter().any(|d| mix.contains(&format!("{{:{d},")));
            let listens = |text: &str| LISTENS.iter().any(|word| text.contains(word)).then_some(());
            let serves = depends || sources.search(&["ex", "exs"], |_, text| listens(text)).is_some();
            serves.then(|| health::find(sources, &["ex"]))
        }
    }
}

/// The release command: of the module that Phoenix makes for it, or of one that looks like it.
fn migrate(sources: &Sources, name: &str, ecto: bool) -> Option<Migrate> {
    let module = sources.search(&["ex"], |file, text| {
        let is_release = file.ends_with("/release.ex") && text.contains("def migrate");
        let module = text.split("defmodule ").nth(1)?.split_whitespace().next()?;
        is_release.then(|| module.to_owned())
    });
    match module {
        Some(module) => Some(Migrate::Command(format!("bin/{name} eval {module}.migrate"))),
        None => ecto.then(|| Migrate::Later {
            command: format!("bin/{name} eval {}.Release.migrate", camel(name)),
            needs: "needs a module that migrates: mix phx.gen.release makes one".to_owned(),
        }),
    }
}

/// `:shop` after `app:`.
fn atom_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split(key).nth(1)?.trim_start().strip_prefix(':')?;
    Some(identifier(rest)).filter(|name| !name.is_empty())
}

/// The first name in `releases: [NAME: …]`, or in the function that `releases:` calls.
fn release_name(text: &str) -> Option<&str> {
    let inline = text.split("releases:").nth(1)?.trim_start().strip_prefix('[');
    let called = || {
        let function = text.split("defp releases").nth(1).or_else(|| text.split("def releases").nth(1))?;
        function.split_once('[').map(|(_, list)| list)
    };
    let body = inline.or_else(called)?;
    let name = identifier(body.trim_start());
    let after = body.trim_start().get(name.len()..)?;
    (!name.is_empty() && after.starts_with(':')).then_some(name)
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// `my_shop` → `MyShop`.
fn camel(name: &str) -> String {
    let capital = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_ascii_uppercase() + rest
    };
    name.split('_').map(capital).collect()
}

/// Lines that are comments are no code. A `#` inside a line may be a string's.
fn without_comments(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    lines.join("\n")
}
