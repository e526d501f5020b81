//! Waits that end: by a timeout, at once, by cancellation; and what a waiter is told.

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(_role: &str, _args: &[&str]) -> bool {
    false
}
