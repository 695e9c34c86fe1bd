//! The ground that every other suite stands on: hosts boot, take the packages, reboot, crash, and leave nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use deployd_tests::deb;
use deployd_tests::image::{Image, Suite};
use deployd_tests::load::{Load, Options};
use deployd_tests::machine::Host;

const UNITS: [&str; 4] =
    ["deployd.service", "deployd.socket", "deployd-fd@.service", "deployd-fd-nb@.service"];
/// How exposed the agent may be by `systemd-analyze security` (0 is best, 10 worst).
const MAX_EXPOSURE: &str = "40";

#[test]
fn bookworm_takes_the_packages() -> Result<()> {
    takes_the_packages(Suite::Bookworm)
}

#[test]
fn trixie_takes_the_packages() -> Result<()> {
    takes_the_packages(Suite::Trixie)
}

/// Installs, checks the units, reboots, purges.
fn takes_the_packages(suite: Suite) -> Result<()> {
    let packages = deb::packages()?;
    let mut host = Host::boot(&Image::ensure(suite)?, "web1")?;
    ensure!(host.ok(". /etc/os-release; echo $VERSION_CODENAME")? == suite.name());
    deb::install(&host, &packages)?;
    check_installed(&host)?;
    host.reboot()?;
    check_installed(&host)?;

    // With an application: its tree and the journal of what runs survive a purge.
    host.ok("mkdir -p /var/lib/deployd/apps/shop/releases/v1-0 && touch /var/lib/deployd/state.db")?;
    host.ok("dpkg --purge deployd")?;
    host.ok("test -d /var/lib/deployd/apps/shop/releases/v1-0 && test -f /var/lib/deployd/state.db && test ! -e /usr/bin/deployd")?;
    // Without one nothing is left.
    deb::install(&host, &packages)?;
    host.ok("rm -r /var/lib/deployd/apps/shop/releases/v1-0 && dpkg --purge deployd deployd-ctl")?;
    host.ok("test ! -e /var/lib/deployd && test ! -e /etc/deployd")?;
    let left = host
        .ok("systemctl list-unit-files --no-legend 'deployd*'; find /etc/systemd /usr -name '*deployd*'")?;
    ensure!(left.is_empty(), "left after the purge: {left}");
    host.finish()
}

fn check_installed(host: &Host) -> Result<()> {
    ensure!(
        host.ok("dpkg-query -W -f '${db:Status-Status} ' deployd deployd-ctl")? == "installed installed "
    );
    for unit in UNITS {
        // A template is verified as one of its instances.
        let instance = unit.replace("@.", "@deployd-shop-http-v1.");
        let said = host.ok(&format!("systemd-analyze verify --man=no {instance} 2>&1"))?;
        let ours = ["deployd.service:", "deployd.socket:", "deployd-fd"];
        ensure!(!ours.iter().any(|name| said.contains(name)), "{unit}: {said}");
    }
    let exposure = format!("systemd-analyze security --no-pager --threshold={MAX_EXPOSURE} deployd.service");
    host.ok(&exposure)?;
    ensure!(host.ok("systemctl is-enabled deployd.service deployd.socket")? == "enabled\nenabled");
    // Not enrolled: no port, and nothing failed.
    ensure!(host.ok("systemctl show -p ActiveState --value deployd.socket")? == "inactive");
    ensure!(host.ok("sysctl -n net.ipv4.tcp_migrate_req")? == "1");
    // Static: they run on a host that has none of the build machine's libraries.
    for binary in ["/usr/bin/deployd", "/usr/bin/deployd-ctl", "/usr/lib/deployd/deployd-exec"] {
        let said = host.ok(&format!("ldd {binary} 2>&1 || true"))?;
        ensure!(
            said.contains("statically linked") || said.contains("not a dynamic executable"),
            "{binary}: {said}"
        );
    }
    host.ok("/usr/bin/deployd-ctl --help")?;
    Ok(())
}

#[test]
fn a_crashed_host_starts_again_and_finish_leaves_nothing() -> Result<()> {
    let mut host = Host::boot(&Image::ensure(Suite::Bookworm)?, "web1")?;
    host.write_file("/etc/kept", "kept over a crash\n", 0o640)?;
    let first_boot = host.read_file("/proc/sys/kernel/random/boot_id")?;
    let address = host.address();
    host.crash()?;
    ensure!(host.exec("true").is_ok_and(|output| !output.status.success()), "a dead host runs no command");
    host.start()?;
    ensure!(host.read_file("/etc/kept")? == "kept over a crash\n");
    ensure!(host.address() == address);
    // nspawn gives each boot an id of its own, as a machine would.
    let journal = host.ok("journalctl --list-boots --no-pager | wc -l")?;
    ensure!(journal.parse::<u32>()? >= 2, "{journal} boots in the journal ({first_boot})");
    let marker = format!("dt{}-", std::process::id());
    host.finish()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let owner = format!("/run/deployd-tests/{}-", std::process::id());
    ensure!(!mounts.contains(&owner), "mounts left");
    let named = fs::read_dir("/run/netns")?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&marker));
    ensure!(!named, "a network namespace is left");
    Ok(())
}

#[test]
fn load_reaches_a_host_from_inside_and_from_a_peer() -> Result<()> {
    let host = Host::boot(&Image::ensure(Suite::Bookworm)?, "web1")?;
    host.write_file("/srv/www/index.html", "shop v1\n", 0o644)?;
    let mut server = host.spawn("python3 -m http.server --bind :: --directory /srv/www 8080")?;
    let address = host.address();
    let targets = [
        ("inside, IPv4", "127.0.0.1".parse()?, host.netns()),
        ("inside, IPv6", "::1".parse()?, host.netns()),
        ("peer, IPv4", address.v4.into(), host.net().client().clone()),
        ("peer, IPv6", address.v6.into(), host.net().client().clone()),
    ];
    for (what, ip, netns) in targets {
        let target = std::net::SocketAddr::new(ip, 8080);
        let mut options = Options::new(target).accept(&["shop v1"]).from_netns(netns);
        options.clients = 4;
        let load = Load::start(options)?;
        deployd_tests::wait::until(Duration::from_secs(30), what, || match load.ok_of("shop v1") {
            answers if answers >= 50 => Ok(()),
            answers => Err(format!("{answers} right answers, {} failed", load.failed())),
        })?;
        let report = load.stop()?.report(&[]);
        ensure!(report.releases["shop v1"] >= 50, "{what}: {report:?}");
    }
    server.kill()?;
    server.wait()?;
    host.finish()
}
