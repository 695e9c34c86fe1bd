//! Deploy locks: taken on all hosts in their order, renewed while we work, released on every way out.
//!
//! A lease that nobody renews ends by itself, so a ctl that is gone blocks nobody for long. No two of us can
//! wait for one another: whoever waits for a host holds only hosts before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::{LEASE_HEADER, LEASE_TTL_MS, Lease, LeaseRequest};
use deployd_api::ids::AppName;
use deployd_api::spec::Millis;
use futures_util::future::join_all;
use hyper::Method;
use tokio::sync::watch;

use crate::client::Client;
use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::fanout;
use crate::project;
use crate::rollout::crew;

/// How often a lease is renewed: three times in its life.
const RENEW_EVERY: Duration = Duration::from_millis(LEASE_TTL_MS / 3);
/// How long one renewal may take.
const RENEWAL: Duration = Duration::from_secs(4);
/// How often a lease that another one holds is asked for.
const POLL: Duration = Duration::from_secs(1);
/// How long giving back may take at the end of the command: what is not heard ends by itself.
const RELEASE: Duration = Duration::from_millis(900);

/// A lease on one host.
#[derive(Debug, Clone)]
struct Held {
    client: Client,
    epoch: u64,
}

/// What the command and the renewal share.
#[derive(Debug)]
struct Shared {
    path: String,
    request: LeaseRequest,
    held: Mutex<BTreeMap<String, Held>>,
    /// Held in a round of renewals, so that none arrives after the release.
    round: tokio::sync::Mutex<()>,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, client: &Client) -> Result<Lease, CtlError> {
        client.call(Method::POST, &self.path, &self.request).await
    }

    async fn give_back(&self, client: &Client) {
        // One that does not hear it lets the lease run out.
        let _ = client.tell(Method::DELETE, &format!("{}?id={}", self.path, self.request.id)).await;
    }
}

/// The leases of a command.
#[derive(Debug)]
pub(crate) struct Leases {
    shared: Arc<Shared>,
    lost: watch::Receiver<Option<ErrorBody>>,
    renewal: tokio::task::JoinHandle<()>,
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Leases {
    fn new(app: &AppName, reason: &str) -> Result<Self, CtlError> {
        let request = LeaseRequest {
            id: project::new_id()?,
            holder: project::origin().by,
            reason: reason.to_owned(),
            ttl_ms: LEASE_TTL_MS,
        };
        let path = format!("/apps/{app}/lease");
        let shared =
            Arc::new(Shared { path, request, held: Mutex::default(), round: tokio::sync::Mutex::default() });
        let (tell, lost) = watch::channel(None);
        let renewal = tokio::spawn(renew(shared.clone(), tell));
        Ok(Self { shared, lost, renewal })
    }

    /// The host's agent, called under the lease.
    pub(crate) fn client(&self, host: &Host) -> Client {
        match self.shared.held().get(&host.name) {
            Some(held) => {
                held.client.with_header(LEASE_HEADER, format!("{};{}", self.shared.request.id, held.epoch))
            }
            None => host.client.clone(),
        }
    }

    /// Ends when a lease is lost.
    pub(crate) async fn lost(&self) -> ErrorBody {
        let mut lost = self.lost.clone();
        loop {
            if let Some(body) = lost.borrow_and_update().clone() {
                return body;
            }
            if lost.changed().await.is_err() {
                // Nothing is renewed any more: the command ends, and waits for nothing here.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes the lease on a host again that says it is not held. It is ours as long as nobody else had it.
    pub(crate) async fn again(&self, host: &Host) -> Result<(), ErrorBody> {
        let _round = self.shared.round.lock().await;
        let held = self.shared.held().get(&host.name).cloned();
        let Some(held) = held else { return Err(gone(&host.name, "it is not held any more")) };
        renew_one(&self.shared, &host.name, &held).await.map_or(Ok(()), Err)
    }

    /// Gives all back, as far as hosts hear it.
    pub(crate) async fn release(&self) {
        let all = async {
            // First, since a round waits for hosts that are silent.
            self.renewal.abort();
            let _round = self.shared.round.lock().await;
            let held = std::mem::take(&mut *self.shared.held());
            join_all(held.values().map(|held| self.shared.give_back(&held.client))).await;
        };
        // Too late is not wrong: they run out.
        let _ = tokio::time::timeout(RELEASE, all).await;
    }

    fn keep(&self, host: &Host, lease: &Lease) {
        let held = Held { client: host.client.clone(), epoch: lease.epoch };
        self.shared.held().insert(host.name.clone(), held);
    }

    /// Asks these hosts at once and keeps what comes before the first that refuses: its place and why.
    async fn advance(&self, hosts: &[Host]) -> Option<(usize, CtlError)> {
        let shared = &self.shared;
        let answers = fanout::ask(hosts, |client| async move { shared.ask(&client).await }).await;
        let mut refused = None;
        let mut beyond = Vec::new();
        for (index, (host, answer)) in answers.into_iter().enumerate() {
            match (answer, &refused) {
                (Ok(lease), None) => self.keep(&host, &lease),
                (Ok(_), Some(_)) => beyond.push(host),
                (Err(error), None) => refused = Some((index, error)),
                (Err(_), Some(_)) => {}
            }
        }
        join_all(beyond.iter().map(|host| shared.give_back(&host.client))).await;
        refused
    }
}

/// For what asks no one: a person's abort goes before whoever holds the lease.
pub(crate) fn none(context: &Context<'_>, app: &AppName) -> Result<(), CtlError> {
    context.hold(Leases::new(app, "")?);
    Ok(())
}

/// Takes the leases of an app on these hosts; the context has them from then on, and gives them back.
pub(crate) async fn take(
    context: &Context<'_>,
    app: &AppName,
    hosts: &[Host],
    reason: &str,
    patience: Millis,
) -> Result<(), CtlError> {
    let leases = context.hold(Leases::new(app, reason)?);
    let began = Instant::now();
    let mut said = String::new();
    let (mut next, mut waits) = (0, false);
    while next < hosts.len() {
        // While it waits, it asks only for the one that it waits for.
        let asked = if waits { &hosts[next..=next] } else { &hosts[next..] };
        let count = asked.len();
        match leases.advance(asked).await {
            None => (next, waits) = (next + count, false),
            Some((index, CtlError::Answer(body)))
                if body.code == ErrorCode::LeaseHeld && began.elapsed() < Duration::from(patience) =>
            {
                (next, waits) = (next + index, true);
                say_waiting(context, &body, patience, &mut said);
                tokio::time::sleep(POLL).await;
            }
            Some((index, error)) if error.is_absence() && context.is_fleet() => {
                return Err(CtlError::Answer(Box::new(crew::absent(&hosts[next + index].name, &error))));
            }
            Some((_, error)) => return Err(error),
        }
    }
    Ok(())
}

/// Once, and again when somebody else holds it.
fn say_waiting(context: &Context<'_>, body: &ErrorBody, patience: Millis, said: &mut String) {
    let message = body.message.trim_end_matches('.');
    // How long ago it was renewed changes all the time.
    let holder = message.split(", renewed").next().unwrap_or(message);
    if said == holder {
        return;
    }
    holder.clone_into(said);
    context.on_interrupt("stopped waiting; nothing was touched".to_owned());
    context
        .printer
        .talk(&format!("error {}: {message}. Waiting up to {patience}; Ctrl-C to stop.", body.code));
}

async fn renew(shared: Arc<Shared>, lost: watch::Sender<Option<ErrorBody>>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let _round = shared.round.lock().await;
        let held = shared.held().clone();
        let rounds = held.iter().map(|(host, held)| renew_one(&shared, host, held));
        if let Some(body) = join_all(rounds).await.into_iter().flatten().next() {
            // Nobody listens any more when the command ends at this moment.
            let _ = lost.send(Some(body));
            return;
        }
    }
}

/// Renews one; why it is lost, if it is. A host that does not answer is none that gave it to somebody else.
async fn renew_one(shared: &Shared, host: &str, held: &Held) -> Option<ErrorBody> {
    let answer = tokio::time::timeout(RENEWAL, shared.ask(&held.client)).await.ok()?;
    match answer {
        // It ran out while the host was away, and nobody else had it: each holder adds one.
        Ok(lease) if lease.epoch <= held.epoch + 1 => {
            if let Some(own) = shared.held().get_mut(host) {
                own.epoch = lease.epoch;
            }
            None
        }
        Ok(_) => Some(gone(host, "another command had it meanwhile")),
        Err(CtlError::Answer(body)) if matches!(body.code, ErrorCode::LeaseHeld | ErrorCode::LeaseLost) => {
            Some(gone(host, &body.message))
        }
        Err(_) => None,
    }
}

fn gone(host: &str, why: &str) -> ErrorBody {
    let what = format!("the lease on {host} was lost");
    ErrorBody::new(ErrorCode::LeaseLost, what, "see who has it, then run it again")
        .cause("what", why.trim_end_matches('.'))
}
