//! Adds round-trip time between two network namespaces: a TUN device in each, and a thread that carries every packet
//! from one to the other after a delay. The kernel's netem is often not there, and this needs nothing.

mod device;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::NetPath;

/// Device name on both sides.
const DEVICE: &str = "rtt0";
/// The device's default; segments larger than it never reach a TUN device without offloads.
const MTU: usize = 1500;
/// Packets under way in one direction; beyond it packets are dropped, as a router would.
const QUEUE_LIMIT: usize = 20_000;
/// How often a stop is noticed when nothing moves.
const TICK: Duration = Duration::from_millis(50);

/// The slow path between a client and a host, as long as this value lives.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
    sources: Vec<IpAddr>,
}

impl Relay {
    /// The host's address on the slow path.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
    /// The client's first address; [`Relay::sources`] has more.
    pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

    /// Connects the two namespaces with `one_way` delay in each direction (RTT 40 ms: 20 ms).
    pub fn between(client: &NetPath, host: &NetPath, one_way: Duration) -> Result<Self> {
        let (client_device, host_device) = (open_in(client)?, open_in(host)?);
        let mut sources = vec![IpAddr::V4(Self::CLIENT)];
        client.ip(&format!("addr add {}/16 dev {DEVICE}", Self::CLIENT))?;
        for last in 1..=8 {
            let source = Ipv4Addr::new(10, 78, 1, last);
            client.ip(&format!("addr add {source}/16 dev {DEVICE}"))?;
            sources.push(IpAddr::V4(source));
        }
        host.ip(&format!("addr add {}/16 dev {DEVICE}", Self::HOST))?;
        client.ip(&format!("link set {DEVICE} up"))?;
        host.ip(&format!("link set {DEVICE} up"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("rtt".to_owned())
            .spawn(move || carry(client_device, host_device, one_way, &for_thread))
            .context("failed to start a thread")?;
        Ok(Self { stop, thread: Some(thread), sources })
    }

    /// Addresses that clients can use in turn.
    pub fn sources(&self) -> &[IpAddr] {
        &self.sources
    }

    /// Takes the path down and says whether it worked until now.
    pub fn finish(mut self) -> Result<()> {
        self.stop_thread()
    }

    fn stop_thread(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the relay panicked"))?)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(error) = self.stop_thread() {
            eprintln!("the RTT relay failed: {error:#}");
        }
    }
}

/// Opens the device inside a namespace: a device belongs to where it was opened, so a thread goes there for it.
fn open_in(netns: &NetPath) -> Result<File> {
    let netns = netns.clone();
    let opened = thread::spawn(move || {
        netns.enter_thread()?;
        device::open(DEVICE)
    });
    let file = opened.join().map_err(|_| anyhow!("the thread that opens a TUN device panicked"))??;
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// One direction: packets wait here until they are due.
struct Direction {
    from: File,
    to: File,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Direction {
    /// Takes all packets that are there.
    fn receive(&mut self, one_way: Duration) -> Result<()> {
        let mut packet = [0; MTU];
        loop {
            match self.from.read(&mut packet) {
                Ok(length) if self.waiting.len() < QUEUE_LIMIT => {
                    self.waiting.push_back((Instant::now() + one_way, packet[..length].to_vec()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("failed to read a packet"),
            }
        }
    }

    /// Hands over what is due; returns when the next packet will be.
    fn deliver(&mut self) -> Option<Instant> {
        while let Some((due, packet)) = self.waiting.front() {
            if *due > Instant::now() {
                return Some(*due);
            }
            // A full queue of the device drops the packet: that is what networks do.
            let _ = self.to.write(packet);
            self.waiting.pop_front();
        }
        None
    }
}

fn carry(client: File, host: File, one_way: Duration, stop: &AtomicBool) -> Result<()> {
    let mut there = Direction { from: client.try_clone()?, to: host.try_clone()?, waiting: VecDeque::new() };
    let mut back = Direction { from: host, to: client, waiting: VecDeque::new() };
    while !stop.load(Ordering::Relaxed) {
        let next = [there.deliver(), back.deliver()].into_iter().flatten().min();
        let pause = next.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
        // Whole milliseconds, rounded up: a packet is never early.
        let pause = PollTimeout::try_from(pause + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO);
        let mut wanted = [&there.from, &back.from].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
        match poll(&mut wanted, pause) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("failed to wait for packets"),
        }
        there.receive(one_way)?;
        back.receive(one_way)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
