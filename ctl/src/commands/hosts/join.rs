//! One host on its way into the fleet: over ssh until it is enrolled, then a first call over the network.

use std::time::{Duration, Instant};

use deployd_api::fleet::HostInfo;
use deployd_api::ids::Timestamp;

use super::add::Adding;
use crate::client::BackOff;
use crate::commands::Host;
use crate::enrol::package::{Choice, Package, choose};
use crate::enrol::ssh::{Input, Ssh};
use crate::enrol::system::{PROBE, Root, System};
use crate::enrol::target::Target;
use crate::enrol::{answer, refused};
use crate::error::CtlError;
use crate::fleet::{Change, FleetHost};
use crate::human;
use crate::pki::authority::Authority;
use crate::pki::facts::{days_left, days_text};

/// How long the agent may take until it answers for the first time.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// A certificate that ends sooner is made anew.
const SOON_DAYS: i64 = 30;
/// From here on, people are told that clocks differ.
const CLOCK_MS: u64 = 10_000;

/// Reads the package from stdin. `dpkg` needs no network; `apt-get` fetches what the package needs and is missing, and
/// waits for the updates that a new host makes by itself. When these hold the lists, the lists are theirs.
const INSTALL: &str = r#"
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat >"$folder/deployd.deb"
export DEBIAN_FRONTEND=noninteractive
dpkg --force-confold -i "$folder/deployd.deb" >&2 ||
  { apt-get -o DPkg::Lock::Timeout=120 update -q >&2 || true
    apt-get -o DPkg::Lock::Timeout=120 install -y -q "$folder/deployd.deb" >&2; }
"#;
/// Reads the bundle from stdin.
const ENROL: &str = "deployd enroll install && systemctl enable -q deployd.socket && \
                     systemctl restart deployd.socket deployd.service";

/// A host that ssh reached and that can be one of the fleet.
pub(super) struct Reached {
    pub(super) ssh: Ssh,
    pub(super) host: FleetHost,
    system: System,
    package: Option<Package>,
}

impl Reached {
    /// By its address, or by what the system calls itself.
    pub(super) fn is_same_machine(&self, other: &Self) -> bool {
        self.host.address == other.host.address || self.system.is_same_machine(&other.system)
    }
}

/// A host of the fleet.
pub(super) struct Joined {
    pub(super) name: String,
    pub(super) info: HostInfo,
    pub(super) change: Change,
    /// Whether it got a certificate just now.
    pub(super) enrolled: bool,
}

impl Adding<'_> {
    /// ssh, and what the host is. Nothing is changed there.
    pub(super) async fn connect(&self, target: &Target) -> Result<Reached, CtlError> {
        let (name, began) = (target.name.as_str(), Instant::now());
        let words = target.ssh.as_deref().unwrap_or_default();
        let mut ssh = Ssh::new(name, words, &self.args.ssh_options)?;
        let text = ssh.run("looking at the system", PROBE, Input::Nothing).await?;
        self.step(name, "ssh", &format!("{words}, {}", took(began)));
        let system = System::parse(&text);
        let unfit = |why: String, next: String| {
            let body = refused(format!("{name} cannot be a host: {why}"), next).about(name);
            answer(body.cause("where", format!("{name}, ssh {words}")))
        };
        match system.judge(human::now()).map_err(|u| unfit(u.why, u.next))? {
            Root::IsRoot => {}
            Root::BySudo => ssh.use_sudo(),
        }
        let package = match choose(&self.packages, &system.arch, system.deployd.as_deref()) {
            Choice::Keep(_) => None,
            Choice::Install(package) => Some(package),
            Choice::Missing => {
                let why = format!("there is no package of the agent for {}", system.arch);
                let next = format!("name it: --deb deployd_VERSION_{}.deb", system.arch);
                return Err(unfit(why, next));
            }
        };
        let version = system.systemd.unwrap_or_default();
        self.step(name, "system", &format!("{}, systemd {version}, {}", system.name, system.arch));
        let host = self.wanted(target, &ssh.address().await)?;
        Ok(Reached { ssh, host, system, package })
    }

    /// Package, certificate, first call, file.
    pub(super) async fn enrol(&self, authority: &Authority, reached: &Reached) -> Result<Joined, CtlError> {
        let (ssh, name) = (&reached.ssh, reached.host.name.as_str());
        if let Some(package) = &reached.package {
            let began = Instant::now();
            let file = Input::File(package.path.clone());
            ssh.run("installing the package", INSTALL, file).await?;
            let text = format!("deployd {} installed, {}", package.version, took(began));
            self.step(name, "package", &text);
        } else {
            let version = reached.system.deployd.as_deref().unwrap_or_default();
            self.step(name, "package", &format!("deployd {version} is installed already"));
        }
        let ask = format!("deployd enroll request {name}");
        let request = ssh.run("asking for a certificate", &ask, Input::Nothing).await?;
        let signed = authority.host(&reached.host.name, &request, human::now())?;
        authority.record(&signed)?;
        let bundle = Input::Text(authority.bundle(&signed)?);
        ssh.run("installing the certificate", ENROL, bundle).await?;
        let until = days_text(signed.facts.not_after, human::now());
        self.step(name, "identity", &format!("certificate for {until}; its key stays on the host"));
        self.call_and_write(&reached.host, Some(())).await
    }

    /// The first call from here; the file only when it succeeds.
    pub(super) async fn call_and_write(
        &self,
        host: &FleetHost,
        enrolled: Option<()>,
    ) -> Result<Joined, CtlError> {
        let (client, began) = (self.dialer.host(host), Instant::now());
        let mut back_off = BackOff::lasting(FIRST_CALL);
        let info = loop {
            match call(&client).await {
                Ok(info) => break info,
                Err(error) if error.is_absence() && back_off.wait().await => {}
                Err(error) => return Err(closed(host, error)),
            }
        };
        let clock = clock(&info, human::now());
        self.step(
            &client.name,
            "call",
            &format!("{} answers over TLS, {}, {clock}", host.address, took(began)),
        );
        self.write(host, info, enrolled)
    }

    pub(super) fn write(
        &self,
        host: &FleetHost,
        info: HostInfo,
        enrolled: Option<()>,
    ) -> Result<Joined, CtlError> {
        let change = self.write_fleet(host)?;
        let file = self.fleet.borrow().file.display().to_string();
        let text = match change {
            Change::Added => format!("written into {file}"),
            Change::Updated => format!("changed in {file}"),
            Change::Nothing => format!("is in {file} already"),
        };
        self.step(host.name.as_str(), "fleet", &text);
        Ok(Joined { name: host.name.to_string(), info, change, enrolled: enrolled.is_some() })
    }
}

/// What a host says it is.
pub(super) async fn call(host: &Host) -> Result<HostInfo, CtlError> {
    host.client.get("/host").await
}

/// Whether a package here is newer than its agent.
pub(super) fn is_outdated(packages: &[Package], info: &HostInfo) -> bool {
    let arch = match info.arch.as_str() {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    matches!(choose(packages, arch, Some(&info.agent)), Choice::Install(_))
}

pub(super) fn ends_soon(info: &HostInfo, now: Timestamp) -> bool {
    info.certificate.as_ref().is_some_and(|c| days_left(c.not_after, now) < SOON_DAYS)
}

/// Enrolled, and not reached: nearly always a firewall.
fn closed(host: &FleetHost, error: CtlError) -> CtlError {
    if !matches!(error, CtlError::Unreachable { .. }) {
        return error;
    }
    let (at, port) = (&host.address, host.address.port());
    let mut body = error.to_body();
    body.message =
        format!("{} is ready, but {at} does not answer from here; it is not in fleet.toml", host.name);
    body.hint = format!(
        "open port {port}/tcp of the host for this machine, in its own firewall and its provider's; if it has \
         another address from here: --address; then run it again"
    );
    answer(body)
}

/// `clock +3 ms`, with a word when that is much.
pub(super) fn clock(info: &HostInfo, now: Timestamp) -> String {
    let (ahead, behind) = (info.now.since_ms(now), now.since_ms(info.now));
    let (sign, apart) = if behind > 0 { ("-", behind) } else { ("+", ahead) };
    let text = format!("clock {sign}{}", human::took(apart));
    if apart > CLOCK_MS { format!("{text}: set it, timedatectl set-ntp true") } else { text }
}

fn took(began: Instant) -> String {
    human::took(began.elapsed().as_millis() as u64)
}
