//! The first hour of a new user: the commands of `docs/first-hour.md`, typed, on bare hosts, for an app that was not
//! prepared for anything.

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::fleet::{DOWNLOADS, Fleet, HostState, Shell};
use deployd_tests::image::Suite;
use deployd_tests::package::repository;
use deployd_tests::tutorial;

const PAGE: &str = "docs/first-hour.md";
const APP: &str = "signpost";
const PORT: u16 = 8080;
/// More, and it is no first hour.
const MOST_COMMANDS: usize = 15;
/// What the second version says.
const CHANGED: &str = "Hello again";

#[test]
fn a_new_user_gets_an_app_onto_three_hosts() -> Result<()> {
    let page = std::fs::read_to_string(repository().join(PAGE))?;
    let commands = tutorial::commands(&page)?;
    ensure!((5..=MOST_COMMANDS).contains(&commands.len()), "{} commands: {commands:#?}", commands.len());

    // The app is built where Elixir is, on the oldest Debian, and runs on all of them.
    let fleet = Fleet::bare(&[Suite::Bookworm, Suite::Bookworm, Suite::Trixie])?;
    for host in &fleet.hosts {
        ensure!(host.exec("command -v deployd")?.stdout.is_empty(), "{} is not bare", host.name());
    }
    let project = format!("/root/{APP}");
    fleet.ops.host.push_dir(&repository().join("tests/apps/signpost"), &project)?;
    fleet.ops.host.ok(&format!("rm -rf {project}/_build && test -d {DOWNLOADS}"))?;
    type_all(&fleet, &commands)?;
    require_shown_spec(&fleet, &page)?;
    require_second_version(&fleet)?;
    require_one_secret(&fleet)?;
    require_one_migration_each(&fleet)?;
    fleet.finish()
}

/// Types the commands one after the other, on a terminal. `cd` holds for those that follow.
fn type_all(fleet: &Fleet, commands: &[String]) -> Result<()> {
    let mut shell = Shell::default().within("/root");
    for (command, number) in commands.iter().zip(1..) {
        if let Some(folder) = command.strip_prefix("cd ") {
            shell = shell.within(folder);
            continue;
        }
        let called = fleet.ops.run_tty(&shell, command, "")?;
        eprintln!("{number:>2} $ {command}\n{}", called.stdout);
        ensure!(called.code == 0, "command {number}, `{command}`, exit {}: {}", called.code, called.stdout);
        if command == "deployd-ctl status" {
            ensure!(called.stdout.contains("live on 3 of 3 hosts"), "{}", called.stdout);
        }
    }
    Ok(())
}

/// The page shows the file that `init` wrote, but for its comments.
fn require_shown_spec(fleet: &Fleet, page: &str) -> Result<()> {
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    let blocks = tutorial::blocks(page)?;
    let shown = blocks.iter().find(|block| block.info == "toml").context("the page shows no spec")?;
    let written = fleet.ops.host.read_file(&format!("/root/{APP}/deployd.toml"))?;
    ensure!(plain(&shown.text) == plain(&written), "the page shows\n{}\ninit wrote\n{written}", shown.text);
    Ok(())
}

fn askers(fleet: &Fleet) -> Vec<Asker> {
    let asker = |host: &deployd_tests::machine::Host| {
        let target = (host.address().v4, PORT).into();
        Asker { from: fleet.client().clone(), source: None, target }
    };
    fleet.hosts.iter().map(asker).collect()
}

/// From outside, and by what ctl says to a program.
fn require_second_version(fleet: &Fleet) -> Result<()> {
    for (asker, host) in askers(fleet).iter().zip(&fleet.hosts) {
        ensure!(asker.ask("/")?.status == 302, "{} does not redirect", host.name());
        let body = asker.ask("/welcome")?.body;
        ensure!(body == format!("{CHANGED}, this is {}", host.name()), "{body}");
        let state = HostState::of(host, APP)?;
        ensure!(state.live.as_deref() == Some("v2"), "{state:?}");
    }
    let shell = Shell::default().within(&format!("/root/{APP}"));
    let status = fleet.ops.run_in(&shell, "deployd-ctl status -o json")?.expect(0)?.stdout;
    let rows = status.matches("\"live\": \"v2\"").count() + status.matches("\"live\":\"v2\"").count();
    ensure!(rows == 3, "status names {rows} hosts with v2: {status}");
    Ok(())
}

/// The same secret on all hosts; in no argument and no file that others may read.
fn require_one_secret(fleet: &Fleet) -> Result<()> {
    let prints: Vec<String> =
        askers(fleet).iter().map(|asker| Ok(asker.ask("/fingerprint")?.body)).collect::<Result<_>>()?;
    ensure!(prints.iter().all(|print| print == &prints[0] && print.len() == 64), "{prints:?}");
    for host in &fleet.hosts {
        // A file of a unit that names the variable would have its value beside it.
        let units = host.ok("grep -rl SECRET_KEY_BASE /etc/systemd/system /run/systemd || true")?;
        let with_value =
            host.ok("grep -rlE 'SECRET_KEY_BASE=.+' /etc/systemd/system /run/systemd || true")?;
        ensure!(with_value.is_empty(), "{}: {with_value} ({units})", host.name());
    }
    Ok(())
}

/// Each of the two releases migrated once, on one host.
fn require_one_migration_each(fleet: &Fleet) -> Result<()> {
    let notes = format!("cat /var/lib/deployd-apps/{APP}/migrations 2>/dev/null || true");
    let counts: Vec<usize> = fleet
        .hosts
        .iter()
        .map(|host| Ok(host.ok(&notes).context("notes of migrations")?.lines().count()))
        .collect::<Result<_>>()?;
    ensure!(counts == [2, 0, 0], "migrations a host: {counts:?}");
    Ok(())
}
