//! The compare-and-swap token of a plan: a push that names it is refused when the app is not any more what the
//! plan saw.

use std::collections::BTreeMap;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{Digest, Label};
use deployd_api::secret::SecretName;
use serde::Serialize;

use crate::state::{AppState, Tag, Unended};

/// What a plan goes by. That something drains, stays warm or is committed meanwhile changes no plan.
#[derive(Serialize)]
struct Seen<'a> {
    live: Option<Tag>,
    runs: Option<(Digest, Digest)>,
    previous: Option<Label>,
    candidate: Option<Tag>,
    stopped: bool,
    unended: Option<Unended>,
    next: Label,
    bad: Vec<Label>,
    secrets: &'a BTreeMap<SecretName, u32>,
}

/// A digest of what the app is on this host.
pub fn fingerprint(state: &AppState, secrets: &BTreeMap<SecretName, u32>) -> Digest {
    let bad = state.releases.values().filter(|r| r.failure.is_some()).map(|r| r.label);
    let seen = Seen {
        live: state.live,
        runs: state.live_release().map(|r| (r.digest, r.document.digest())),
        previous: state.previous,
        candidate: state.candidate,
        stopped: state.stopped,
        unended: state.unended,
        next: state.next_label(),
        bad: bad.collect(),
        secrets,
    };
    let text = serde_json::to_string(&seen).unwrap_or_default();
    Digest::of(text.as_bytes())
}

/// Refuses a push whose plan saw something else.
pub fn refuse_stale(
    expect: Option<Digest>,
    state: &AppState,
    secrets: &BTreeMap<SecretName, u32>,
) -> Result<(), Box<ErrorBody>> {
    if expect.is_none_or(|seen| seen == fingerprint(state, secrets)) {
        return Ok(());
    }
    let app = &state.app;
    let live = state.live.map_or("nothing of it is live".to_owned(), |t| format!("{} is live", t.label));
    let message = format!("{app} is not any more as it was when this was planned: {live}");
    let hint = format!("look again: deployd-ctl plan -a {app}, then push what it shows");
    Err(Box::new(ErrorBody::new(ErrorCode::PlanStale, message, hint)))
}

#[cfg(test)]
mod tests {
    use deployd_api::ids::Timestamp;

    use super::*;
    use crate::state::Change;

    #[test]
    fn a_token_holds_as_long_as_the_app_is_the_same() {
        let (none, at) = (BTreeMap::new(), Timestamp(1));
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        let seen = fingerprint(&state, &none);
        assert!(refuse_stale(None, &state, &none).is_ok());
        assert!(refuse_stale(Some(seen), &state, &none).is_ok());
        let secrets = BTreeMap::from([("KEY".parse().unwrap(), 1)]);
        let refused = refuse_stale(Some(seen), &state, &secrets).unwrap_err();
        assert_eq!(refused.code, ErrorCode::PlanStale);
        let tag: Tag = "v1".parse().unwrap();
        for change in [Change::Stopped { value: true }, Change::Live { tag, warm: None }] {
            let mut other = state.clone();
            other.apply(&change, at, None);
            assert!(refuse_stale(Some(seen), &other, &none).is_err(), "{change:?}");
        }
        // What ends by itself meanwhile is no news.
        state.draining.push(tag);
        assert!(refuse_stale(Some(seen), &state, &none).is_ok());
    }
}
