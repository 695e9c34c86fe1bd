//! The clock of all samples and windows.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: one clock for this process, its threads and every host on this kernel.
pub fn monotonic_ns() -> u64 {
    // The call cannot fail for this clock; 0 would show at once as an absurd window.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
