//! Secrets on a real host: sealed, opened by PID 1, and nowhere to be read by others.

use anyhow::{Context as _, Result, ensure};
use deployd_tests::ask::Asker;
use deployd_tests::image::Suite;
use deployd_tests::site::{Site, shop};

/// What must never be seen outside of the app.
const VALUE: &str = "hunter2-v1";
const SECOND: &str = "hunter2-v2";
const TABLE: &str = "[secrets]\nrequired = [\"TOKEN\"]\nfiles = [\"KEY\"]\n";

#[test]
fn a_release_has_its_secrets_without_the_agent_and_nobody_else_has() -> Result<()> {
    on(Suite::Bookworm)
}

#[test]
fn a_release_has_its_secrets_on_trixie() -> Result<()> {
    on(Suite::Trixie)
}

fn on(suite: Suite) -> Result<()> {
    let site = Site::boot(suite, "web1")?;
    let spec = site.spec("shop", &shop(&[], "monitor = \"0s\"", TABLE))?;
    let v1 = site.artifact("v1")?;
    site.ctl(&format!("push {v1} -c {spec}"))?.expect(3).context("TOKEN is not set")?;
    set(&site, "TOKEN", VALUE)?;
    site.host.write_file("/root/key.pem", "line 1\nline 2\n", 0o600)?;
    site.ctl("secrets set -a shop KEY=@/root/key.pem")?.expect(0)?;
    site.deploy(&v1, &spec)?;
    require_env(&site, "TOKEN", VALUE)?;
    require_file(&site)?;
    require_hidden(&site, VALUE)?;
    require_history(&site, &spec)?;
    require_life_without_agent(&site)?;
    site.require_silent_doctor()?;
    require_gone(&site)?;
    site.host.finish()
}

fn set(site: &Site, name: &str, value: &str) -> Result<()> {
    let line = format!("printf %s {value} | deployd-ctl --local secrets set -a shop {name}=-");
    let said = site.host.ok(&line)?;
    ensure!(said.contains("the next push uses it"), "{said}");
    Ok(())
}

fn require_env(site: &Site, name: &str, value: &str) -> Result<()> {
    let target = "127.0.0.1:8080".parse()?;
    let asker = Asker { from: site.host.netns(), source: None, target };
    let seen = asker.ask(&format!("/env?k={name}"))?.body;
    ensure!(seen.trim() == value, "{name} is {seen:?} for the app");
    Ok(())
}

/// A file, and no variable; for commands, too.
fn require_file(site: &Site) -> Result<()> {
    let words = "cat $CREDENTIALS_DIRECTORY/KEY; echo -n ${KEY-none}";
    let seen = site.ctl(&format!("exec -a shop -- /bin/sh -c '{words}'"))?.expect(0)?;
    ensure!(seen.stdout == "line 1\nline 2\nnone", "{:?}", seen.stdout);
    Ok(())
}

/// Neither units, bus, journal, database, files that others read, nor another user's `ps`.
fn require_hidden(site: &Site, value: &str) -> Result<()> {
    let encoded = site.host.ok(&format!("printf %s {value} | base64 -w0"))?;
    for text in [value, encoded.trim()] {
        for look in [
            "grep -rlF -e TEXT /etc/systemd /run/systemd/transient /run/deployd /var/lib/deployd",
            "systemctl show 'deployd-*' | grep -F -e TEXT",
            "journalctl --no-pager -o export | grep -aF -e TEXT | grep -av _CMDLINE",
            "ps axww -o args | grep -F -e TEXT | grep -v grep",
        ] {
            let found = site.host.exec(&look.replace("TEXT", text))?;
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            ensure!(found.trim().is_empty(), "`{look}` found {text}: {found}");
        }
    }
    let modes = site
        .host
        .ok("stat -c '%a %U' /var/lib/deployd/apps/shop/secrets /var/lib/deployd/apps/shop/secrets/*")?;
    let private = |line: &str| ["700 root", "600 root"].contains(&line.trim());
    ensure!(modes.lines().all(private), "{modes}");
    Ok(())
}

/// A new value is staged until the next push, and a rollback brings the old one back.
fn require_history(site: &Site, spec: &str) -> Result<()> {
    set(site, "TOKEN", SECOND)?;
    require_env(site, "TOKEN", VALUE).context("what is set is staged only")?;
    let listed = site.ctl("secrets list -a shop")?.expect(0)?.stdout;
    ensure!(listed.contains("staged") && listed.contains("live"), "{listed}");
    site.deploy("/srv/v1", spec).context("new values of the same files are a new release")?;
    require_env(site, "TOKEN", SECOND)?;
    site.ctl("rollback -a shop --wait committed")?.expect(0)?;
    require_env(site, "TOKEN", VALUE)?;
    let refused = site.ctl("secrets set -a shop A-B=x")?.expect(2)?;
    ensure!(!refused.stderr.contains("=x"), "{}", refused.stderr);
    Ok(())
}

/// Restart and reboot: PID 1 opens them.
fn require_life_without_agent(site: &Site) -> Result<()> {
    site.host
        .ok("systemctl stop deployd.service deployd.socket 2>/dev/null || systemctl stop deployd.service")?;
    let unit =
        site.host.ok("systemctl list-units --plain --no-legend 'deployd-shop-web-*' | cut -d' ' -f1")?;
    site.host.ok(&format!("systemctl restart {}", unit.trim()))?;
    require_env(site, "TOKEN", VALUE)?;
    site.host.ok("systemctl start deployd.service")?;
    site.wait_for_agent()
}

fn require_gone(site: &Site) -> Result<()> {
    site.ctl("remove -a shop --yes")?.expect(0)?;
    site.host.ok("test ! -e /var/lib/deployd/apps/shop/secrets")?;
    let listed = site.ctl("secrets list -a shop")?.expect(0)?.stdout;
    ensure!(listed.contains("has no secrets"), "{listed}");
    Ok(())
}
