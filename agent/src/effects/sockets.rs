//! Listeners: open, borrow, steer, watch the queue, hand on what is left, give up.
//!
//! PID 1 owns every socket. The agent only borrows descriptors, so nothing here is needed for an app to
//! serve, to restart or to boot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::spec::{Address, Millis};
use deployd_core::action::Socket;
use deployd_core::state::{Change, Tag};
use deployd_core::steering;
use deployd_core::units;

use super::RealHost;
use super::failure::step_failed;
use crate::driver::{Done, Run};
use crate::host::facts;
use crate::host::fdstore;
use crate::host::lender::LenderError;
use crate::host::listener::{Blocking, Listener};
use crate::host::probe::{self, Target};
use crate::host::systemd::{JobResult, TransientSpec};

/// How often a queue is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long an app may take from its start to its first accept() before we stop looking.
const ACCEPT_WITHIN: Duration = Duration::from_mins(1);
/// How long one connection may wait to be accepted before another is tried.
const ONE_TRY: Duration = Duration::from_secs(1);

/// Where a listener is reached from this host.
pub(super) fn loopback(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Any { port } => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port)),
        Address::Ip { ip, port } if ip.is_unspecified() => {
            let ip: IpAddr =
                if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            Some(SocketAddr::new(ip, *port))
        }
        Address::Ip { ip, port } => Some(SocketAddr::new(*ip, *port)),
        Address::Unix { .. } => None,
    }
}

/// Where a listener is bound, as the kernel lists it.
pub fn bound(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Any { port } => Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), *port)),
        Address::Ip { ip, port } => Some(SocketAddr::new(*ip, *port)),
        Address::Unix { .. } => None,
    }
}

impl RealHost {
    async fn is_up(&self, unit: &str) -> Result<bool, ErrorBody> {
        let state = self.systemd.unit(unit).await.map_err(|e| step_failed(&e))?;
        Ok(state.is_some_and(|s| s.is_active()))
    }

    pub(super) async fn open(&self, socket: &Socket, nonblocking: bool) -> Result<Done, ErrorBody> {
        if !self.is_up(&socket.unit).await? {
            // What was borrowed under this name, if anything, is of a socket that is closed.
            self.held.remove(&socket.unit);
            let job = self.systemd.start(&socket.unit).await.map_err(|e| step_failed(&e))?;
            if job != JobResult::Done {
                let message =
                    format!("systemd could not listen on {} for {}", socket.address, socket.listener);
                let hint = format!("systemctl status {}; is the port held by something else?", socket.unit);
                return Err(ErrorBody::new(ErrorCode::StepFailed, message, hint));
            }
        }
        if socket.address.port().is_some() {
            self.borrow(socket, nonblocking).await?;
        }
        Ok(Done::default())
    }

    /// The descriptor of a socket: held already, or lent by PID 1.
    async fn borrow(&self, socket: &Socket, nonblocking: bool) -> Result<Arc<Listener>, ErrorBody> {
        if let Some(held) = self.held.get(&socket.unit) {
            return Ok(held);
        }
        let app_is = if nonblocking { Blocking::NonBlocking } else { Blocking::Blocking };
        let lent = self.lender.borrow(&self.systemd, &socket.unit, app_is).await;
        self.keep(socket, lent.map_err(|e| step_failed(&e))?)
    }

    fn keep(&self, socket: &Socket, lent: Listener) -> Result<Arc<Listener>, ErrorBody> {
        let listener = Arc::new(lent);
        fdstore::keep(&socket.unit, &listener).map_err(|e| step_failed(&e))?;
        self.held.insert(&socket.unit, listener.clone());
        Ok(listener)
    }

    /// Held, or borrowed from a socket unit that runs; never starts one.
    async fn reach(&self, socket: &Socket, run: &Run) -> Result<Option<Arc<Listener>>, ErrorBody> {
        if let Some(held) = self.held.get(&socket.unit) {
            return Ok(Some(held));
        }
        // Its unit may still run, and would lend a socket that does not listen.
        if self.held.is_shut(&socket.unit) || !self.is_up(&socket.unit).await? {
            return Ok(None);
        }
        let state = run.state.lock().await;
        let live = state.live.and_then(|t| state.releases.get(&t.label)).cloned();
        let process =
            live.and_then(|r| r.document.spec.listen.get(&socket.listener).map(|l| l.process.clone()));
        let learned = process.and_then(|p| state.nonblocking.get(&p).copied());
        drop(state);
        let app_is = if learned.unwrap_or(true) { Blocking::NonBlocking } else { Blocking::Blocking };
        match self.lender.borrow(&self.systemd, &socket.unit, app_is).await {
            Ok(lent) => self.keep(socket, lent).map(Some),
            // An app shut it down, and then what we held was lost.
            Err(LenderError::NotAListener { .. }) => Ok(None),
            Err(e) => Err(step_failed(&e)),
        }
    }

    /// The members of a group that the kernel has, in the order of their indexes.
    async fn members(
        &self,
        group: &str,
        run: &Run,
    ) -> Result<Vec<(Socket, Option<Arc<Listener>>)>, ErrorBody> {
        let recorded = run.state.lock().await.groups.get(group).cloned().unwrap_or_default();
        let mut members = Vec::new();
        for socket in recorded {
            let held = self.reach(&socket, run).await?;
            members.push((socket, held));
        }
        let on = members.first().and_then(|(s, _)| bound(&s.address));
        let in_kernel = on.map_or(Ok(0), facts::listening).map_err(|e| step_failed(&e))?;
        // Everyone who is recorded is there, held by whomever: the order stands. Else only those count
        // that are surely there.
        if in_kernel < members.len() {
            members.retain(|(_, held)| held.is_some());
        }
        Ok(members)
    }

    /// The index of a socket in its group; `None` when it does not listen.
    pub(super) async fn index(&self, socket: &Socket, run: &Run) -> Result<Option<u8>, ErrorBody> {
        let members = self.members(&socket.group(), run).await?;
        Ok(members.iter().position(|(s, _)| s.tag == socket.tag).and_then(|i| u8::try_from(i).ok()))
    }

    pub(super) async fn steer(&self, sockets: &[Socket], to: Tag, run: &Run) -> Result<Done, ErrorBody> {
        let Some(group) = sockets.first().map(Socket::group) else { return Ok(Done::default()) };
        let members = self.members(&group, run).await?;
        let Some(index) = members.iter().position(|(s, _)| s.tag == to) else {
            return Ok(Done::note(format!("{to} does not listen any more: who is left gets everything")));
        };
        let Some(any) = members.iter().find_map(|(_, held)| held.clone()) else {
            let message = format!("no descriptor of {group} could be borrowed");
            let hint = "systemctl status 'deployd-fd@*'; deployd-ctl doctor";
            return Err(ErrorBody::new(ErrorCode::StepFailed, message, hint));
        };
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        let program = steering::only(self.settings.mark_prefix, index);
        let began = Instant::now();
        any.attach(&program).map_err(|e| step_failed(&e))?;
        Ok(Done::note(format!("{} µs", began.elapsed().as_micros())))
    }

    pub(super) async fn close(&self, socket: &Socket, run: &Run) -> Result<Done, ErrorBody> {
        if socket.is_grouped() {
            // What is still queued can only be handed on by who holds the socket.
            self.reach(socket, run).await?;
        }
        let state = self.systemd.unit(&socket.unit).await.map_err(|e| step_failed(&e))?;
        // A job on a socket waits for the one of its service: a stop of what is closed already would last as
        // long as that one drains.
        if state.is_some_and(|s| !s.is_down()) {
            self.systemd.stop(&socket.unit).await.map_err(|e| step_failed(&e))?;
        }
        self.systemd.reset_failed(&socket.unit).await.map_err(|e| step_failed(&e))?;
        Ok(Done::default())
    }

    pub(super) async fn await_empty(
        &self,
        socket: &Socket,
        quiet: Millis,
        cap: Millis,
    ) -> Result<Done, ErrorBody> {
        let Some(listener) = self.held.get(&socket.unit) else {
            return Ok(Done::note("not held: nothing to watch"));
        };
        let (began, mut last) = (Instant::now(), Instant::now());
        loop {
            let queued = listener.queue().map_err(|e| step_failed(&e))?.waiting;
            if queued > 0 {
                last = Instant::now();
            }
            if last.elapsed() >= Duration::from(quiet) {
                return Ok(Done::default());
            }
            if began.elapsed() >= Duration::from(cap) {
                return Ok(Done::note(format!("{queued} still queued after {} s", cap.0 / 1000)));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A unit of its own carries what is left, so that the agent's end cuts nothing.
    pub(super) async fn relay(
        &self,
        socket: &Socket,
        unit: &str,
        quiet: Millis,
        cap: Millis,
    ) -> Result<Done, ErrorBody> {
        let Some(to) = loopback(&socket.address) else { return Ok(Done::default()) };
        let Some(listener) = self.held.get(&socket.unit) else {
            return Ok(Done::note("not held: nothing to relay"));
        };
        let words = vec![
            format!("{}/deployd-exec", self.settings.runtime),
            "relay".to_owned(),
            socket.unit.clone(),
            "--to".to_owned(),
            to.to_string(),
            "--quiet-ms".to_owned(),
            quiet.0.to_string(),
            "--max-ms".to_owned(),
            cap.0.to_string(),
        ];
        let spec = TransientSpec {
            words,
            user: None,
            env: Vec::new(),
            properties: Vec::new(),
            stdin: None,
            output: Some(super::output_of(unit)),
            timeout: Duration::from(cap) + Duration::from_secs(15),
        };
        self.lender.offer(&socket.unit, listener);
        let ran = self.systemd.run_transient(unit, &spec).await;
        self.lender.withdraw(&socket.unit);
        drop(std::fs::remove_file(super::output_of(unit)));
        match ran {
            Ok(outcome) => Ok(Done::note(outcome.output.trim().to_owned())),
            // Nothing is lost that was served before; the kernel's migration is the second net.
            Err(e) => Ok(Done::note(format!("relay did not run: {e}"))),
        }
    }

    pub(super) async fn leave(&self, socket: &Socket, run: &Run) -> Result<Done, ErrorBody> {
        if socket.is_grouped() && self.is_up(&socket.unit).await? {
            return Ok(Done::note(format!("{} runs again: it stays", socket.unit)));
        }
        let held = self.held.remove(&socket.unit);
        let gone = match held.filter(|_| socket.is_grouped()) {
            Some(listener) => {
                // Out of the group for everyone who holds it, whether or not the old processes closed it.
                listener.shutdown_read().map_err(|e| step_failed(&e))?;
                true
            }
            None => self.is_gone(socket, run).await?,
        };
        fdstore::forget(&socket.unit).map_err(|e| step_failed(&e))?;
        let left = Change::Left { socket: socket.clone() };
        Ok(Done { note: None, learned: (gone && socket.is_grouped()).then_some(left) })
    }

    /// Whether nobody holds a socket that is not borrowed any more: there are fewer in the kernel than are
    /// recorded, and its unit is down.
    async fn is_gone(&self, socket: &Socket, run: &Run) -> Result<bool, ErrorBody> {
        let Some(on) = bound(&socket.address) else { return Ok(true) };
        let recorded = run.state.lock().await.groups.get(&socket.group()).map_or(0, Vec::len);
        let in_kernel = facts::listening(on).map_err(|e| step_failed(&e))?;
        Ok(in_kernel < recorded && !self.is_up(&socket.unit).await?)
    }

    /// What the first instance made of `O_NONBLOCK`: read once it has accepted something, because only
    /// then it has surely set what it wants.
    pub(super) async fn learn(&self, socket: &Socket, run: &Run) -> Result<Option<Blocking>, ErrorBody> {
        let (Some(listener), Some(to)) = (self.held.get(&socket.unit), loopback(&socket.address)) else {
            return Ok(None);
        };
        let Some(index) = self.index(socket, run).await? else { return Ok(None) };
        let Some((first, limit)) = first_instance(socket, run).await else { return Ok(None) };
        let mark = self.settings.mark_prefix.mark(index);
        let began = Instant::now();
        // A candidate that has ended already is for the check to judge, and at once.
        while began.elapsed() < limit && !self.has_ended(&first).await? {
            let target = Target::Tcp { addr: to, mark: Some(mark) };
            let touched = probe::tcp(&target, ONE_TRY).await;
            if touched.failure.is_none() && self.drained(&listener).await {
                return listener.blocking().map(Some).map_err(|e| step_failed(&e));
            }
        }
        Ok(None)
    }

    /// Whether an instance ended since it was started for the first time.
    async fn has_ended(&self, unit: &str) -> Result<bool, ErrorBody> {
        let state = self.systemd.unit(unit).await.map_err(|e| step_failed(&e))?;
        Ok(state.is_none_or(|s| s.is_down() || s.n_restarts > 0))
    }

    /// Whether what is queued gets accepted soon.
    async fn drained(&self, listener: &Listener) -> bool {
        let began = Instant::now();
        while began.elapsed() < ONE_TRY {
            if listener.queue().is_ok_and(|q| q.waiting == 0) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }
}

/// The first instance behind a socket, and how long its release allows it to start.
async fn first_instance(socket: &Socket, run: &Run) -> Option<(String, Duration)> {
    let state = run.state.lock().await;
    let spec = &state.releases.get(&socket.tag.label)?.document.spec;
    let process = &spec.listen.get(&socket.listener)?.process;
    let unit = units::instance(&spec.app, process, socket.tag, 1).unit;
    Some((unit, Duration::from(spec.deploy.wait_timeout).min(ACCEPT_WITHIN)))
}
