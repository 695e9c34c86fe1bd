//! Rust: `Cargo.toml` with a program.

use super::draft::Draft;
use super::health;
use super::sources::Sources;

/// Folders that programs read while they run.
const DATA: [&str; 6] = ["assets", "migrations", "public", "static", "templates", "views"];

pub(super) fn read(sources: &Sources) -> Option<Draft> {
    let cargo: toml::Table = toml::from_str(&sources.text("Cargo.toml")?).ok()?;
    let mut draft = Draft::new("a Rust project");
    let program = program(sources, &cargo);
    let package = cargo.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
    draft.app = package.map(str::to_owned).or_else(|| program.clone());
    let Some(program) = program else {
        draft.notes.push("no program was found in Cargo.toml: fill in [build] and exec".to_owned());
        return Some(draft);
    };
    let mut copy = format!("cp target/release/{program} rel/bin/");
    let data: Vec<&str> = DATA.into_iter().filter(|folder| sources.has(folder)).collect();
    if !data.is_empty() {
        copy += &format!(" && cp -R {} rel/", data.join(" "));
    }
    let line = format!("cargo build --release && rm -rf rel && mkdir -p rel/bin && {copy}");
    draft.build = Some((line, "rel".to_owned()));
    draft.run("web", format!("bin/{program}"));
    draft.check = Some(health::find(sources, &["rs"]));
    draft.notes.push("it has to listen on the port in $PORT, or take the socket of LISTEN_FDS".to_owned());
    Some(draft)
}

/// The program: `default-run`, the only `[[bin]]`, `src/main.rs`, or that of the first member that has one.
fn program(sources: &Sources, cargo: &toml::Table) -> Option<String> {
    of_package(sources, "", cargo).or_else(|| {
        let members = cargo.get("workspace")?.get("members")?.as_array()?;
        members.iter().filter_map(toml::Value::as_str).find_map(|member| {
            let folder = format!("{}/", member.trim_end_matches('/'));
            let member: toml::Table = toml::from_str(&sources.text(&format!("{folder}Cargo.toml"))?).ok()?;
            of_package(sources, &folder, &member)
        })
    })
}

fn of_package(sources: &Sources, folder: &str, cargo: &toml::Table) -> Option<String> {
    let package = cargo.get("package")?;
    let text = |value: Option<&toml::Value>| value.and_then(toml::Value::as_str).map(str::to_owned);
    let default = text(package.get("default-run"));
    let listed =
        cargo.get("bin").and_then(toml::Value::as_array).and_then(|bins| text(bins.first()?.get("name")));
    let main = sources.has(&format!("{folder}src/main.rs")).then(|| text(package.get("name"))).flatten();
    default.or(listed).or(main)
}
