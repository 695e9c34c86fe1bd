//! Certificates of hosts that end soon. Pure.

use deployd_api::fleet::CertificateInfo;
use deployd_api::ids::Timestamp;

use crate::human;

/// From when on people are told.
pub(crate) const SOON_DAYS: i64 = 14;

/// Whole days until it ends; negative when it has ended.
pub(crate) fn days_left(certificate: &CertificateInfo, now: Timestamp) -> i64 {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    (certificate.not_after.0 as i64 - now.0 as i64).div_euclid(DAY_MS)
}

/// `ends in 6 days`, `ended 2 days ago`.
pub(crate) fn in_words(days: i64) -> String {
    match days {
        0 => "ends today".to_owned(),
        1.. => format!("ends in {}", human::plural(days.unsigned_abs(), "day")),
        ..0 => format!("ended {} ago", human::plural(days.unsigned_abs(), "day")),
    }
}

/// A text for each end, hosts of the same together.
pub(crate) fn ending<'a>(
    hosts: impl Iterator<Item = (&'a str, &'a CertificateInfo)>,
    now: Timestamp,
) -> Vec<String> {
    let mut ends: Vec<(i64, Vec<&str>)> = Vec::new();
    for (host, certificate) in hosts {
        let days = days_left(certificate, now);
        if days >= SOON_DAYS {
            continue;
        }
        match ends.iter_mut().find(|(other, _)| *other == days) {
            Some((_, hosts)) => hosts.push(host),
            None => ends.push((days, vec![host])),
        }
    }
    ends.sort();
    ends.iter().map(|(days, hosts)| format!("that of {} {}", human::names(hosts), in_words(*days))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_that_are_near_are_told_the_nearest_first() {
        let day = 24 * 3600 * 1000_u64;
        let now = Timestamp(1000 * day);
        let certificate = |days: i64| CertificateInfo {
            serial: "00".into(),
            not_before: Timestamp(0),
            not_after: Timestamp((1000 + days) as u64 * day + day / 2),
        };
        let all = [
            ("web1", certificate(88)),
            ("web2", certificate(6)),
            ("web3", certificate(-3)),
            ("web4", certificate(6)),
        ];
        let found = ending(all.iter().map(|(h, c)| (*h, c)), now);
        assert_eq!(found, ["that of web3 ended 3 days ago", "that of web2 web4 ends in 6 days"]);
        assert_eq!((in_words(0), in_words(1)), ("ends today".into(), "ends in 1 day".into()));
    }
}
