//! What a fleet is doing, as the ctl that drives it wrote it down: any other ctl can go on from it.
//!
//! The host keeps it and goes by nothing of it: what it did itself is in its own journal.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::fleet::{Rollout, RolloutState};
use deployd_api::ids::{AppName, DeploymentId};

use super::refusal::{json, store_failed};
use crate::store::Store;

/// How many are kept of an app.
const KEPT: usize = 10;
/// Most hosts of one.
const HOSTS_MAX: usize = 10_000;

/// The last rollouts of an app, the newest last.
async fn load(store: &Store, app: &AppName) -> Result<Vec<Rollout>, ErrorBody> {
    let text = store.get_meta(key(app)).await.map_err(|e| store_failed(&e))?;
    let Some(text) = text else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|e| {
        let message = format!("what this host knows of rollouts of {app} cannot be read: {e}");
        ErrorBody::new(ErrorCode::Internal, message, "install the deployd that wrote it, or a newer one")
    })
}

/// One by its id, or the last one.
pub(super) async fn find(
    store: &Store,
    app: &AppName,
    id: Option<&DeploymentId>,
) -> Result<Rollout, ErrorBody> {
    let all = load(store, app).await?;
    let found = all.into_iter().rev().find(|r| id.is_none_or(|id| r.id == *id));
    found.ok_or_else(|| {
        let what = id.map_or(String::new(), |id| format!(" {id}"));
        let message = format!("there is no rollout{what} of {app} on this host");
        ErrorBody::new(
            ErrorCode::RolloutNotFound,
            message,
            format!("deployd-ctl status -a {app} shows what runs; deployd-ctl push begins one"),
        )
    })
}

/// Those that may still go on: a host that has not begun one yet will.
pub(super) async fn open(store: &Store, app: &AppName) -> Result<Vec<Rollout>, ErrorBody> {
    let going = |r: &Rollout| matches!(r.state, RolloutState::Sending | RolloutState::Running);
    Ok(load(store, app).await?.into_iter().filter(going).collect())
}

/// Keeps one, durable. The caller holds the lock of rollouts.
pub(super) async fn put(store: &Store, app: &AppName, rollout: Rollout) -> Result<Rollout, ErrorBody> {
    let id = rollout.id.clone();
    let all = with(load(store, app).await?, app, rollout).map_err(|e| *e)?;
    store.put_note(key(app), json(&all)?).await.map_err(|e| store_failed(&e))?;
    find(store, app, Some(&id)).await
}

/// The list with a rollout in it: in its place, or as the newest.
fn with(mut all: Vec<Rollout>, app: &AppName, rollout: Rollout) -> Result<Vec<Rollout>, Box<ErrorBody>> {
    check(app, &rollout)?;
    match all.iter_mut().find(|known| known.id == rollout.id) {
        Some(known) => {
            let same = known.label == rollout.label && known.document == rollout.document;
            if !same {
                let message =
                    format!("rollout {} of {app} moves to another release: {}", rollout.id, known.label);
                return wrong(message, "a rollout moves to one release: begin another");
            }
            // Who began it stays: another ctl that goes on says so in what it does on each host.
            let origin = known.origin.clone();
            *known = Rollout { origin, ..rollout };
        }
        None => all.push(rollout),
    }
    let surplus = all.len().saturating_sub(KEPT);
    all.drain(..surplus);
    Ok(all)
}

fn wrong<T>(message: String, hint: &str) -> Result<T, Box<ErrorBody>> {
    Err(Box::new(ErrorBody::new(ErrorCode::BadRequest, message, hint)))
}

fn check(app: &AppName, rollout: &Rollout) -> Result<(), Box<ErrorBody>> {
    for of in [&rollout.app, &rollout.document.spec.app] {
        if of != app {
            let message = format!("the path says {app}, the rollout says {of}");
            return wrong(message, "send it to its own app's route");
        }
    }
    let mut names: Vec<&str> = rollout.hosts.iter().map(|h| h.host.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    if count == 0 || count > HOSTS_MAX || names.len() != count {
        let message = format!("a rollout has 1 to {HOSTS_MAX} hosts, each once: {count} are named");
        return wrong(message, "name each host once");
    }
    let migrates = rollout.migrate_on.as_ref().map(deployd_api::ids::HostName::as_str);
    if let Some(host) = migrates.filter(|host| !names.contains(host)) {
        return wrong(
            format!("{host}, which is to migrate, is no host of the rollout"),
            "name one of its hosts",
        );
    }
    Ok(())
}

/// Where they are noted.
pub fn key(app: &AppName) -> String {
    format!("rollouts:{app}")
}

#[cfg(test)]
mod tests {
    use deployd_api::fleet::{OnFailure, RolloutHost};
    use deployd_api::ids::{Digest, Timestamp};
    use deployd_api::release::{Origin, ReleaseDocument};

    use super::*;

    fn rollout(n: u8) -> Rollout {
        let spec = deployd_api::spec::parse("app = \"shop\"\n[processes.web]\nexec = \"bin/web\"\n").unwrap();
        let host =
            |name: &str| RolloutHost { host: name.parse().unwrap(), wave: 0, processes: None, from: None };
        Rollout {
            id: DeploymentId::from_random([n; 16]),
            app: "shop".parse().unwrap(),
            label: "v2".parse().unwrap(),
            document: ReleaseDocument::new(Digest::of(b"x"), spec),
            strategy: None,
            origin: Origin::default(),
            started: Timestamp(u64::from(n)),
            on_failure: OnFailure::Rollback,
            hosts: vec![host("web1"), host("web2")],
            migrate_on: Some("web1".parse().unwrap()),
            state: RolloutState::Sending,
        }
    }

    #[tokio::test]
    async fn the_last_ones_are_kept_each_in_its_newest_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let app: AppName = "shop".parse().unwrap();
        assert_eq!(find(&store, &app, None).await.unwrap_err().code, ErrorCode::RolloutNotFound);
        for n in 1..=12 {
            put(&store, &app, rollout(n)).await.unwrap();
        }
        put(&store, &app, Rollout { state: RolloutState::Live, ..rollout(11) }).await.unwrap();
        let resumed = Rollout { origin: Origin { by: "ci".into(), git: None }, ..rollout(12) };
        assert_eq!(put(&store, &app, resumed).await.unwrap().origin, Origin::default(), "who began it");
        assert_eq!(open(&store, &app).await.unwrap().len(), KEPT - 1);
        let last = find(&store, &app, None).await.unwrap();
        assert_eq!((last.id, last.state), (rollout(12).id, RolloutState::Sending));
        let live = find(&store, &app, Some(&rollout(11).id)).await.unwrap();
        assert_eq!(live.state, RolloutState::Live);
        assert!(find(&store, &app, Some(&rollout(2).id)).await.is_err());
        assert_eq!(load(&store, &app).await.unwrap().len(), KEPT);
        store.delete_meta(key(&app)).await.unwrap();
        assert!(find(&store, &app, None).await.is_err() && open(&store, &app).await.unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let app: AppName = "shop".parse().unwrap();
        let good = rollout(1);
        assert!(with(vec![], &app, good.clone()).is_ok());
        assert!(with(vec![], &"blog".parse().unwrap(), good.clone()).is_err());
        let twice = good.hosts.iter().chain(&good.hosts).cloned().collect();
        let mut other = good.document.clone();
        other.artifact = Digest::of(b"y");
        for bad in [
            Rollout { hosts: vec![], ..good.clone() },
            Rollout { hosts: twice, ..good.clone() },
            Rollout { migrate_on: Some("db1".parse().unwrap()), ..good.clone() },
            Rollout { document: other, ..good.clone() },
            Rollout { label: "v3".parse().unwrap(), ..good.clone() },
        ] {
            let refused = with(vec![good.clone()], &app, bad).unwrap_err();
            assert_eq!(refused.code, ErrorCode::BadRequest);
        }
    }
}
