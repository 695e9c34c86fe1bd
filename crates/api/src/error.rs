//! Error codes, and the body of every refused call and failed deployment.

use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;

/// What went wrong, what it means, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody {
    /// Stable code.
    pub code: ErrorCode,
    /// One sentence: what did not work, on what.
    pub message: String,
    /// What it is about, when that has a name: the check, the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Lines of detail, each `(heading, text)`: `("what", "GET /health: 503 in 41 ms")`.
    #[serde(default)]
    pub causes: Vec<(String, String)>,
    /// What to do next; never empty.
    pub hint: String,
    /// Whether the same call may succeed later without a change.
    #[serde(default)]
    pub retryable: bool,
}

impl ErrorBody {
    /// An error without details. The hint says what to do here and now; [`ErrorCode::next`] is what there is
    /// to do in general.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint: String = hint.into();
        debug_assert!(!hint.trim().is_empty(), "an error without a hint: {code}");
        let hint = if hint.trim().is_empty() { code.next().to_owned() } else { hint };
        Self {
            code,
            message: message.into(),
            subject: None,
            causes: Vec::new(),
            hint,
            retryable: code.retryable(),
        }
    }

    /// Names what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Adds a line of detail.
    #[must_use]
    pub fn cause(mut self, heading: impl Into<String>, text: impl Into<String>) -> Self {
        self.causes.push((heading.into(), text.into()));
        self
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

macro_rules! codes {
    ($(#[doc = $doc:literal] $variant:ident = $text:literal, $status:literal, $exit:ident, $retry:literal,
        $next:literal;)+) => {
        /// Stable codes. Each has one HTTP status, one exit code of ctl, and something to do next.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode { $(#[doc = $doc] $variant,)+ }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim_ascii(),)+ }
            }
            /// The code as text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
            /// The HTTP status of a refused call.
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }
            /// The exit code of ctl.
            pub fn exit(self) -> ExitCode {
                match self { $(Self::$variant => ExitCode::$exit,)+ }
            }
            /// Whether the same call may succeed later without a change.
            pub fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)+ }
            }
            /// What to do, when nothing more exact is known. `{app}` stands for the app.
            pub fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)+ }
            }
        }
    };
}

codes! {
    /// A defect of ours.
    Internal = "internal", 500, Internal, false,
        "journalctl -u deployd on the host says more; please report it";
    /// The request is not of the route's form.
    BadRequest = "bad_request", 400, Usage, false,
        "compare the call with docs/reference/api.md; ctl and agent may differ in version";
    /// The spec is wrong.
    SpecInvalid = "spec_invalid", 400, Usage, false,
        "mend deployd.toml at the key that is named; docs/reference/spec.md describes each";
    /// The manifest or a file is not acceptable.
    ArtifactInvalid = "artifact_invalid", 400, Usage, false,
        "mend the file that is named, and push again";
    /// Content was sent that does not have the digest it claims.
    DigestMismatch = "digest_mismatch", 400, Refused, true,
        "push again: only what is missing is sent";
    /// Files of the artifact have not been sent.
    UploadIncomplete = "upload_incomplete", 409, Refused, true,
        "push again: it goes on where it stopped";
    /// No such app on this host.
    AppNotFound = "app_not_found", 404, Usage, false,
        "deployd-ctl status --all lists the apps; deployd-ctl push makes one";
    /// No such release on this host.
    ReleaseNotFound = "release_not_found", 404, Usage, false,
        "deployd-ctl releases -a {app} lists those that are kept";
    /// No such deployment on this host.
    DeploymentNotFound = "deployment_not_found", 404, Usage, false,
        "deployd-ctl status --all shows what runs";
    /// No such route.
    NotFound = "not_found", 404, Usage, false,
        "docs/reference/api.md lists the routes; ctl and agent may differ in version";
    /// The caller may not do this.
    Forbidden = "forbidden", 403, Unauthorized, false,
        "ask an administrator of the fleet for a certificate with the role that is named: deployd-ctl pki issue";
    /// The certificate of the caller, or of the host, is missing, expired, revoked or of another fleet.
    CertificateInvalid = "certificate_invalid", 401, Unauthorized, false,
        "deployd-ctl pki show tells what your certificate is; deployd-ctl pki renew gets a new one";
    /// Too many calls at once from one caller.
    RateLimited = "rate_limited", 429, Partial, true,
        "wait a second and call again; one certificate's jobs share its limit";
    /// The lease that the call was made under is not held any more.
    LeaseLost = "lease_lost", 409, LeaseHeld, true,
        "deployd-ctl rollout status -a {app} shows who goes on; deployd-ctl rollout resume -a {app} takes it up";
    /// The label is another release's on this host.
    NumberTaken = "number_taken", 409, Refused, true,
        "push again: it gets the next number";
    /// The host is not as it was when the plan was made.
    PlanStale = "plan_stale", 409, Refused, true,
        "make the plan again: deployd-ctl plan -a {app}";
    /// A secret that the spec names is not set, or not in the version that the release has.
    SecretMissing = "secret_missing", 409, Refused, false,
        "deployd-ctl secrets set NAME -a {app}, then push again";
    /// A value cannot be sealed or opened on this host.
    SecretUnreadable = "secret_unreadable", 500, Internal, false,
        "deployd-ctl doctor tells why; deployd-ctl secrets set NAME -a {app} seals it anew";
    /// The migration failed.
    MigrateFailed = "migrate_failed", 409, RolledBack, false,
        "mend the migration and push again; no host has switched";
    /// The build on the caller's own machine failed.
    BuildFailed = "build_failed", 409, Usage, false,
        "run the command of [build] by hand, mend it, and push again";
    /// `fleet.toml` is wrong, or names no such host.
    FleetInvalid = "fleet_invalid", 400, Usage, false,
        "mend fleet.toml at the line that is named; deployd-ctl hosts list shows what it says";
    /// A host could not be added to the fleet, which is as before.
    HostNotAdded = "host_not_added", 409, Refused, true,
        "mend what is named, and run deployd-ctl hosts add again: it goes on where it stopped";
    /// No such rollout on this host.
    RolloutNotFound = "rollout_not_found", 404, Usage, false,
        "deployd-ctl status -a {app} shows what serves; deployd-ctl push begins a rollout";
    /// Some hosts are live on the release and others are not.
    Partial = "partial", 409, Partial, true,
        "deployd-ctl rollout status -a {app} shows each host; deployd-ctl rollout resume -a {app} goes on";
    /// Another deployment of the app runs.
    LeaseHeld = "lease_held", 409, LeaseHeld, true,
        "wait for it (deployd-ctl status -a {app}), or end it: deployd-ctl abort -a {app}";
    /// This release undid itself before.
    ReleaseBad = "release_bad", 409, Refused, false,
        "push a mended build, or clear it: deployd-ctl releases clear LABEL -a {app}";
    /// The call does not fit the app's state: nothing to roll back to, already stopped.
    WrongState = "wrong_state", 409, Refused, false,
        "deployd-ctl status -a {app} shows the state that it is in";
    /// Not enough memory for the old and the new release together.
    MemoryLow = "memory_low", 507, Refused, true,
        "free memory on the host, lower instances, or push with --strategy immediate";
    /// Not enough disk for the release and the reserve.
    DiskLow = "disk_low", 507, Refused, true,
        "free disk space on the host, or lower disk_reserve in /etc/deployd/agent.toml";
    /// A port is held by something that is not this app.
    PortTaken = "port_taken", 409, Refused, false,
        "stop what holds it, or give the listener another address";
    /// A user, folder or unit of that name exists and is not ours.
    NameTaken = "name_taken", 409, Refused, false,
        "rename the app, or remove what has its name on the host";
    /// The program cannot run as the spec asks.
    WillNotRun = "will_not_run", 409, Refused, false,
        "build for the system of the host: what is needed and missing is named";
    /// The candidate ended or never became ready.
    StartFailed = "start_failed", 409, RolledBack, false,
        "deployd-ctl logs -a {app} shows what it said; mend it and push again";
    /// The candidate did not pass a check.
    CheckFailed = "check_failed", 409, RolledBack, false,
        "deployd-ctl logs -a {app} shows what it said; mend it and push again";
    /// The host restarted before the commit.
    Rebooted = "rebooted", 409, RolledBack, true,
        "push again";
    /// A person asked to undo it.
    Aborted = "aborted", 409, RolledBack, false,
        "push again when it is mended";
    /// A step failed for a reason of the host.
    StepFailed = "step_failed", 409, RolledBack, true,
        "deployd-ctl doctor looks for the reason on the host; then push again";
    /// An undo failed.
    Stuck = "stuck", 409, Stuck, false,
        "deployd journal show {app} on the host tells what was not undone; deployd-ctl doctor what to do";
    /// The agent does not answer.
    AgentUnreachable = "agent_unreachable", 503, Partial, true,
        "systemctl status deployd on the host; its port is 7443 unless the fleet file says otherwise";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_display_form() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    /// The catalogue is whole: each code says what it means and what to do, in words of its own.
    #[test]
    fn every_code_says_what_to_do_next() {
        for code in ErrorCode::ALL {
            assert!(code.next().trim().len() > 8, "{code} has no next");
            assert!(code.meaning().ends_with('.'), "{code}: {}", code.meaning());
            assert_ne!(code.next(), code.meaning(), "{code}");
            assert!((400..600).contains(&code.http_status()), "{code}");
            let tells_ctl = code.next().contains("deployd-ctl ");
            let names_app = code.next().contains("-a ");
            assert!(!names_app || (tells_ctl && code.next().contains("-a {app}")), "{code}: {}", code.next());
        }
        let mut names: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
    }

    #[test]
    #[should_panic(expected = "without a hint")]
    fn an_error_without_a_hint_is_a_defect() {
        ErrorBody::new(ErrorCode::Stuck, "it is", " ");
    }
}
