//! What a host cannot find about itself: whether it is reached, what its clock, certificate and version are to the
//! caller. Pure.

use deployd_api::ids::Timestamp;
use deployd_api::status::{Finding, Severity};

use super::Seen;
use crate::certificates::{SOON_DAYS, days_left, in_words};
use crate::commands::heard::Heard;
use crate::human;

/// Checks of ours, by the codes of what they find, as they are listed when they pass.
pub(super) const CHECKS: &[(&str, &str)] = &[
    ("unreachable", "reach"),
    ("clock_skew", "clocks"),
    ("certificate_ends", "certificates"),
    ("agent_skew", "versions"),
];

/// How far clocks may be apart: times of a fleet are shown side by side.
const CLOCK_MAX_MS: u64 = 5_000;

/// What is wrong with a host as we see it.
pub(super) fn findings(heard: &Heard<Seen>, now: Timestamp) -> Vec<Finding> {
    let seen = match &heard.answer {
        Ok(seen) => seen,
        Err(error) => {
            let causes = error.causes.iter().map(|(_, text)| text.as_str());
            let what = std::iter::once(error.message.as_str()).chain(causes).collect::<Vec<_>>().join("; ");
            let code = if heard.trouble() == Some("no answer") { "unreachable" } else { error.code.as_str() };
            return vec![finding(Severity::Error, code, &what, &error.hint)];
        }
    };
    let clock = seen.met.as_ref().and_then(|met| clock(met.clock_ms));
    let certificate = seen.met.as_ref().and_then(|met| met.info.certificate.as_ref());
    let certificate = certificate.and_then(|c| self::certificate(days_left(c, now), &heard.host));
    let version = version(&seen.report.agent, env!("CARGO_PKG_VERSION"));
    [clock, certificate, version].into_iter().flatten().collect()
}

fn finding(severity: Severity, code: &str, what: &str, next: &str) -> Finding {
    Finding {
        severity,
        code: code.to_owned(),
        subject: String::new(),
        what: what.to_owned(),
        next: next.to_owned(),
    }
}

fn clock(ahead_ms: i64) -> Option<Finding> {
    (ahead_ms.unsigned_abs() > CLOCK_MAX_MS).then(|| {
        let side = if ahead_ms > 0 { "before" } else { "behind" };
        let what = format!("its clock is {} {side} yours", human::up(ahead_ms.unsigned_abs()));
        finding(Severity::Warn, "clock_skew", &what, "set the one that is wrong: timedatectl set-ntp true")
    })
}

fn certificate(days: i64, host: &str) -> Option<Finding> {
    let severity = match days {
        ..0 => Severity::Error,
        0..SOON_DAYS => Severity::Warn,
        _ => return None,
    };
    let what = format!("the host's certificate {}", in_words(days));
    Some(finding(severity, "certificate_ends", &what, &format!("deployd-ctl pki renew {host}")))
}

/// Releases of one minor version fit together whatever their last number.
fn version(agent: &str, ctl: &str) -> Option<Finding> {
    let minor = |version: &str| version.splitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    (minor(agent) != minor(ctl)).then(|| {
        let what = format!("the agent is {agent}, this deployd-ctl is {ctl}");
        let next = "install the same version of both packages: apps serve on while an agent is upgraded";
        finding(Severity::Warn, "agent_skew", &what, next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        let code = |f: Option<Finding>| f.map(|f| (f.severity, f.what));
        assert_eq!(code(clock(5_000)), None);
        assert_eq!(code(clock(-3_600_000)), Some((Severity::Warn, "its clock is 1h00m behind yours".into())));
        assert_eq!(code(certificate(14, "web1")), None);
        for (days, severity) in [(13, Severity::Warn), (0, Severity::Warn), (-1, Severity::Error)] {
            assert_eq!(code(certificate(days, "web1")).unwrap().0, severity, "{days}");
        }
        for (agent, ctl, fits) in
            [("0.3.1", "0.3.0", true), ("0.2.4", "0.3.0", false), ("1.3.0", "0.3.0", false)]
        {
            assert_eq!(version(agent, ctl).is_none(), fits, "{agent} {ctl}");
        }
    }
}
