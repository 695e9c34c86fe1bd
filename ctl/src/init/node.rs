//! Node: `package.json`.

use serde_json::Value;

use super::draft::Draft;
use super::health;
use super::sources::Sources;

/// Lock files, and what installs by them.
const INSTALL: [(&str, &str, &str); 3] = [
    ("pnpm-lock.yaml", "pnpm install --frozen-lockfile", "pnpm run build"),
    ("yarn.lock", "yarn install --frozen-lockfile", "yarn run build"),
    ("package-lock.json", "npm ci", "npm run build"),
];

/// Programs that are run when `package.json` names none.
const MAIN: [&str; 6] = ["server.js", "index.js", "app.js", "main.js", "server.mjs", "index.mjs"];

/// A program without a `package.json`.
pub(super) fn read_script(sources: &Sources) -> Option<Draft> {
    MAIN.iter().any(|file| sources.has(file)).then(|| read_package(sources, &Value::Null))
}

pub(super) fn read(sources: &Sources) -> Option<Draft> {
    let package: Value = serde_json::from_str(&sources.text("package.json")?).ok()?;
    Some(read_package(sources, &package))
}

fn read_package(sources: &Sources, package: &Value) -> Draft {
    let text =
        |path: &str| package.pointer(path).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let mut draft = Draft::new("a Node project");
    draft.app = text("/name").map(|name| name.rsplit('/').next().unwrap_or(name).to_owned());
    let listed = |key: &str| package.get(key).and_then(Value::as_object).is_some_and(|list| !list.is_empty());
    draft.build = build(sources, listed("dependencies") || listed("devDependencies"), text("/scripts/build"));
    draft.set_env("NODE_ENV", "production");
    let exec = match (text("/scripts/start"), text("/main")) {
        (Some(start), _) => started(&mut draft, start),
        (None, Some(main)) => Some(format!("node {main}")),
        (None, None) => MAIN.into_iter().find(|file| sources.has(file)).map(|file| format!("node {file}")),
    };
    match exec {
        Some(exec) => drop(draft.run("web", exec)),
        None => draft.notes.push("package.json has no start script: fill in exec".to_owned()),
    }
    let engine = text("/engines/node").map(|version| format!(" {version}")).unwrap_or_default();
    draft.notes.push(format!("node{engine} has to be on the hosts: apt install nodejs"));
    draft.check = Some(health::find(sources, &["js", "mjs", "cjs", "ts"]));
    draft
}

/// The start script without what npm does for it: variables in front, and programs of `node_modules`.
fn started(draft: &mut Draft, start: &str) -> Option<String> {
    let mut rest = start.trim();
    while let Some((name, value)) = rest.split_whitespace().next().and_then(|word| word.split_once('=')) {
        let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name || name.is_empty() || value.contains(['$', '"', '\'']) {
            break;
        }
        draft.set_env(name, value);
        rest = rest[name.len() + 1 + value.len()..].trim_start();
    }
    let program = rest.split_whitespace().next()?;
    let of_host = ["node", "npm", "npx", "yarn", "pnpm", "sh", "bash", "bun", "deno"];
    if of_host.contains(&program) || program.contains('/') || rest.contains("&&") {
        return Some(rest.to_owned());
    }
    Some(format!("node_modules/.bin/{rest}"))
}

fn build(sources: &Sources, depends: bool, script: Option<&str>) -> Option<(String, String)> {
    let lock = INSTALL.iter().find(|(lock, ..)| sources.has(lock));
    let (_, install, build) = lock.copied().unwrap_or(("", "npm install", "npm run build"));
    let steps: Vec<&str> = [(depends, install), (script.is_some(), build)]
        .into_iter()
        .filter_map(|(is, step)| is.then_some(step))
        .collect();
    (!steps.is_empty()).then(|| (steps.join(" && "), ".".to_owned()))
}
