//! What each host answered to one question, and what that means for the whole.

use std::time::Duration;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::exit::ExitCode;
use serde::de::DeserializeOwned;

use super::Host;
use crate::client::Client;
use crate::error::CtlError;
use crate::{fanout, human};

/// A host that took the call and says nothing is given up: checks take it 2 s at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// A host, and its answer.
#[derive(Debug)]
pub(crate) struct Heard<T> {
    pub(crate) host: String,
    pub(crate) answer: Result<T, ErrorBody>,
}

impl<T> Heard<T> {
    pub(crate) fn is_not_here(&self) -> bool {
        self.answer.as_ref().err().is_some_and(|e| e.code == ErrorCode::AppNotFound)
    }

    /// Why nothing is known of the app there, in two words; `None` when the host said what there is.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        match self.answer.as_ref().err()?.code {
            ErrorCode::AppNotFound => None,
            ErrorCode::AgentUnreachable => Some("no answer"),
            code => Some(code.as_str()),
        }
    }
}

/// Asks every host at once.
pub(crate) async fn ask<T, F, Fut>(hosts: &[Host], call: F) -> Vec<Heard<T>>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<T, CtlError>>,
{
    let answers = fanout::ask(hosts, |client| within(call(client))).await;
    let heard = |(host, answer): (Host, Result<T, CtlError>)| Heard {
        host: host.name,
        answer: answer.map_err(|e| e.to_body()),
    };
    answers.into_iter().map(heard).collect()
}

async fn within<T>(call: impl Future<Output = Result<T, CtlError>>) -> Result<T, CtlError> {
    let late = |_| {
        let what = format!("the agent took the call and did not answer in {} s", ANSWER_WITHIN.as_secs());
        let body =
            ErrorBody::new(ErrorCode::AgentUnreachable, what, "apps serve without it; see its log there");
        CtlError::Answer(Box::new(body))
    };
    tokio::time::timeout(ANSWER_WITHIN, call).await.map_err(late)?
}

/// A question that older agents do not know: `None` from them.
pub(crate) async fn if_known<T: DeserializeOwned>(client: &Client, path: &str) -> Option<T> {
    client.get::<Option<T>>(path).await.ok().flatten()
}

/// How the command ends when all is shown; an error when no host has anything to show.
pub(crate) fn settle<T>(heard: &[Heard<T>]) -> Result<ExitCode, CtlError> {
    let failed: Vec<(&str, &ErrorBody)> =
        heard.iter().filter_map(|h| Some((h.host.as_str(), h.answer.as_ref().err()?))).collect();
    let answered = heard.len() - failed.len();
    // What a person can do something about is told before a host that is merely away.
    let worst = failed.iter().min_by_key(|(_, e)| match e.code {
        ErrorCode::AgentUnreachable => 1,
        ErrorCode::AppNotFound => 2,
        _ => 0,
    });
    match worst {
        Some((_, error)) if answered == 0 => {
            let mut error = (*error).clone();
            let code = error.code;
            let same: Vec<&str> = failed.iter().filter(|(_, e)| e.code == code).map(|(h, _)| *h).collect();
            if heard.len() > 1 {
                error = error.cause("where", human::names(&same));
            }
            Err(CtlError::Answer(Box::new(error)))
        }
        Some((_, error)) if error.code != ErrorCode::AppNotFound => Ok(ExitCode::Partial),
        _ => Ok(ExitCode::Ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_follows_from_all_answers() {
        let error = |code| Err(ErrorBody::new(code, "m", "h"));
        let (gone, none, no) = (ErrorCode::AgentUnreachable, ErrorCode::AppNotFound, ErrorCode::Forbidden);
        for (answers, want) in [
            (vec![Ok(())], ExitCode::Ok),
            (vec![Ok(()), error(none)], ExitCode::Ok),
            (vec![Ok(()), error(gone)], ExitCode::Partial),
            (vec![Ok(()), error(none), error(no)], ExitCode::Partial),
            (vec![error(gone), error(gone)], ExitCode::Partial),
            (vec![error(none), error(none)], ExitCode::Usage),
            (vec![error(gone), error(no)], ExitCode::Unauthorized),
            (vec![error(none), error(gone)], ExitCode::Partial),
        ] {
            let heard: Vec<Heard<()>> =
                answers.into_iter().map(|answer| Heard { host: "web1".into(), answer }).collect();
            let code = settle(&heard).unwrap_or_else(|e| e.exit());
            assert_eq!(code, want, "{heard:?}");
        }
    }
}
