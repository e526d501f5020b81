//! When a use of an entry is worth writing down.
//!
//! Pure but for the clock. Invariant: on overlayfs, and in a store opened read-only, never.

use std::time::{Duration, SystemTime};

use crate::root::Root;
use crate::sys::clock;

/// A time further ahead than this is from a clock that was wrong.
const FUTURE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether an entry whose last use was recorded at `recorded` and that is used now needs a new
/// record.
pub(crate) fn is_due(root: &Root, recorded: SystemTime) -> bool {
    // A touch on overlayfs would copy the whole file up from the lower layer.
    !root.options.read_only
        && !root.file_system.overlay
        && is_stale(recorded, clock::now(), root.options.touch_after)
}

pub(crate) fn is_stale(recorded: SystemTime, now: SystemTime, touch_after: Duration) -> bool {
    match now.duration_since(recorded) {
        Ok(age) => age >= touch_after,
        Err(ahead) => ahead.duration() > FUTURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_far_future_records_are_renewed() {
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        assert!(!is_stale(now - hour / 2, now, hour));
        assert!(is_stale(now - hour, now, hour));
        assert!(is_stale(now, now, Duration::ZERO));
        assert!(!is_stale(now + hour, now, hour));
        assert!(is_stale(now + 25 * hour, now, hour));
    }
}
