//! Listeners: open, borrow, steer, watch the queue, hand on what is left, give up.
//!
//! PID 1 owns every socket. The agent only borrows descriptors, so nothing here is needed for an app to
//! serve, to restart or to boot.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::spec::{Address, Millis};
use deployd_core::action::{Instance, Socket};
use deployd_core::state::{Change, Tag};
use deployd_core::steering;

use super::RealHost;
use super::failure::step_failed;
use super::instances::ended;
use crate::driver::{Done, Run};
use crate::host::facts;
use crate::host::fdstore;
use crate::host::lender::LenderError;
use crate::host::listener::{Blocking, Listener};
use crate::host::probe::{self, Target};
use crate::host::systemd::{JobResult, SystemdError, TransientSpec};

/// How often a queue is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long one connection may wait to be accepted before another is tried.
const ONE_TRY: Duration = Duration::from_secs(1);
/// Rest before it is.
const AGAIN: Duration = Duration::from_millis(20);
/// How much longer than it accepts a relay may take to say that it does not any more.
const RELAY_MORE: Duration = Duration::from_secs(15);
/// How many relays of one listener may carry at once.
const RELAYS: u32 = 9;

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
        let process = state.live_spec().and_then(|spec| spec.listen.get(&socket.listener));
        let process = process.map(|l| l.process.clone());
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

    /// A unit of its own carries what is left, so that the agent's end cuts nothing. It returns when that unit
    /// accepts no more; what it carries, it carries on.
    pub(super) async fn relay(
        &self,
        socket: &Socket,
        unit: &str,
        [quiet, cap]: [Millis; 2],
        carry: Option<Millis>,
    ) -> Result<Done, ErrorBody> {
        let Some(to) = socket.address.loopback() else { return Ok(Done::default()) };
        let Some(listener) = self.held.get(&socket.unit) else {
            return Ok(Done::note("not held: nothing to relay"));
        };
        let runtime = &self.settings.runtime;
        let mut words: Vec<String> =
            vec![format!("{runtime}/deployd-exec"), "relay".to_owned(), socket.unit.clone()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--to", to.to_string());
        option("--quiet-ms", quiet.0.to_string());
        option("--max-ms", cap.0.to_string());
        if let Some(carry) = carry {
            option("--carry-ms", carry.0.to_string());
        }
        let timeout = Duration::from(cap) + RELAY_MORE;
        let spec = TransientSpec { words, timeout, ..TransientSpec::default() };
        self.lender.offer(&socket.unit, listener);
        let said = self.hand_over(unit, &spec).await;
        self.lender.withdraw(&socket.unit);
        match said {
            Ok(said) => Ok(Done { note: said, learned: None }),
            // Nothing is lost that was served before; the kernel's migration is the second net.
            Err(e) => Ok(Done::note(format!("relay did not run: {e}"))),
        }
    }

    /// A relay of the same name may run: one that an agent began which died is waited for, because nobody may
    /// close the listener while it accepts. One that only carries is left alone, and another one has a look.
    async fn hand_over(&self, unit: &str, spec: &TransientSpec) -> Result<Option<String>, SystemdError> {
        let stem = unit.trim_end_matches(".service");
        let names = (2..=RELAYS).map(|n| format!("{stem}_{n}.service"));
        let mut last = None;
        for name in std::iter::once(unit.to_owned()).chain(names) {
            match self.systemd.hand_over(&name, spec).await {
                Err(e) if e.is_unit_exists() => last = Some(e),
                other => return other,
            }
            if !self.systemd.settled(&name, spec.timeout).await? {
                // It has ended, and with it everything that it took.
                self.systemd.clear(&name).await?;
                return self.systemd.hand_over(&name, spec).await;
            }
        }
        last.map_or(Ok(None), Err)
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
    /// then it has surely set what it wants. One that never does has failed: it must not get traffic.
    pub(super) async fn learn(
        &self,
        first: &Instance,
        socket: &Socket,
        patience: Patience,
        run: &Run,
    ) -> Result<Blocking, ErrorBody> {
        let (Some(listener), Some(addr)) = (self.reach(socket, run).await?, socket.address.loopback()) else {
            return Err(self.start_failed(first, &self.absent(socket), run).await);
        };
        let Some(index) = self.index(socket, run).await? else {
            return Err(self.start_failed(first, &self.absent(socket), run).await);
        };
        let target = Target::Tcp { addr, mark: Some(self.settings.mark_prefix.mark(index)) };
        let place = socket.address.to_string();
        tokio::select! {
            accepted = self.accepts(first, &target, &place, patience, run) => accepted?,
            () = self.shut(socket) => return Err(self.start_failed(first, &self.absent(socket), run).await),
        }
        listener.blocking().map_err(|e| step_failed(&e))
    }

    /// Why a release has no part in its group, in words.
    pub(super) fn absent(&self, socket: &Socket) -> String {
        if self.held.is_shut(&socket.unit) {
            format!("it shut down its listener {}", socket.listener)
        } else {
            format!("nothing listens on {} for it", socket.address)
        }
    }

    /// Waits until somebody has shut down a listener that is held.
    async fn shut(&self, socket: &Socket) {
        while !self.held.is_shut(&socket.unit) {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until an instance with a private port accepts there.
    pub(super) async fn await_port(
        &self,
        instance: &Instance,
        port: u16,
        patience: Patience,
        run: &Run,
    ) -> Result<Done, ErrorBody> {
        let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let target = Target::Tcp { addr, mark: None };
        self.accepts(instance, &target, &format!("{addr}, its PORT"), patience, run).await?;
        Ok(Done::default())
    }

    /// Tries until a connection is accepted.
    async fn accepts(
        &self,
        instance: &Instance,
        target: &Target,
        place: &str,
        patience: Patience,
        run: &Run,
    ) -> Result<(), ErrorBody> {
        let limit = Duration::from(patience.timeout);
        let began = Instant::now();
        loop {
            self.not_given_up(instance, patience.restarts, run).await?;
            let Some(failure) = probe::tcp(target, ONE_TRY).await.failure else { return Ok(()) };
            if began.elapsed() >= limit.saturating_sub(run.elapsed) {
                let why = format!("it accepted no connection on {place} within {} s", limit.as_secs());
                let body = self.start_failed(instance, &why, run).await;
                return Err(body.cause("last try", failure.to_string()));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// A failure when an instance ended for good, or too often.
    async fn not_given_up(&self, instance: &Instance, restarts: u32, run: &Run) -> Result<(), ErrorBody> {
        let state = self.systemd.unit(&instance.unit).await.map_err(|e| step_failed(&e))?;
        let Some(state) = state else {
            return Err(self.start_failed(instance, "its unit is gone", run).await);
        };
        if state.n_restarts > restarts || state.active_state == "failed" {
            let times =
                if state.n_restarts > 1 { format!(", {} times", state.n_restarts) } else { String::new() };
            return Err(self.start_failed(instance, &format!("{}{times}", ended(&state)), run).await);
        }
        Ok(())
    }
}

/// How long a first accept is waited for, and how many crashes are forgiven meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Longest wait.
    pub(super) timeout: Millis,
    /// Crashes.
    pub(super) restarts: u32,
}
