//! Error codes, and the body of every refused call and failed deployment.

use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;

/// What went wrong, what it means, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// An error without details.
    pub fn new(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            subject: None,
            causes: Vec::new(),
            hint: hint.into(),
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
    ($(#[doc = $doc:literal] $variant:ident = $text:literal, $status:literal, $exit:ident, $retry:literal;)+) => {
        /// Stable codes. Each has one HTTP status and one exit code of ctl.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        }
    };
}

codes! {
    /// A defect of ours.
    Internal = "internal", 500, Internal, false;
    /// The request is not of the route's form.
    BadRequest = "bad_request", 400, Usage, false;
    /// The spec is wrong.
    SpecInvalid = "spec_invalid", 400, Usage, false;
    /// The manifest or a file is not acceptable.
    ArtifactInvalid = "artifact_invalid", 400, Usage, false;
    /// Content was sent that does not have the digest it claims.
    DigestMismatch = "digest_mismatch", 400, Refused, true;
    /// Files of the artifact have not been sent.
    UploadIncomplete = "upload_incomplete", 409, Refused, true;
    /// No such app on this host.
    AppNotFound = "app_not_found", 404, Usage, false;
    /// No such release on this host.
    ReleaseNotFound = "release_not_found", 404, Usage, false;
    /// No such deployment on this host.
    DeploymentNotFound = "deployment_not_found", 404, Usage, false;
    /// No such route.
    NotFound = "not_found", 404, Usage, false;
    /// The caller may not do this.
    Forbidden = "forbidden", 403, Unauthorized, false;
    /// The certificate of the caller, or of the host, is missing, expired, revoked or of another fleet.
    CertificateInvalid = "certificate_invalid", 401, Unauthorized, false;
    /// Too many calls at once from one caller.
    RateLimited = "rate_limited", 429, Partial, true;
    /// The lease that the call was made under is not held any more.
    LeaseLost = "lease_lost", 409, LeaseHeld, true;
    /// The label is another release's on this host.
    NumberTaken = "number_taken", 409, Refused, true;
    /// The host is not as it was when the plan was made.
    PlanStale = "plan_stale", 409, Refused, true;
    /// A secret that the spec names is not set, or not in the version that the release has.
    SecretMissing = "secret_missing", 409, Refused, false;
    /// A value cannot be sealed or opened on this host.
    SecretUnreadable = "secret_unreadable", 500, Internal, false;
    /// The migration failed.
    MigrateFailed = "migrate_failed", 409, RolledBack, false;
    /// The build on the caller's own machine failed.
    BuildFailed = "build_failed", 409, Usage, false;
    /// `fleet.toml` is wrong, or names no such host.
    FleetInvalid = "fleet_invalid", 400, Usage, false;
    /// A host could not be added to the fleet, which is as before.
    HostNotAdded = "host_not_added", 409, Refused, true;
    /// No such rollout on this host.
    RolloutNotFound = "rollout_not_found", 404, Usage, false;
    /// Some hosts are live on the release and others are not.
    Partial = "partial", 409, Partial, true;
    /// Another deployment of the app runs.
    LeaseHeld = "lease_held", 409, LeaseHeld, true;
    /// This release undid itself before.
    ReleaseBad = "release_bad", 409, Refused, false;
    /// The call does not fit the app's state: nothing to roll back to, already stopped.
    WrongState = "wrong_state", 409, Refused, false;
    /// Not enough memory for the old and the new release together.
    MemoryLow = "memory_low", 507, Refused, true;
    /// Not enough disk for the release and the reserve.
    DiskLow = "disk_low", 507, Refused, true;
    /// A port is held by something that is not this app.
    PortTaken = "port_taken", 409, Refused, false;
    /// A user, folder or unit of that name exists and is not ours.
    NameTaken = "name_taken", 409, Refused, false;
    /// The program cannot run as the spec asks.
    WillNotRun = "will_not_run", 409, Refused, false;
    /// The candidate ended or never became ready.
    StartFailed = "start_failed", 409, RolledBack, false;
    /// The candidate did not pass a check.
    CheckFailed = "check_failed", 409, RolledBack, false;
    /// The host restarted before the commit.
    Rebooted = "rebooted", 409, RolledBack, true;
    /// A person asked to undo it.
    Aborted = "aborted", 409, RolledBack, false;
    /// A step failed for a reason of the host.
    StepFailed = "step_failed", 409, RolledBack, true;
    /// An undo failed.
    Stuck = "stuck", 409, Stuck, false;
    /// The agent does not answer.
    AgentUnreachable = "agent_unreachable", 503, Partial, true;
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
}
