//! Which hosts a command is for, and how each is reached: fleet and identity are read when they are needed,
//! and once.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use deployd_api::spec::Selector;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use crate::cli::{Global, HostSocket};
use crate::client::{Client, Remote, tls};
use crate::error::CtlError;
use crate::fleet::{self, Fleet, FleetHost};
use crate::human;
use crate::pki::{Identity, broken, home};

/// An agent, with the name of its host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) client: Client,
    /// `10.0.0.11:7443`, or the path of the local socket.
    pub(crate) address: String,
    /// As `fleet.toml` says.
    #[expect(dead_code, reason = "verbs of fleets choose by it")]
    pub(crate) groups: Vec<String>,
    /// As `fleet.toml` says.
    #[expect(dead_code, reason = "verbs of fleets choose by it")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// The hosts there are.
#[derive(Debug)]
pub(crate) struct Reached<'a> {
    global: &'a Global,
    known: OnceCell<Known>,
}

#[derive(Debug)]
struct Known {
    /// `None` with `--local`.
    fleet: Option<Fleet>,
    /// Every host, in the order of the names.
    hosts: Vec<Host>,
}

/// How hosts are called: with whose identity.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    tls: Arc<rustls::ClientConfig>,
}

impl Dialer {
    /// With the identity of this command, if a host can take it.
    pub(crate) fn new(global: &Global) -> Result<Self, CtlError> {
        let identity = Identity::find(global.identity.as_ref().map(|i| i.0.as_str()))?;
        identity.must_be_valid(human::now())?;
        let list = identity.folder.as_ref().map(|folder| folder.join(home::CRL)).filter(|path| path.exists());
        let revoked = list
            .map(CertificateRevocationListDer::from_pem_file)
            .transpose()
            .map_err(|e| broken("read the list of revoked certificates, crl.pem", e))?;
        let tls = tls::config(&identity, revoked).map_err(|e| broken("use your identity", e))?;
        Ok(Self { tls: Arc::new(tls) })
    }

    /// A host, not yet connected to.
    pub(crate) fn host(&self, host: &FleetHost) -> Host {
        let name = host.name.to_string();
        let remote = Remote { host: name.clone(), address: host.address.clone(), tls: self.tls.clone() };
        Host {
            name,
            client: Client::remote(remote),
            address: host.address.to_string(),
            groups: host.groups.clone(),
            labels: host.labels.clone(),
        }
    }
}

impl<'a> Reached<'a> {
    pub(crate) fn new(global: &'a Global) -> Self {
        Self { global, known: OnceCell::new() }
    }

    /// The hosts that a command means which names none: all, narrowed by `--host`.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>, CtlError> {
        let known = self.known()?;
        match &known.fleet {
            Some(fleet) if !self.global.only.is_empty() => Ok(known.of(&fleet.select(&self.global.only)?)),
            _ => Ok(known.hosts.clone()),
        }
    }

    /// Every host, also with `--host`.
    pub(crate) fn all(&self) -> Result<Vec<Host>, CtlError> {
        Ok(self.known()?.hosts.clone())
    }

    /// The hosts of a spec, also those that `--host` leaves out.
    pub(crate) fn all_of(&self, selectors: &[Selector]) -> Result<Vec<Host>, CtlError> {
        let known = self.known()?;
        let Some(fleet) = &known.fleet else { return Ok(known.hosts.clone()) };
        Ok(known.of(&Self::meant(fleet, selectors)?))
    }

    fn meant<'f>(fleet: &'f Fleet, selectors: &[Selector]) -> Result<Vec<&'f FleetHost>, CtlError> {
        match selectors {
            [] => fleet.without_a_word(),
            _ => fleet.select(selectors),
        }
    }

    /// The hosts of a spec, narrowed by `--host`.
    pub(crate) fn hosts_of(&self, selectors: &[Selector]) -> Result<Vec<Host>, CtlError> {
        let known = self.known()?;
        let Some(fleet) = &known.fleet else { return Ok(known.hosts.clone()) };
        let mut meant = Self::meant(fleet, selectors)?;
        if !self.global.only.is_empty() {
            let only = fleet.select(&self.global.only)?;
            meant.retain(|host| only.contains(host));
        }
        if meant.is_empty() {
            let words = |s: &[Selector]| s.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(CtlError::Usage {
                message: format!("-H {} leaves none of the hosts of the app", words(&self.global.only)),
                hint: format!("its hosts are {}", words(selectors)),
            });
        }
        Ok(known.of(&meant))
    }

    /// The hosts that are named, or that a group or label means.
    pub(crate) fn hosts_named(&self, names: &[String]) -> Result<Vec<Host>, CtlError> {
        let known = self.known()?;
        let fleet = self.of_fleet()?;
        let selectors: Result<Vec<Selector>, _> = names.iter().map(|name| name.parse()).collect();
        let selectors = selectors.map_err(|e: deployd_api::ids::InvalidId| CtlError::Usage {
            message: e.to_string(),
            hint: "deployd-ctl hosts list shows what there is".to_owned(),
        })?;
        Ok(known.of(&fleet.select(&selectors)?))
    }

    /// The fleet of this command. `--local` has none.
    pub(crate) fn of_fleet(&self) -> Result<&Fleet, CtlError> {
        self.known()?.fleet.as_ref().ok_or_else(|| CtlError::Usage {
            message: "--local is one host, and this command is about a fleet".to_owned(),
            hint: "run it without --local".to_owned(),
        })
    }

    fn known(&self) -> Result<&Known, CtlError> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let known = match (self.global.local, self.global.sockets.as_slice()) {
            (true, _) => self.local(),
            (false, []) => self.fleet()?,
            (false, sockets) => Self::sockets(sockets),
        };
        Ok(self.known.get_or_init(|| known))
    }

    /// Hosts by their sockets have no groups: every selector means all of them.
    fn sockets(sockets: &[HostSocket]) -> Known {
        let host = |socket: &HostSocket| by_socket(socket.name.clone(), &socket.path);
        let mut hosts: Vec<Host> = sockets.iter().map(host).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Known { fleet: None, hosts }
    }

    fn local(&self) -> Known {
        let own = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|n| n.trim().to_owned());
        let name = self.global.host_name.clone().or_else(own).unwrap_or_else(|| "localhost".to_owned());
        let host = by_socket(name, &self.global.socket);
        Known { fleet: None, hosts: vec![host] }
    }

    fn fleet(&self) -> Result<Known, CtlError> {
        let fleet = fleet::find(self.global)?;
        let dialer = Dialer::new(self.global)?;
        let hosts = fleet.hosts.iter().map(|host| dialer.host(host)).collect();
        Ok(Known { fleet: Some(fleet), hosts })
    }
}

fn by_socket(name: String, path: &std::path::Path) -> Host {
    Host {
        name,
        client: Client::local(path.to_owned()),
        address: path.display().to_string(),
        groups: Vec::new(),
        labels: BTreeMap::new(),
    }
}

impl Known {
    fn of(&self, chosen: &[&FleetHost]) -> Vec<Host> {
        let is_chosen = |host: &&Host| chosen.iter().any(|c| c.name.as_str() == host.name);
        self.hosts.iter().filter(is_chosen).cloned().collect()
    }
}
