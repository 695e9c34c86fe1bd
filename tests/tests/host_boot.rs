//! The ground that every other suite stands on: hosts boot, take the packages, reboot, crash, and leave nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use deployd_tests::deb;
use deployd_tests::fleet::{Fleet, Shell};
use deployd_tests::flood::Flood;
use deployd_tests::image::{Image, Suite};
use deployd_tests::load::{Load, Options};
use deployd_tests::machine::Host;
use deployd_tests::pki::{Authority, Usage};
use deployd_tests::tls::{Caller, Outcome};
use deployd_tests::wait;

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

#[test]
fn an_operator_enters_bare_hosts_by_ssh() -> Result<()> {
    let fleet = Fleet::bare(&[Suite::Bookworm, Suite::Trixie, Suite::Trixie])?;
    for host in &fleet.hosts {
        let name = host.name();
        let told = fleet.ops.run(&format!("ssh root@{name} 'hostname; command -v deployd || echo bare'"))?;
        assert_eq!(told.expect(0)?.stdout, format!("{name}\nbare\n"));
    }
    // Exit codes and both streams come through; without a terminal, and on one.
    let told = fleet.ops.run("pwd; echo talk >&2; test -t 0 || exit 7")?;
    assert_eq!((told.code, told.stdout.as_str(), told.stderr.as_str()), (7, "/root/shop\n", "talk\n"));
    let shell = Shell::default().within("/tmp").with("WORD", "hello");
    let told = fleet.ops.run_tty(
        &shell,
        "test -t 0 && test -t 2 && read typed && echo $WORD $typed; exit 3",
        "you\n",
    )?;
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.stdout.contains("hello you"), "{told:?}");
    // A cut host is out of reach, and back again.
    let reach = || fleet.ops.run("ssh -o ConnectTimeout=2 root@web2 true");
    fleet.cut("web2")?;
    assert_ne!(reach()?.code, 0);
    fleet.mend("web2")?;
    assert_eq!(reach()?.code, 0);
    // What each later suite stands on: both Debian releases, and Elixir where the operator builds.
    assert!(fleet.ops.run("elixir --version")?.expect(0)?.stdout.contains("Elixir"));
    assert_ne!(fleet.listing()?, "");
    fleet.untouched(|| Ok(()))?;
    assert!(fleet.untouched(|| fleet.hosts[0].ok("mkdir -p /etc/deployd/new")).is_err());
    fleet.finish()
}

/// What later suites stand on: strangers are told apart from clients by what an ordinary TLS server does, too.
#[test]
fn certificates_of_the_rig_are_what_they_say() -> Result<()> {
    let host = Host::boot(&Image::ensure(Suite::Trixie)?, "web1")?;
    let (ours, other) = (Authority::new("ours")?, Authority::new("ours")?);
    let server = ours.issue(&Usage::Host("web1".to_owned()).usual())?;
    let admin = || Usage::Client("ops".to_owned(), vec!["admin".to_owned()]).usual();
    let files = [("cert", &server.certificate), ("key", &server.key), ("ca", &ours.certificate())];
    files.iter().try_for_each(|(name, pem)| host.write_file(&format!("/srv/{name}.pem"), pem, 0o600))?;
    let mut running = host.spawn(
        "openssl s_server -accept 7443 -cert /srv/cert.pem -key /srv/key.pem -CAfile /srv/ca.pem \
         -Verify 1 -verify_return_error -tls1_3 -www",
    )?;
    let from = host.net().client().clone();
    let target = (host.address().v4, 7443).into();
    let caller = Caller { from: from.clone(), target, name: "web1".to_owned(), ca: ours.certificate() };
    let right = ours.issue(&admin())?;
    wait::until(Duration::from_secs(30), "the server", || match caller.host(Some(&right)) {
        Ok(Outcome::Answered(reply)) if reply.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let strangers = [
        None,
        Some(other.issue(&admin())?),
        Some(ours.issue(&admin().between(-48, -1))?),
        Some(ours.issue(&admin().between(1, 48))?),
        Some(server),
    ];
    for stranger in &strangers {
        let outcome = caller.host(stranger.as_ref())?;
        ensure!(matches!(outcome, Outcome::Refused(_)), "{stranger:?}: {outcome:?}");
    }
    // sshd closes most of them: others take their place.
    let flood = Flood::start(&from, (host.address().v4, 22).into(), 200)?;
    wait::until(Duration::from_mins(1), "a crowd", || match flood.opened() {
        opened if opened >= 300 => Ok(()),
        opened => Err(opened.to_string()),
    })?;
    ensure!(flood.stop()? >= 300);
    running.kill()?;
    running.wait()?;
    host.finish()
}
