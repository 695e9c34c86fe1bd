//! Which hosts a verb is for, and which of them answer.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, HostName};
use deployd_api::status::AppStatus;
use futures_util::{StreamExt, stream};

use crate::commands::{Context, Host};
use crate::error::CtlError;
use crate::fanout;
use crate::project;

/// A host and what the app is there; `None` when it has none.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) host: Host,
    pub(crate) status: Option<AppStatus>,
}

/// The hosts that answered, and those that did not, with why.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    pub(crate) met: Vec<Met>,
    pub(crate) absent: Vec<(String, ErrorBody)>,
}

impl Crew {
    /// Only hosts that have the app.
    pub(crate) fn having(self) -> Self {
        let met = self.met.into_iter().filter(|m| m.status.is_some()).collect();
        Self { met, absent: self.absent }
    }
}

/// Hosts that are talked to at one time.
const AT_ONCE: usize = 64;

/// Does it all, a part at a time; what came of each, in their order.
pub(crate) async fn all<F: Future>(work: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    stream::iter(work).buffered(AT_ONCE).collect().await
}

/// Asks every host what the app is there.
pub(crate) async fn meet(context: &Context<'_>, hosts: &[Host], app: &AppName) -> Result<Crew, CtlError> {
    let path = format!("/apps/{app}");
    let path = &path;
    let answers = fanout::ask(hosts, |client| async move { client.get::<AppStatus>(path).await }).await;
    let mut crew = Crew::default();
    for (host, answer) in answers {
        match answer {
            Ok(status) => crew.met.push(Met { host, status: Some(status) }),
            Err(CtlError::Answer(body)) if body.code == ErrorCode::AppNotFound => {
                crew.met.push(Met { host, status: None });
            }
            Err(error) if error.is_absence() && context.is_fleet() => {
                let body = absent(&host.name, &error);
                crew.absent.push((host.name, body));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(crew)
}

/// The hosts that a verb without a folder is for: those of the spec that is at hand, else all of the fleet.
pub(crate) fn of_app(context: &Context<'_>, app: &AppName) -> Result<Vec<Host>, CtlError> {
    let project = project::find_project(context.global)?.filter(|p| p.spec.app == *app);
    match project {
        Some(project) if context.is_fleet() => context.hosts_of(&project.hosts),
        _ => context.hosts(),
    }
}

/// Why a host is not part of what is done.
pub(crate) fn absent(host: &str, error: &CtlError) -> ErrorBody {
    let mut body = ErrorBody::new(
        ErrorCode::AgentUnreachable,
        format!("{host} does not answer"),
        format!("its apps serve without the agent; see: deployd-ctl hosts check {host}"),
    );
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = source {
        body = body.cause("what", inner.to_string());
        source = inner.source();
    }
    body
}

/// A host's name as records have it. The name of a machine may have parts and signs that a fleet's has not.
pub(crate) fn name(host: &str) -> Result<HostName, CtlError> {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let plain: String = first.chars().map(plain).take(63).collect();
    let plain = Some(plain.trim_matches('-')).filter(|p| !p.is_empty()).unwrap_or("localhost");
    host.parse().or_else(|_| plain.parse()).map_err(|e: deployd_api::ids::InvalidId| CtlError::Usage {
        message: e.to_string(),
        hint: "give the host a plain name".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_a_name_for_records() {
        for (own, want) in
            [("web1", "web1"), ("Web1.example.com", "web1"), ("a_b", "a-b"), ("--", "localhost")]
        {
            assert_eq!(name(own).unwrap().as_str(), want);
        }
    }
}
