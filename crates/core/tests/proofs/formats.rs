//! What an agent of an earlier version wrote down is read, and means the same: `tests/formats`, a file a version,
//! written by that version and never changed.

use deployd_core::journal::Record;
use deployd_core::machine::Progress;
use deployd_core::plan::Plan;
use deployd_core::state::AppState;

use crate::driver::AT;

#[derive(serde::Deserialize)]
struct Written {
    app: AppState,
    plan: Plan,
    records: Vec<Record>,
    app_after: AppState,
}

/// A host of before releases had identities of their own and migrations.
#[test]
fn the_first_format_is_read() {
    let written: Written = serde_json::from_str(include_str!("../formats/1.json")).unwrap();
    let Written { mut app, plan, records, app_after } = written;
    let mut progress = Progress::new(&plan);
    for record in &records {
        progress.apply(record).unwrap();
        if let Some(change) = record.changes(&plan) {
            app.apply(&change, AT, progress.failure());
        }
    }
    assert_eq!(app, app_after);
    assert!(progress.verdict().is_some());
    // What was its identity is that of the same document now.
    for release in app.releases.values() {
        assert_eq!(release.digest, release.document.digest());
        assert!(release.earlier.is_empty());
    }
    let text = serde_json::to_string(&app).unwrap();
    assert_eq!(serde_json::from_str::<AppState>(&text).unwrap(), app);
}
