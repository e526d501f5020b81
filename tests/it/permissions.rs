//! Who may read and write what was published: umasks, groups, other users, read-only stores.

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(_role: &str, _args: &[&str]) -> bool {
    false
}
