//! Several Debian hosts on one network, bare but for sshd, and the machine of an operator who may enter them.
//!
//! What is deployed goes through `deployd-ctl` on that machine, over mTLS; hosts are looked at from outside and
//! through their own local socket.
//!
//! | file | what |
//! |---|---|
//! | `mod` | booting, enrolling, cutting and mending the network |
//! | `ops` | the operator's shell |
//! | `state` | what the hosts say, and waiting until a fleet is settled |
//! | `phase` | the phases of a push, seen from outside |
//! | `shop` | the fixture app as the operator's project |

mod ops;
mod phase;
mod shop;
mod state;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

pub use ops::{Ops, PROJECT, Running, Shell};
pub use phase::{Before, Phase, received, sent};
pub use shop::{Project, loads};
pub use state::{HostState, Settled};

use crate::deb;
use crate::image::{Image, Suite};
use crate::machine::{Host, Net};
use crate::netns::NetPath;
use crate::package::Packages;
use crate::pki::{Authority, Usage};
use crate::wait;

/// What protects the CA key of test fleets.
pub const PASSPHRASE: &str = "correct horse battery staple";
/// The home of root, in every host that the rig boots.
pub const HOME: &str = "/root";
/// Where the operator's package lies; it brings the agent's along.
pub const DOWNLOADS: &str = "/root/downloads";
/// The port of agents.
pub const API_PORT: u16 = 7443;
const SSHD: Duration = Duration::from_secs(30);
/// Hosts, and the machine that operates them.
#[derive(Debug)]
pub struct Fleet {
    /// `web1`, `web2`, …
    pub hosts: Vec<Host>,
    /// The operator's machine.
    pub ops: Ops,
    packages: Packages,
}

impl Fleet {
    /// Boots one host for each entry, bare, and `ops` with nothing but the downloaded package and a key for ssh.
    pub fn bare(suites: &[Suite]) -> Result<Self> {
        let packages = deb::packages()?;
        let net = Arc::new(Net::create("fleet")?);
        let mut wanted: Vec<(String, Suite)> =
            suites.iter().zip(1..).map(|(suite, n)| (format!("web{n}"), *suite)).collect();
        // Only the oldest root has Elixir, which a first hour needs.
        wanted.push(("ops".to_owned(), Suite::Bookworm));
        let boot =
            |(name, suite): &(String, Suite)| Host::boot_on(&Image::ensure(*suite)?, name, Arc::clone(&net));
        let booted: Vec<Result<Host>> = thread::scope(|scope| {
            let threads: Vec<_> = wanted.iter().map(|one| scope.spawn(move || boot(one))).collect();
            let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
            joined.map(|host| host.unwrap_or_else(|_| Err(anyhow!("booting panicked")))).collect()
        });
        let mut hosts = booted.into_iter().collect::<Result<Vec<_>>>()?;
        let ops = Ops::new(hosts.pop().context("no operator's machine")?);
        let fleet = Self { hosts, ops, packages };
        fleet.name_all()?;
        fleet.let_in()?;
        fleet.download()?;
        Ok(fleet)
    }

    /// `n` hosts, of both Debian releases, enrolled over ssh as `docs/first-hour.md` does it, in the group `web`.
    pub fn enrolled(n: usize) -> Result<Self> {
        let suites: Vec<Suite> =
            (0..n).map(|i| if i == 0 { Suite::Bookworm } else { Suite::Trixie }).collect();
        let fleet = Self::bare(&suites)?;
        fleet.install_ctl()?;
        fleet.ops.ctl("pki init")?.expect(0).context("pki init")?;
        fleet.ops.ctl(&fleet.add_words())?.expect(0).context("hosts add")?;
        Ok(fleet)
    }

    /// The words that add all hosts to the fleet.
    pub fn add_words(&self) -> String {
        let pairs: Vec<String> = self.hosts.iter().map(|h| format!("{0}=root@{0}", h.name())).collect();
        format!("hosts add {} --group web", pairs.join(" "))
    }

    /// Hosts with the agent, enrolled by hand with certificates of the rig: what ctl issues is not trusted here.
    pub fn by_hand(suites: &[Suite], authority: &Authority) -> Result<Self> {
        let fleet = Self::bare(suites)?;
        fleet.install_ctl()?;
        for host in &fleet.hosts {
            deb::install(host, &fleet.packages)?;
            let name = host.name();
            let request = host.ok(&format!("deployd enroll request {name}"))?;
            let certificate = authority.sign(&request, &Usage::Host(name.to_owned()).usual())?;
            fleet.install_bundle(host, &certificate, &authority.certificate(), &authority.revoke(&[])?)?;
        }
        fleet.write_inventory()?;
        let identity =
            authority.issue(&Usage::Client("ops-1".to_owned(), vec!["admin".to_owned()]).usual())?;
        fleet.become_identity(&identity.file(authority))?;
        Ok(fleet)
    }

    /// Gives a host its certificate, its CA and its list of revoked certificates, and waits until it serves.
    pub fn install_bundle(&self, host: &Host, certificate: &str, ca: &str, crl: &str) -> Result<()> {
        let bundle = "/run/bundle.pem";
        host.write_file(bundle, format!("{certificate}{ca}{crl}"), 0o600)?;
        host.ok(&format!("deployd enroll install <{bundle}"))?;
        host.ok("systemctl restart deployd.socket deployd.service").map(drop)
    }

    /// Makes this the operator's identity.
    pub fn become_identity(&self, pem: &str) -> Result<()> {
        let own = format!("{HOME}/.config/deployd");
        self.ops.host.write_file(&format!("{own}/identity.pem"), pem, 0o600)?;
        self.ops.host.ok(&format!("chmod 700 {own}")).map(drop)
    }

    /// `fleet.toml` in the operator's project.
    pub fn write_inventory(&self) -> Result<()> {
        let entry = |host: &Host| {
            format!("[hosts.{}]\naddress = \"{}\"\ngroups = [\"web\"]\n\n", host.name(), host.address().v4)
        };
        let text = self.hosts.iter().map(entry).collect::<Vec<_>>().concat();
        self.ops.host.write_file(&format!("{PROJECT}/fleet.toml"), text, 0o644)
    }

    /// Installs `deployd-ctl` on the operator's machine.
    pub fn install_ctl(&self) -> Result<()> {
        self.ops.host.ok(&format!("dpkg -i {DOWNLOADS}/deployd-ctl_*.deb")).map(drop)
    }

    /// Somebody else with a machine of their own: an identity as CI has it, in one line, and nothing of the first one's.
    pub fn second_operator(&self, name: &str) -> Result<Shell> {
        let issued = self.ops.ctl(&format!("pki issue {name} --role admin --ttl 90d --print"))?.expect(0)?;
        let line = issued.stdout.trim();
        ensure!(!line.is_empty() && line.lines().count() == 1, "not one line: {issued:?}");
        Ok(Shell::bare().of_home(&format!("/root/home-{name}")).with("DEPLOYD_IDENTITY", line))
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name() == name).with_context(|| format!("no host {name}"))
    }

    /// Where a host's API is.
    pub fn api(&self, host: &Host) -> SocketAddr {
        SocketAddr::new(host.address().v4.into(), API_PORT)
    }

    /// The namespace of clients, beside all hosts.
    pub fn client(&self) -> &NetPath {
        self.ops.host.net().client()
    }

    /// Cuts a host off the network, as an unplugged cable would; what runs in it goes on.
    pub fn cut(&self, name: &str) -> Result<()> {
        self.host(name)?.netns().ip("link set host0 down")
    }

    /// Mends what [`Fleet::cut`] did.
    pub fn mend(&self, name: &str) -> Result<()> {
        let host = self.host(name)?;
        host.netns().ip("link set host0 up")?;
        // A link that goes down takes its IPv6 addresses with it.
        host.netns().ip(&format!("addr replace {}/64 dev host0 nodad", host.address().v6))
    }

    /// The test is over and passed.
    pub fn finish(self) -> Result<()> {
        self.hosts.into_iter().chain([self.ops.host]).try_for_each(Host::finish)
    }

    /// Leaves all machines up after the end of this process.
    pub fn keep(self) -> Result<()> {
        self.hosts.into_iter().chain([self.ops.host]).try_for_each(Host::keep)
    }

    /// Every machine knows all names.
    fn name_all(&self) -> Result<()> {
        let all = || self.hosts.iter().chain([&self.ops.host]);
        let names: Vec<String> = all().map(|h| format!("{} {}\n", h.address().v4, h.name())).collect();
        let names = names.concat();
        for host in all() {
            // Its own name is its address, too: what is said of `web1` must not end at loopback.
            host.write_file("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n{names}"), 0o644)?;
        }
        Ok(())
    }

    /// The operator may enter every host as root, and knows its key, as after a first visit.
    fn let_in(&self) -> Result<()> {
        let ops = &self.ops.host;
        let ssh = format!("{HOME}/.ssh");
        let make = format!("mkdir -p -m 700 {ssh}");
        // The operator's key is made in the machine itself.
        ops.ok(&format!("{make} && ssh-keygen -q -t ed25519 -N '' -f {ssh}/id_ed25519"))?;
        let key = ops.read_file(&format!("{ssh}/id_ed25519.pub"))?;
        let mut known = String::new();
        for host in &self.hosts {
            host.ok(&make)?;
            host.write_file(&format!("{ssh}/authorized_keys"), &key, 0o600)?;
            let own = host.read_file("/etc/ssh/ssh_host_ed25519_key.pub")?;
            let mut words = own.split_whitespace();
            let (kind, own) = (words.next().context("no key")?, words.next().context("no key")?);
            known += &format!("{},{} {kind} {own}\n", host.name(), host.address().v4);
        }
        ops.write_file(&format!("{ssh}/known_hosts"), known, 0o600)?;
        for host in &self.hosts {
            wait::until(SSHD, &format!("sshd of {}", host.name()), || {
                let tried = ops.exec(&format!("ssh -o BatchMode=yes root@{} true", host.name()));
                match tried {
                    Ok(out) if out.status.success() => Ok(()),
                    Ok(out) => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
                    Err(error) => Err(error.to_string()),
                }
            })?;
        }
        Ok(())
    }

    /// The package, as a browser leaves it, and an empty project.
    fn download(&self) -> Result<()> {
        let package = &self.packages.ctl;
        let name = package.file_name().context("a package has a name")?.to_string_lossy();
        let bytes = fs::read(package).with_context(|| format!("failed to read {}", package.display()))?;
        self.ops.host.write_file(&format!("{DOWNLOADS}/{name}"), bytes, 0o644)?;
        self.ops.host.ok(&format!("mkdir -p {PROJECT}")).map(drop)
    }
}
