//! The two clocks: the wall's for people, the boot's for deadlines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deployd_api::ids::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Now, by the wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since boot, suspended time included; it never jumps.
pub fn up_ms() -> u64 {
    let Ok(t) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    Duration::from(t).as_millis().try_into().unwrap_or(u64::MAX)
}
