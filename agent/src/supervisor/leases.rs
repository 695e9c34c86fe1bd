//! The deploy lock of an app: who may change it now.
//!
//! A lease expires by the clock that never jumps, and with the boot: nobody's death blocks an app. What is decided
//! is pure; [`Leases`] keeps it, durable before it is answered, so that a restart of the agent forgets none.

use std::collections::BTreeMap;
use std::str::FromStr;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::{LEASE_TTL_MAX_MS, Lease, LeaseRequest};
use deployd_api::ids::{AppName, DeploymentId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::refusal::{json, store_failed};
use crate::driver::clock;
use crate::store::Store;

/// What a call says of the lease it is made under: `ID;EPOCH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub id: DeploymentId,
    /// Which time it was given.
    pub epoch: u64,
}

impl FromStr for Claim {
    type Err = ErrorBody;
    fn from_str(text: &str) -> Result<Self, ErrorBody> {
        let parts = text.split_once(';').and_then(|(id, epoch)| {
            Some(Self { id: id.trim().parse().ok()?, epoch: epoch.trim().parse().ok()? })
        });
        parts.ok_or_else(|| {
            let message = format!("`{text}` names no lease");
            ErrorBody::new(ErrorCode::BadRequest, message, "the header is deployd-lease: ID;EPOCH")
        })
    }
}

/// A lease as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    id: DeploymentId,
    holder: String,
    reason: String,
    since: Timestamp,
    /// Both by the boot's clock.
    renewed_ms: u64,
    expires_ms: u64,
    boot_id: String,
}

/// What is kept of an app's leases.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// That of the last holder; it never goes back.
    epoch: u64,
    held: Option<Held>,
}

/// When it is.
#[derive(Debug, Clone)]
struct Now {
    at: Timestamp,
    up_ms: u64,
    boot_id: String,
}

impl Kept {
    /// Who holds it now.
    fn held(&self, now: &Now) -> Option<&Held> {
        self.held.as_ref().filter(|h| h.boot_id == now.boot_id && now.up_ms < h.expires_ms)
    }

    fn shown(&self, now: &Now) -> Option<Lease> {
        self.held(now).map(|held| Lease {
            id: held.id.clone(),
            epoch: self.epoch,
            holder: held.holder.clone(),
            reason: held.reason.clone(),
            since: held.since,
            renewed_ms_ago: now.up_ms.saturating_sub(held.renewed_ms),
            expires_in_ms: held.expires_ms.saturating_sub(now.up_ms),
        })
    }

    /// Taken, or renewed by the one who holds it.
    fn taken(&self, request: &LeaseRequest, now: &Now) -> Result<Self, Box<Lease>> {
        let expires_ms = now.up_ms.saturating_add(request.ttl_ms.clamp(1, LEASE_TTL_MAX_MS));
        if let Some(other) = self.shown(now).filter(|lease| lease.id != request.id) {
            return Err(Box::new(other));
        }
        if let Some(held) = self.held(now) {
            let reason = request.reason.clone();
            let held = Held { reason, renewed_ms: now.up_ms, expires_ms, ..held.clone() };
            return Ok(Self { epoch: self.epoch, held: Some(held) });
        }
        let held = Held {
            id: request.id.clone(),
            holder: request.holder.clone(),
            reason: request.reason.clone(),
            since: now.at,
            renewed_ms: now.up_ms,
            expires_ms,
            boot_id: now.boot_id.clone(),
        };
        Ok(Self { epoch: self.epoch + 1, held: Some(held) })
    }

    /// Given up; another's stays.
    fn given_up(&self, id: &DeploymentId) -> Self {
        Self { epoch: self.epoch, held: self.held.clone().filter(|held| held.id != *id) }
    }

    /// Whether a call may change the app.
    fn admits(&self, claim: Option<&Claim>, now: &Now) -> Result<(), Denied> {
        match (self.shown(now), claim) {
            (None, None) => Ok(()),
            (Some(lease), Some(claim)) if lease.id == claim.id && lease.epoch == claim.epoch => Ok(()),
            (Some(lease), Some(claim)) if claim.epoch < lease.epoch => {
                Err(Denied::Lost(Some(Box::new(lease))))
            }
            (Some(lease), _) => Err(Denied::Held(Box::new(lease))),
            (None, Some(_)) => Err(Denied::Lost(None)),
        }
    }
}

/// Why a call may not change the app.
#[derive(Debug, PartialEq, Eq)]
enum Denied {
    /// Somebody else may.
    Held(Box<Lease>),
    /// The caller might once; who may now.
    Lost(Option<Box<Lease>>),
}

impl Denied {
    fn body(self, app: &AppName) -> ErrorBody {
        match self {
            Self::Held(lease) => held(app, &lease),
            Self::Lost(lease) => {
                let who = lease.map_or("it expired".to_owned(), |l| format!("{} has it now", l.holder));
                let message =
                    format!("the lease of {app} that this call was made under is not held any more: {who}");
                let hint = format!("take it again; deployd-ctl rollout status -a {app} shows what was done");
                ErrorBody::new(ErrorCode::LeaseLost, message, hint)
            }
        }
    }
}

/// Another may deploy the app, not the caller.
fn held(app: &AppName, lease: &Lease) -> ErrorBody {
    let reason = if lease.reason.is_empty() { String::new() } else { format!(" ({})", lease.reason) };
    let at = httpdate::fmt_http_date(std::time::SystemTime::UNIX_EPOCH + since(lease));
    let message = format!(
        "{app} is being deployed by {}{reason} since {at}, renewed {} s ago",
        lease.holder,
        lease.renewed_ms_ago / 1000
    );
    let left = lease.expires_in_ms.div_ceil(1000);
    let hint = format!(
        "wait for it: deployd-ctl rollout status -a {app}; if its holder is gone, the lease ends by itself in {left} s"
    );
    ErrorBody::new(ErrorCode::LeaseHeld, message, hint).about(lease.id.to_string())
}

fn since(lease: &Lease) -> std::time::Duration {
    std::time::Duration::from_millis(lease.since.0)
}

/// The leases of all apps of a host, those of apps that it does not know yet as well.
#[derive(Debug)]
pub(super) struct Leases {
    store: Store,
    boot_id: String,
    /// Those that were looked at in this life of the agent.
    kept: Mutex<BTreeMap<AppName, Kept>>,
}

impl Leases {
    pub(super) fn new(store: Store, boot_id: String) -> Self {
        Self { store, boot_id, kept: Mutex::default() }
    }

    fn now(&self) -> Now {
        Now { at: clock::now(), up_ms: clock::up_ms(), boot_id: self.boot_id.clone() }
    }

    /// Who holds it.
    pub(super) async fn shown(&self, app: &AppName) -> Result<Option<Lease>, ErrorBody> {
        let mut all = self.kept.lock().await;
        Ok(self.of(&mut all, app).await?.shown(&self.now()))
    }

    pub(super) async fn take(&self, app: &AppName, request: &LeaseRequest) -> Result<Lease, ErrorBody> {
        let mut all = self.kept.lock().await;
        let now = self.now();
        let next = self.of(&mut all, app).await?.taken(request, &now).map_err(|other| held(app, &other))?;
        let lease = next.shown(&now);
        self.put(&mut all, app, next).await?;
        lease.ok_or_else(|| Denied::Lost(None).body(app))
    }

    /// Gives it up; answers who holds it then.
    pub(super) async fn give_up(&self, app: &AppName, id: &DeploymentId) -> Result<Option<Lease>, ErrorBody> {
        let mut all = self.kept.lock().await;
        let next = self.of(&mut all, app).await?.given_up(id);
        let lease = next.shown(&self.now());
        self.put(&mut all, app, next).await?;
        Ok(lease)
    }

    /// Whether a call may change the app.
    pub(super) async fn check(&self, app: &AppName, claim: Option<&Claim>) -> Result<(), ErrorBody> {
        let mut all = self.kept.lock().await;
        let kept = self.of(&mut all, app).await?;
        kept.admits(claim, &self.now()).map_err(|denied| denied.body(app))
    }

    async fn of(&self, all: &mut BTreeMap<AppName, Kept>, app: &AppName) -> Result<Kept, ErrorBody> {
        if let Some(kept) = all.get(app) {
            return Ok(kept.clone());
        }
        let text = self.store.get_meta(key(app)).await.map_err(|e| store_failed(&e))?;
        let kept: Kept = text
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|e| {
                let message = format!("what this host knows of leases of {app} cannot be read: {e}");
                ErrorBody::new(
                    ErrorCode::Internal,
                    message,
                    "install the deployd that wrote it, or a newer one",
                )
            })?
            .unwrap_or_default();
        all.insert(app.clone(), kept.clone());
        Ok(kept)
    }

    /// Durable first: what was answered is never forgotten.
    async fn put(
        &self,
        all: &mut BTreeMap<AppName, Kept>,
        app: &AppName,
        next: Kept,
    ) -> Result<(), ErrorBody> {
        if all.get(app) != Some(&next) {
            self.store.put_note(key(app), json(&next)?).await.map_err(|e| store_failed(&e))?;
            all.insert(app.clone(), next);
        }
        Ok(())
    }
}

fn key(app: &AppName) -> String {
    format!("lease:{app}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> DeploymentId {
        DeploymentId::from_random([n; 16])
    }

    fn now(up_ms: u64, boot: &str) -> Now {
        // The wall clock goes backwards: nothing goes by it.
        Now { at: Timestamp(1_000_000 - up_ms), up_ms, boot_id: boot.to_owned() }
    }

    fn asks(n: u8, ttl_ms: u64) -> LeaseRequest {
        LeaseRequest { id: id(n), holder: format!("ops-{n}"), reason: "push v2".to_owned(), ttl_ms }
    }

    /// Who asks, when and in which boot, and the epoch that it gets; `None` is refused.
    #[test]
    fn one_holds_it_until_it_expires() {
        let cases = [
            (1, 0, "a", Some(1)),
            (2, 10, "a", None),
            (1, 90, "a", Some(1)), // renewed: holds until 190
            (2, 150, "a", None),
            (2, 189, "a", None),
            (2, 190, "a", Some(2)), // expired
            (1, 200, "a", None),
            (1, 5, "b", Some(3)),    // rebooted: whatever the clock says
            (1, 1000, "b", Some(4)), // its own that expired is another one
        ];
        let mut kept = Kept::default();
        for (who, at, boot, want) in cases {
            let now = now(at, boot);
            let got = kept.taken(&asks(who, 100), &now);
            assert_eq!(got.as_ref().ok().map(|k| k.epoch), want, "{who} at {at} in {boot}");
            match got {
                Ok(next) => {
                    // The agent may die here: what is read again is the same.
                    let text = serde_json::to_string(&next).unwrap();
                    kept = serde_json::from_str(&text).unwrap();
                    assert_eq!((&kept, kept.shown(&now).unwrap().id), (&next, id(who)));
                }
                Err(other) => assert!(other.id != id(who) && other.expires_in_ms > 0),
            }
        }
    }

    #[test]
    fn calls_go_by_the_lease() {
        let held = Kept::default().taken(&asks(1, 100), &now(0, "a")).unwrap();
        let again = Kept { epoch: 4, held: None }.taken(&asks(1, 100), &now(0, "a")).unwrap();
        let claim = |n, epoch| Some(Claim { id: id(n), epoch });
        let cases = [
            (&held, claim(1, 1), 50, "a", "yes"),
            (&held, None, 50, "a", "held"),
            (&held, claim(2, 1), 50, "a", "held"),
            (&held, claim(1, 2), 50, "a", "held"),
            (&again, claim(1, 5), 50, "a", "yes"),
            (&again, claim(1, 4), 50, "a", "lost"),
            (&again, claim(2, 4), 50, "a", "lost"),
            // Expired, or of another boot: whoever has none may, whoever had one must know.
            (&held, None, 100, "a", "yes"),
            (&held, claim(1, 1), 100, "a", "lost"),
            (&held, None, 50, "b", "yes"),
            (&held, claim(1, 1), 50, "b", "lost"),
        ];
        for (kept, claim, at, boot, want) in cases {
            let got = match kept.admits(claim.as_ref(), &now(at, boot)) {
                Ok(()) => "yes",
                Err(Denied::Held(_)) => "held",
                Err(Denied::Lost(_)) => "lost",
            };
            assert_eq!(got, want, "{claim:?} at {at} in {boot}");
        }
    }

    #[test]
    fn only_its_holder_gives_it_up_and_the_next_epoch_is_higher() {
        let held = Kept::default().taken(&asks(1, 100), &now(0, "a")).unwrap();
        assert_eq!(held.given_up(&id(2)), held);
        let free = held.given_up(&id(1));
        assert_eq!(free.shown(&now(1, "a")), None);
        assert_eq!(free.taken(&asks(2, 100), &now(1, "a")).unwrap().epoch, 2);
    }

    #[test]
    fn it_has_a_longest_time() {
        let held = Kept::default().taken(&asks(1, u64::MAX), &now(0, "a")).unwrap();
        assert_eq!(held.shown(&now(0, "a")).unwrap().expires_in_ms, LEASE_TTL_MAX_MS);
    }

    #[test]
    fn claims_are_read_strictly() {
        let text = format!("{};7", id(1));
        assert_eq!(text.parse::<Claim>().unwrap(), Claim { id: id(1), epoch: 7 });
        for bad in ["", ";", "x", &format!("{}", id(1)), &format!("{};", id(1)), &format!("{};-1", id(1))] {
            assert_eq!(bad.parse::<Claim>().unwrap_err().code, ErrorCode::BadRequest, "{bad}");
        }
    }
}
