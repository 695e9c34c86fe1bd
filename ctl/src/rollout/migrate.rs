//! What a migration writes, shown while it runs: its own log, from its first line to its last.

use deployd_api::deployment::Deployment;
use deployd_api::event::{Event, What};
use deployd_api::ids::{Label, Timestamp};
use deployd_api::status::LogLine;

use crate::client::{Client, Lines};
use crate::progress::View;

/// The step that runs it, and the instance whose log it is.
const MIGRATE: &str = "migrate";
/// Most lines that are read at its end.
const LINES_MAX: u32 = 10_000;

/// The log of the migration of a deployment.
pub(crate) struct Migration<'m> {
    client: &'m Client,
    deployment: &'m Deployment,
    label: Option<Label>,
    since: Timestamp,
    lines: Option<Lines>,
    shown: usize,
}

impl<'m> Migration<'m> {
    pub(crate) fn new(client: &'m Client, deployment: &'m Deployment) -> Self {
        let label = deployment.label;
        Self { client, deployment, label, since: Timestamp::default(), lines: None, shown: 0 }
    }

    fn query(&self, follow: bool) -> String {
        let release = self.label.map(|label| format!("&release={label}")).unwrap_or_default();
        let (app, since) = (&self.deployment.app, self.since.0);
        let query = format!("instance={MIGRATE}{release}&follow={follow}&since_ms={since}&lines={LINES_MAX}");
        format!("/apps/{app}/logs?{query}")
    }

    /// Begins with the step, and shows what is missing at its end. A log that cannot be read is no failure of
    /// the deployment.
    pub(crate) async fn event(&mut self, event: &Event, view: View<'_>) {
        match &event.what {
            What::Accepted { label, .. } => self.label = label.or(self.label),
            What::StepStarted { info } if info.kind == MIGRATE => {
                (self.since, self.shown) = (event.at, 0);
                self.lines = self.client.lines(&self.query(true)).await.ok();
            }
            What::StepDone { info, .. } | What::StepFailed { info, .. } if info.kind == MIGRATE => {
                self.lines = None;
                self.read_rest(view).await;
            }
            _ => {}
        }
    }

    /// The next line; never, while no migration runs.
    pub(crate) async fn next(&mut self) -> String {
        if let Some(lines) = &mut self.lines {
            if let Ok(Some(line)) = lines.next::<LogLine>().await {
                self.shown += 1;
                return plain(&line.message);
            }
            self.lines = None;
        }
        std::future::pending().await
    }

    async fn read_rest(&mut self, view: View<'_>) {
        let Ok(mut lines) = self.client.lines(&self.query(false)).await else { return };
        let mut seen = 0;
        while let Ok(Some(line)) = lines.next::<LogLine>().await {
            seen += 1;
            if seen > self.shown {
                view.output(&plain(&line.message));
            }
        }
        self.shown = self.shown.max(seen);
    }
}

/// A log may hold anything: control characters do not reach the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
