//! Numbers and times as people read them. Pure; used by every view.

use deployd_api::ids::Timestamp;
use jiff::tz::TimeZone;

/// `498 kB`, `2.1 MB`, `31 GB`: decimal, for files and disks.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes as f64, 1000.0, &["B", "kB", "MB", "GB", "TB"])
}

/// `611 M`, `1.0 G`: binary, for memory.
pub(crate) fn memory(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "K", "M", "G", "T"])
}

fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would round to 1000 of the smaller unit.
    while value >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    // Below a thousand of them, nobody reads tenths.
    if unit < 2 || value >= 9.95 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// `2 ms`, `0.3 s`, `58 s`, `2m05s`.
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..100 => format!("{ms} ms"),
        100..20_000 => format!("{:.1} s", ms as f64 / 1000.0),
        20_000..60_000 => format!("{} s", ms / 1000),
        _ => up(ms),
    }
}

/// `41s`, `5m10s`, `2h04m`, `3d02h`.
pub(crate) fn up(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// `1,214`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub(crate) fn plural(n: u64, word: &str) -> String {
    format!("{} {word}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `web1 web2 web3`, or `12 hosts` when nobody would read them all.
pub(crate) fn names(hosts: &[&str]) -> String {
    const READ: usize = 4;
    if hosts.len() <= READ { hosts.join(" ") } else { plural(hosts.len() as u64, "host") }
}

/// The current moment.
pub(crate) fn now() -> Timestamp {
    Timestamp(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
}

fn local(at: Timestamp) -> jiff::Zoned {
    let moment = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.unwrap_or_default().to_zoned(TimeZone::system())
}

/// `14:37:10`.
pub(crate) fn clock(at: Timestamp) -> String {
    local(at).strftime("%H:%M:%S").to_string()
}

/// `14:37:10.120`.
pub(crate) fn clock_ms(at: Timestamp) -> String {
    local(at).strftime("%H:%M:%S%.3f").to_string()
}

/// `14:32` today, `Tue 14:32` in the last week, else `12 Nov`.
pub(crate) fn since(at: Timestamp) -> String {
    day(at, "")
}

/// As [`since`], with the word `today`.
pub(crate) fn when(at: Timestamp) -> String {
    day(at, "today ")
}

fn day(at: Timestamp, today: &str) -> String {
    let (then, now) = (local(at), local(now()));
    let days = (now.date() - then.date()).get_days();
    let form = match days {
        0 => format!("{today}%H:%M"),
        1..=6 => "%a %H:%M".to_owned(),
        _ if then.year() == now.year() => "%-d %b".to_owned(),
        _ => "%-d %b %Y".to_owned(),
    };
    then.strftime(&form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        for (n, want) in
            [(0, "0 B"), (999, "999 B"), (498_000, "498 kB"), (999_900, "1.0 MB"), (31_000_000_000, "31 GB")]
        {
            assert_eq!(size(n), want);
        }
        assert_eq!((memory(1 << 30), memory(611 << 20)), ("1.0 G".into(), "611 M".into()));
        for (ms, want) in [(2, "2 ms"), (300, "0.3 s"), (58_400, "58 s"), (125_000, "2m05s")] {
            assert_eq!(took(ms), want);
        }
        assert_eq!((up(7_440_000), up(266_400_000)), ("2h04m".into(), "3d02h".into()));
        assert_eq!(
            (count(1), count(1214), count(1_000_000)),
            ("1".into(), "1,214".into(), "1,000,000".into())
        );
    }
}
