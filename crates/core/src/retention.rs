//! Which releases may go: only good ones count, and what runs or may be gone back to stays.

use deployd_api::ids::Label;
use deployd_api::release::ReleaseState;

use crate::state::AppState;

/// The releases whose trees may be removed, oldest first, so that `keep` good ones stay besides what
/// runs. Releases that were rolled back have no tree any more and do not count; their rows stay as long
/// as one older or equal good release stays, so that `releases` can tell the story.
pub fn prunable(state: &AppState, keep: usize) -> Vec<Label> {
    let in_use = |label: Label| {
        let tags = [state.live, state.committed, state.warm, state.candidate];
        tags.iter().flatten().chain(&state.draining).any(|t| t.label == label)
            || state.previous == Some(label)
    };
    let good: Vec<Label> = state.releases.values().filter(|r| r.is_kept()).map(|r| r.label).collect();
    let surplus = good.len().saturating_sub(keep.max(1));
    let mut gone: Vec<Label> = good.iter().copied().filter(|l| !in_use(*l)).take(surplus).collect();
    if let Some(oldest) = good.iter().find(|l| !gone.contains(l)) {
        let stale = state
            .releases
            .values()
            .filter(|r| r.state == ReleaseState::RolledBack && r.label < *oldest && !in_use(r.label));
        gone.extend(stale.map(|r| r.label));
    }
    gone.sort();
    gone
}
