//! `cargo xtask docs`: pages of docs/reference that are made from the code, so that they cannot drift; and whether the
//! hand-written ones name all that there is.

mod reference;

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};
use deployd_api::error::ErrorCode;
use deployd_api::exit::ExitCode;
use deployd_api::ids::{Digest, Label, Timestamp};
use deployd_api::release::{Origin, ReleaseDocument, ReleaseState};
use deployd_api::schema;
use deployd_core::state::{Release, Tag};
use deployd_core::units::{self, Activation};
use deployd_tests::package::repository;

const NOTICE: &str = "<!-- Made by `cargo xtask docs` from the code: change that, not this. -->\n";

/// The example of docs/reference/units.md.
const EXAMPLE: &str = r#"app = "shop"

[env]
POOL_SIZE = "20"

[processes.web]
exec = "bin/shop start"
instances = 2
memory = "1gb"

[processes.worker]
exec = "bin/shop work"
overlap = false
writable = ["tmp"]

[listen.http]
address = ":8080"

[checks.health]
path = "/health"
"#;

/// Writes every page, or compares it.
pub(crate) fn docs(check: bool) -> Result<()> {
    let pages = [
        ("errors.md", errors()),
        ("units.md", example_units()?),
        ("openapi.json", pretty(&schema::openapi())),
        ("release.schema.json", pretty(&schema::release_document())),
    ];
    for (name, text) in pages {
        let path = repository().join("docs/reference").join(name);
        if check {
            let now = fs::read_to_string(&path).unwrap_or_default();
            if now != text {
                bail!("docs/reference/{name} is out of date: run `cargo xtask docs` and commit it");
            }
        } else {
            fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
    }
    if check { reference::check() } else { Ok(()) }
}

fn pretty(document: &serde_json::Value) -> String {
    format!("{document:#}\n")
}

fn errors() -> String {
    let mut out = format!("{NOTICE}# Error codes and exit codes\n\n## Exit codes of `deployd-ctl`\n\n");
    out.push_str("An API: scripts and CI may depend on them.\n\n| exit | meaning |\n|---|---|\n");
    for (code, meaning) in ExitCode::ALL {
        let _ = writeln!(out, "| {} | {meaning} |", *code as u8);
    }
    out.push_str(
        "\n## Error codes\n\nThe body of every refused call, and of a deployment that did not end as asked: \
         `{code, message, subject, causes: [[heading, text]], hint, retryable}`; `subject` is the name of what it is \
         about (a check, an instance), if it has one. `hint` says what to do here and now and is never empty; *next* \
         is what there is to do in general.\n\n\
         | code | meaning | next | HTTP | exit | retry may help |\n|---|---|---|---|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let retry = if code.retryable() { "yes" } else { "no" };
        let (status, exit) = (code.http_status(), code.exit() as u8);
        let _ = writeln!(
            out,
            "| `{code}` | {} | {} | {status} | {exit} | {retry} |",
            code.meaning(),
            code.next().replace('|', "\\|")
        );
    }
    out
}

fn example_units() -> Result<String> {
    let spec =
        deployd_api::spec::parse(EXAMPLE).map_err(|e| anyhow::anyhow!("the example is wrong: {:?}", e.0))?;
    let document = ReleaseDocument::new(Digest::of(b"an artifact"), spec);
    let release = Release {
        label: Label::FIRST,
        digest: document.digest(),
        document,
        earlier: vec![],
        tree: "/var/lib/deployd/apps/shop/releases/v1-0a1b2c3d".to_owned(),
        runtime: "/var/lib/deployd/runtime/4e5f6a7b".to_owned(),
        beam: false,
        epmd: None,
        state: ReleaseState::Live,
        created: Timestamp(0),
        origin: Origin::default(),
        changed: Vec::new(),
        failure: None,
        size: 0,
        runs: 1,
        base_port: 0,
        secrets: None,
    };
    let of = Activation { tag: Tag { label: Label::FIRST, run: 1 }, release: &release };
    let mut out =
        format!("{NOTICE}# The units that deployd writes\n\nFor this spec:\n\n```toml\n{EXAMPLE}```\n");
    out.push_str(
        "\nNothing in them needs the agent: PID 1 starts, restarts and boots the app from them alone.\n",
    );
    let mut files = of.files("web1", None, &|_| true);
    files.push(units::slice_file(&of.spec().app));
    files.push(of.target_file());
    for file in files {
        let _ = write!(out, "\n## `{}`\n\n```ini\n{}```\n", file.path, file.content);
    }
    Ok(out)
}
