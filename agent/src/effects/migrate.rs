//! The migration of a release: a transient unit that runs to its end whatever becomes of the agent, once in a boot.

use std::time::{Duration, Instant};

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::spec::Millis;
use deployd_core::state::Tag;
use deployd_core::units::Surroundings;

use super::RealHost;
use super::command::property;
use super::failure::step_failed;
use super::instances::app_of;
use crate::driver::{Done, Run};
use crate::host::systemd::{Ended, TransientSpec};

/// What is to run, as the plan says it.
pub(super) struct Migration<'a> {
    pub(super) unit: &'a str,
    pub(super) tag: Tag,
    pub(super) words: &'a [String],
    pub(super) command: &'a str,
    pub(super) around: &'a Surroundings,
    pub(super) timeout: Millis,
}

impl RealHost {
    /// Runs it, or waits for one that an earlier life of the agent began. What it writes goes to the journal.
    pub(super) async fn migrate(&self, migration: Migration<'_>, run: &Run) -> Result<Done, ErrorBody> {
        let began = Instant::now();
        let spec = TransientSpec {
            words: migration.words.to_vec(),
            // Secrets come with these, as they do for the process whose surroundings they are.
            properties: migration.around.settings().iter().map(property).collect(),
            timeout: Duration::from(migration.timeout),
            ..TransientSpec::default()
        };
        let ended = self.systemd.run_kept(migration.unit, &spec).await;
        let ended = ended.map_err(|e| may_be_applied(step_failed(&e)))?.ended;
        let took = run.elapsed + began.elapsed();
        let Some(why) = ending(ended, migration.timeout) else {
            return Ok(Done::note(format!("{:.1} s", took.as_secs_f64())));
        };
        Err(self.migration_failed(&migration, &why, took, run).await)
    }

    async fn migration_failed(
        &self,
        migration: &Migration<'_>,
        why: &str,
        took: Duration,
        run: &Run,
    ) -> ErrorBody {
        let (app, label) = (app_of(run).await, migration.tag.label);
        let host = self.settings.live.get().name.clone();
        let message = format!("the migration of {app} {label} failed on {host}: {why}");
        let hint = format!(
            "mend it and push again; what it did before it failed stays: deployd-ctl logs -a {app} --instance migrate \
             --release {label}"
        );
        let body = ErrorBody::new(ErrorCode::MigrateFailed, message, hint)
            .about("migrate")
            .cause("what", format!("`{}` {why} after {:.1} s", migration.command, took.as_secs_f64()))
            .cause("where", format!("{host}, {}", migration.unit));
        self.with_log(body, migration.unit).await
    }

    pub(super) async fn clear_migration(&self, unit: &str) -> Result<Done, ErrorBody> {
        self.systemd.clear(unit).await.map_err(|e| step_failed(&e))?;
        Ok(Done::default())
    }
}

/// Why it failed; `None` when it did not.
fn ending(ended: Ended, timeout: Millis) -> Option<String> {
    Some(match ended {
        Ended::Exited(0) => return None,
        Ended::Exited(status) => format!("exited with status {status}"),
        Ended::Killed(signal) => format!("was killed by signal {signal}"),
        Ended::TimedOut => format!("ran longer than {timeout}, its timeout, and was ended"),
        Ended::NotStarted => "could not be started".to_owned(),
    })
}

/// PID 1 did not tell how it ended.
fn may_be_applied(mut body: ErrorBody) -> ErrorBody {
    body.hint.insert_str(0, "look whether the migration was applied, in part or not at all; then ");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_0_is_well() {
        let limit = Millis::from_secs(60);
        assert_eq!(ending(Ended::Exited(0), limit), None);
        for (ended, said) in [
            (Ended::Exited(1), "status 1"),
            (Ended::Killed(9), "signal 9"),
            (Ended::TimedOut, "longer than 1m,"),
            (Ended::NotStarted, "not be started"),
        ] {
            let why = ending(ended, limit).unwrap();
            assert!(why.contains(said), "{why}");
        }
    }
}
