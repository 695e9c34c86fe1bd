//! Stories as golden transcripts: the plan in words, then its journal. `UPDATE_GOLDEN=1` writes them anew.
#![expect(clippy::disallowed_methods, reason = "golden files are read, and written when asked")]

use std::fmt::Write as _;

use deployd_api::deployment::Verdict;
use deployd_core::action::Action;
use deployd_core::journal::Record;

use crate::driver::{Fault, Point, Run, Serving};
use crate::shapes::{
    ALONE, Ask, CHECK, DEPLOY, HTTP, IMMEDIATE, MIGRATE, PORT, Shape, UNIX, UNLIMITED, WEB, beam, push, spec,
    tight,
};

/// The first point before a step of this kind.
fn before(run: &Run, kind: &str) -> usize {
    let mut dry = run.clone();
    dry.run();
    let is = |p: &Point| matches!(p, Point::Before(s) if run.plan.steps[*s].action.kind() == kind);
    dry.points.iter().position(is).unwrap()
}

fn transcript(run: &Run) -> String {
    let mut out = format!(
        "{} {} -> {}, {:?}, warm {:?}, monitor {} s\n\n",
        run.plan.kind,
        run.plan.from.map_or("nothing".to_owned(), |t| t.to_string()),
        run.plan.to.map_or("nothing".to_owned(), |t| t.to_string()),
        run.plan.strategy,
        run.plan.warm,
        run.plan.monitor.0 / 1000
    );
    for (i, step) in run.plan.steps.iter().enumerate() {
        let mark = if step.no_return { " (no return)" } else { "" };
        let _ = writeln!(out, "{i:>2} {:?}: {}{mark}", step.phase, step.action.text());
        if !step.undo.is_empty() {
            let undo: Vec<String> = step.undo.iter().map(Action::text).collect();
            let _ = writeln!(out, "     undo: {}", undo.join("; "));
        }
    }
    out.push('\n');
    for record in &run.records {
        let line = match record {
            Record::Started { step } => format!("{step:>2} started"),
            Record::Done { step, .. } => format!("{step:>2} done"),
            Record::Failed { step, failure } => format!("{step:>2} failed: {}", failure.message),
            Record::UndoStarted { step } => format!("{step:>2} undo started"),
            Record::Undone { step } => format!("{step:>2} undone"),
            Record::UndoFailed { step, failure } => format!("{step:>2} undo failed: {}", failure.message),
            Record::Learned { change } => {
                format!("   learned: {}", Action::Record { change: change.clone() }.text())
            }
            Record::Rebooted { .. } => "   rebooted".to_owned(),
            Record::Abort { .. } => "   aborted".to_owned(),
            Record::Superseded => "   superseded".to_owned(),
            Record::Finished { verdict } => format!("   {verdict}"),
            Record::Note { text } => format!("   {text}"),
        };
        let _ = writeln!(out, "{line}");
    }
    out
}

fn golden(name: &str, before_it: Vec<Ask>, ask: Ask, fault: Option<(&str, Fault)>, want: Verdict) {
    let shape = Shape { name: name.to_owned(), before: before_it, ask, serving: Serving::MayWait };
    let mut run = shape.run();
    if let Some((kind, fault)) = fault {
        run.faults = vec![(before(&run, kind), fault)];
    }
    assert_eq!(run.run(), want, "{}", run.story());
    let is = transcript(&run);
    let path = format!("{}/tests/scenarios/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(&path, &is).unwrap();
    }
    let should = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = is.lines().zip(should.lines().chain(std::iter::repeat(""))).find(|(a, b)| a != b);
    assert!(is == should, "{path} differs at {differs:?}; UPDATE_GOLDEN=1 writes it anew");
}

#[test]
fn stories() {
    use Verdict::{Committed, RolledBack};
    let web = &spec(&[WEB, HTTP, CHECK, DEPLOY]);
    let one = || vec![push(web, 1)];
    golden("first_push", vec![], push(web, 1), None, Committed);
    golden("push", one(), push(web, 2), None, Committed);
    golden("push_fails_its_check", one(), push(web, 2), Some(("check", Fault::Fail)), RolledBack);
    golden("push_rebooted", one(), push(web, 2), Some(("monitor", Fault::Reboot)), RolledBack);
    golden("push_superseded", one(), push(web, 2), Some(("monitor", Fault::Supersede)), Committed);
    golden("push_without_memory", one(), tight(web, 2), Some(("monitor", Fault::Fail)), RolledBack);
    let now = &spec(&[WEB, HTTP, IMMEDIATE]);
    golden("immediate_fails", vec![push(now, 1)], push(now, 2), Some(("check", Fault::Fail)), RolledBack);
    let alone = &spec(&[WEB, PORT, ALONE, UNIX, UNLIMITED]);
    golden("everything", vec![push(alone, 1)], push(alone, 2), None, Committed);
    golden("push_of_a_kept_build", vec![push(web, 1), push(web, 2)], push(web, 1), None, Committed);
    let node = &spec(&[&beam(WEB), HTTP, DEPLOY]);
    golden("first_beam_push_fails", vec![], push(node, 1), Some(("check", Fault::Fail)), RolledBack);
    golden("remove_beam", vec![push(node, 1)], Ask::Remove, None, Committed);
    golden("rollback", vec![push(web, 1), push(web, 2)], Ask::Rollback(None), None, Committed);
    let migrates = &spec(&[WEB, HTTP, DEPLOY, MIGRATE]);
    golden("push_migrates", vec![push(migrates, 1)], push(migrates, 2), None, Committed);
    let (first, reboot) = (vec![push(migrates, 1)], Some(("migrate", Fault::Reboot)));
    golden("push_rebooted_while_it_migrates", first, push(migrates, 2), reboot, RolledBack);
    golden("remove", one(), Ask::Remove, None, Committed);
}

/// Without memory for two the old release had ended; when it cannot be brought back, the new one stays.
#[test]
fn nothing_is_taken_away_before_what_replaces_it_serves() {
    let web = &spec(&[WEB, HTTP, CHECK, DEPLOY]);
    let shape = Shape {
        name: "kept".to_owned(),
        before: vec![push(web, 1)],
        ask: tight(web, 2),
        serving: Serving::Always,
    };
    let mut run = shape.run();
    run.faults = vec![(before(&run, "monitor"), Fault::Fail)];
    let mut undone = run.clone();
    assert_eq!(undone.run(), Verdict::RolledBack, "{}", undone.story());
    let gate = (0..run.plan.steps.len()).find(|step| run.plan.gates_undo(*step)).unwrap();
    let during = |p: &Point| matches!(p, Point::BeforeUndo(s) | Point::AfterUndo(s) if *s == gate);
    let at: Vec<usize> = (0..undone.points.len()).filter(|i| during(&undone.points[*i])).collect();
    assert!(!at.is_empty());
    for at in at {
        let mut run = run.clone();
        run.faults.push((at, Fault::Fail));
        assert_eq!(run.run(), Verdict::Stuck, "{}", run.story());
        assert!(run.progress.keeps_new());
        assert_eq!(run.state.live, run.plan.to, "{}", run.story());
        let told = run.progress.reported().unwrap();
        assert!(told.message.contains("it keeps the traffic"), "{}", told.message);
    }
}
