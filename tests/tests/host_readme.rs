//! What the README tells a new user to type, typed: its spec, its commands, in its order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::effort::Effort;
use deployd_tests::image::Suite;
use deployd_tests::package::repository;
use deployd_tests::site::Site;

const FOLDER: &str = "/root/hello";
const SECTION: &str = "## Deploy your own folder to one host";
/// How long a command that follows is watched.
const FOLLOWED: Duration = Duration::from_secs(2);

#[test]
fn the_readme_is_true() -> Result<()> {
    let mut suites = Effort::of_this_run().suites(2).into_iter();
    suites.try_for_each(|suite| walk(suite).with_context(|| suite.name()))
}

fn walk(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let readme = std::fs::read_to_string(repository().join("README.md"))?;
    let (_, section) = readme.split_once(SECTION).context("the section is gone")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let toml = blocks(section, "toml");
    let [spec] = toml.as_slice() else { anyhow::bail!("not one spec: {toml:?}") };
    site.host.push_dir(&repository().join("vagrant/hello/app"), &format!("{FOLDER}/app"))?;
    site.host.write_file(&format!("{FOLDER}/deployd.toml"), spec, 0o644)?;

    let [install, push, rest] = blocks(section, "sh").try_into().map_err(|b| anyhow::anyhow!("{b:?}"))?;
    // The packages are installed by the site, with dpkg.
    for line in commands(&install).filter(|line| !line.starts_with("apt-get ")) {
        site.host.ok(&line)?;
    }
    let asker = Asker { from: site.host.netns(), source: None, target: "127.0.0.1:8080".parse()? };
    for version in ["v1", "v2"] {
        let change = format!("sed -i 's/ v[0-9]/ {version}/' {FOLDER}/app/server.py");
        site.host.ok(&change)?;
        for line in commands(&push) {
            if line.starts_with("curl http://127.0.0.1:8080/") {
                let body = asker.ask("/")?.body;
                ensure!(body.contains(version), "{body}");
            } else {
                site.host.ok(&format!("cd {FOLDER} && {line}"))?;
            }
        }
    }
    for line in commands(&rest) {
        let follows = line.split_whitespace().any(|word| word == "-f");
        let line =
            if follows { format!("timeout {} {line}; [ $? -eq 124 ]", FOLLOWED.as_secs()) } else { line };
        site.host.ok(&format!("cd {FOLDER} && {line}"))?;
    }
    let body = asker.ask("/")?.body;
    ensure!(body.contains("v1"), "it went back to the release before, and {body} answers");
    site.host.finish()
}

/// The blocks of code in this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let rest = text.split(&fence).skip(1);
    rest.filter_map(|rest| rest.split_once("\n```")).map(|(block, _)| block.to_owned()).collect()
}

/// The commands of a block, as root types them.
fn commands(block: &str) -> impl Iterator<Item = String> {
    let lines = block.lines().map(|line| line.split("  #").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.trim_start_matches("sudo ").to_owned())
}
