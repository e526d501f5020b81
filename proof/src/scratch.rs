//! Where stores and images are made.

use std::path::Path;

use anyhow::Context;
use tempfile::TempDir;

/// A directory that is removed when it is dropped: below the one that was chosen, or `TMPDIR`, or in
/// memory if there is room for so many bytes. A flush costs nothing there, so that more is tried in the
/// same time.
pub(crate) fn directory(chosen: Option<&Path>, room: u64) -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let has_room =
        || rustix::fs::statvfs(memory).is_ok_and(|found| found.f_bavail * found.f_frsize >= room);
    let parent = match chosen {
        Some(chosen) => chosen.to_path_buf(),
        None if std::env::var_os("TMPDIR").is_none() && has_room() => memory.to_path_buf(),
        None => std::env::temp_dir(),
    };
    let made = tempfile::Builder::new()
        .prefix("larder-proof-")
        .tempdir_in(&parent);
    made.with_context(|| format!("make a directory in {}", parent.display()))
}
