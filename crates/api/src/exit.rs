//! The exit codes of `deployd-ctl`. They are an API: scripts and CI depend on them.

use serde::{Deserialize, Serialize};

/// How a run of ctl ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ExitCode {
    /// Every host that was asked is live on the release, or there was nothing to do.
    Ok = 0,
    /// A defect of ours.
    Internal = 1,
    /// A wrong command line or spec.
    Usage = 2,
    /// Refused before anything was touched.
    Refused = 3,
    /// The deployment undid itself; the old release serves.
    RolledBack = 4,
    /// A person is needed; the output says what to do.
    Stuck = 5,
    /// Some hosts were unreachable or held.
    Partial = 6,
    /// Another deployment holds the lease.
    LeaseHeld = 7,
    /// Not authorized, or TLS failed.
    Unauthorized = 8,
    /// `doctor` found something.
    Findings = 10,
    /// Ctrl-C: detached, the hosts go on.
    Detached = 130,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl ExitCode {
    /// Every code with its meaning, in the order of the numbers.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "live on every host that was asked, or nothing to do"),
        (Self::Internal, "a defect of deployd"),
        (Self::Usage, "wrong command line or spec"),
        (Self::Refused, "refused, nothing touched"),
        (Self::RolledBack, "rolled back; the old release serves"),
        (Self::Stuck, "stuck: a person is needed, the output says what to do"),
        (Self::Partial, "some hosts unreachable or held"),
        (Self::LeaseHeld, "another deployment holds the lease"),
        (Self::Unauthorized, "not authorized, or TLS failed"),
        (Self::Findings, "`doctor` found something"),
        (Self::Detached, "detached by Ctrl-C; the hosts go on"),
    ];
}
