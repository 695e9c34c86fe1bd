//! The life of a host: boot, reboot, power off, crash, finish. Dropping a host that was not finished dumps its
//! journal, since only a failing test does that, and removes it all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::boot::{self, Start};
use super::exec;
use super::net::{Address, Net};
use super::owner;
use crate::image::Image;
use crate::netns::NetPath;
use crate::wait;

/// An orderly shutdown stops every unit; this is above systemd's own 90 s for one that will not.
const SHUTDOWN_LIMIT: Duration = Duration::from_mins(2);
/// The most that a host may write: its changes live in memory.
const DISK_SIZE: &str = "4g";
/// How much of the journal a failing test shows.
const DUMPED_LINES: u32 = 200;

/// A booted host. Its files are an overlay over the image, kept over reboots, gone with this value.
#[derive(Debug)]
pub struct Host {
    name: String,
    machine: String,
    dir: PathBuf,
    cgroup: PathBuf,
    net: Arc<Net>,
    address: Address,
    running: Option<Running>,
    finished: bool,
}

/// The processes of a host that is up.
#[derive(Debug)]
struct Running {
    nspawn: Child,
    leader: u32,
}

impl Host {
    /// Boots a host on a network of its own.
    pub fn boot(image: &Image, name: &str) -> Result<Self> {
        let net = Arc::new(Net::create(name)?);
        Self::boot_on(image, name, net)
    }

    /// Boots a host on a network that it shares with others. Names are unique within one test process.
    pub fn boot_on(image: &Image, name: &str, net: Arc<Net>) -> Result<Self> {
        let owner = owner::owner()?;
        let mut host = Self {
            name: name.to_owned(),
            machine: owner.machine_name(name),
            dir: owner.host_dir(name),
            cgroup: owner.host_cgroup(name),
            address: net.take_address()?,
            net,
            running: None,
            finished: false,
        };
        if host.dir.exists() {
            // Not ours to clean up: the host of that name is.
            host.finished = true;
            bail!("this test process already has a host named {name}");
        }
        host.make_root(image)?;
        host.start()?;
        Ok(host)
    }

    /// Mounts the overlay and gives the host its identity.
    fn make_root(&self, image: &Image) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("failed to create {}", self.dir.display()))?;
        mount(&["-t", "tmpfs", "-o", &format!("size={DISK_SIZE},mode=755"), "deployd-test"], &self.dir)?;
        for folder in ["upper", "work", "root"] {
            fs::create_dir(self.dir.join(folder))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={dir}/upper,workdir={dir}/work",
            image.root().display(),
            dir = self.dir.display()
        );
        mount(&["-t", "overlay", "-o", &layers, "overlay"], &self.root())?;
        fs::write(self.root().join("etc/machine-id"), "")?;
        fs::write(self.root().join("etc/hostname"), format!("{}\n", self.name))?;
        fs::write(
            self.root().join("etc/hosts"),
            format!("127.0.0.1 localhost {}\n::1 localhost\n", self.name),
        )?;
        Ok(())
    }

    /// Boots on the root as it is: the first boot, or the one after a power-off or a crash.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("{} is already up", self.name);
        }
        let console = self.console();
        let start = Start {
            machine: &self.machine,
            root: &self.root(),
            cgroup: &self.cgroup,
            console: &console,
            net: self.net.client(),
        };
        let mut nspawn = boot::start_nspawn(&start)?;
        let leader = match boot::wait_leader(&mut nspawn, &console) {
            Ok(leader) => leader,
            Err(error) => {
                let _ = nspawn.kill();
                let _ = nspawn.wait();
                return Err(error);
            }
        };
        self.running = Some(Running { nspawn, leader });
        Net::configure(&self.netns(), self.address)?;
        boot::wait_running(leader, &console).with_context(|| format!("{} did not come up", self.name))
    }

    /// Reboots in an orderly way and waits until the host runs again.
    pub fn reboot(&mut self) -> Result<()> {
        self.shut_down("reboot")?;
        self.start()
    }

    /// Powers off in an orderly way; [`Host::start`] boots again.
    pub fn poweroff(&mut self) -> Result<()> {
        self.shut_down("poweroff")
    }

    /// Ends the host at once, as a power failure would: PID 1 and everything below it get SIGKILL.
    pub fn crash(&mut self) -> Result<()> {
        let running = self.running.take().with_context(|| format!("{} is not up", self.name))?;
        kill(Pid::from_raw(running.leader.cast_signed()), Signal::SIGKILL)
            .context("failed to kill the host's PID 1")?;
        wait_end(running.nspawn)
    }

    fn shut_down(&mut self, verb: &str) -> Result<()> {
        // The answer may be lost when the host is faster than systemctl: what counts is that nspawn ends.
        self.exec(&format!("systemctl --no-block {verb}"))?;
        let running = self.running.take().with_context(|| format!("{} is not up", self.name))?;
        wait_end(running.nspawn).with_context(|| format!("{} did not {verb}", self.name))
    }

    /// The test is over and passed: removes the host and proves that nothing of it is left.
    pub fn finish(mut self) -> Result<()> {
        self.finished = true;
        self.remove()?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let prefix = self.dir.display().to_string();
        if let Some(left) = mounts.lines().find(|line| line.contains(&prefix)) {
            bail!("a mount of {} is left: {left}", self.name);
        }
        if self.cgroup.exists() {
            bail!("the cgroup of {} is left: {}", self.name, self.cgroup.display());
        }
        Ok(())
    }

    /// Leaves the host up after the end of this process, and with it all that this process made.
    pub fn keep(self) -> Result<()> {
        owner::owner()?.keep()?;
        // Neither the host nor its network is taken down: both belong to nobody from now on.
        std::mem::forget(self);
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        let cleaned = owner::clean_host(&self.dir, &self.cgroup);
        if let Some(mut running) = self.running.take() {
            // Its cgroup is empty by now, so this reaps.
            running.nspawn.wait()?;
        }
        cleaned
    }

    /// Shows what a person would look at first.
    fn dump(&self) {
        eprintln!(
            "---- {} failed; its console ends with:\n{}",
            self.name,
            boot::console_tail(&self.console())
        );
        if self.running.is_none() {
            eprintln!("---- {} is not up", self.name);
            return;
        }
        for line in [
            "systemctl --no-pager --failed".to_owned(),
            "systemctl --no-pager list-jobs".to_owned(),
            format!("journalctl --no-pager --output=short-precise --lines={DUMPED_LINES}"),
        ] {
            match self.exec(&line) {
                Ok(output) => {
                    eprintln!("---- {}: {line}\n{}", self.name, String::from_utf8_lossy(&output.stdout));
                }
                Err(error) => eprintln!("---- {}: {line}: {error:#}", self.name),
            }
        }
    }

    /// The host's name, also its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pid, out here, of the host's PID 1; 0 (no process) while it is down.
    pub fn leader_pid(&self) -> u32 {
        self.running.as_ref().map_or(0, |running| running.leader)
    }

    /// The host's own network namespace: its loopback and `host0`. A new one after every boot.
    pub fn netns(&self) -> NetPath {
        NetPath::of_process(self.leader_pid())
    }

    /// The network that the host is on; its [`Net::client`] is a peer namespace.
    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }

    /// The host's addresses on that network.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The overlay's mount point out here. For a running host prefer [`Host::outside`].
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.dump();
        if let Err(error) = self.remove() {
            eprintln!("{error:#}");
        }
    }
}

fn mount(words: &[&str], place: &Path) -> Result<()> {
    let output = Command::new("mount").args(words).arg(place).output().context("failed to run mount")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("failed to mount {}: {}", place.display(), reason.trim());
    }
    Ok(())
}

fn wait_end(mut nspawn: Child) -> Result<()> {
    let ended = wait::until(SHUTDOWN_LIMIT, "nspawn to end", || match nspawn.try_wait() {
        Ok(Some(_)) => Ok(()),
        Ok(None) => {
            exec::resume_stopped();
            Err("still running".to_owned())
        }
        Err(error) => Err(error.to_string()),
    });
    if ended.is_err() {
        nspawn.kill()?;
        nspawn.wait()?;
    }
    ended
}
